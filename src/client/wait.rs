//! The wait for a message that satisfies a predicate, on any stream of messages.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::timeout;

use super::error::{Cause, Error};

/// The next item that satisfies `wanted`; `None` when the stream ends first. Items before it are let
/// go.
pub(super) async fn wait_for<S: Stream + Unpin>(
    stream: &mut S,
    mut wanted: impl FnMut(&S::Item) -> bool,
    limit: Duration,
) -> Result<Option<S::Item>, Error> {
    let search = async {
        loop {
            match stream.next().await {
                Some(item) if !wanted(&item) => {}
                found => return found,
            }
        }
    };
    // A limit that no clock can hold is none.
    timeout(limit, search).await.map_err(|_elapsed| Error::new(Cause::Timeout { after: limit }))
}
