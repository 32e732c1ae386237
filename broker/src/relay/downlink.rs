//! The downlink of a relay: what the parent publishes on some channels, handed to the subscribers of
//! this machine. It is never stored, so it never goes upwards.

use futures::StreamExt as _;
use hpfeeds::ClientSession;
use tracing::warn;

use crate::broker::Broker;

/// Hands the messages of a session to the subscribers of a broker, until the session ends.
pub(crate) async fn run(mut session: ClientSession, broker: &Broker) {
    while let Some((ident, channel, payload)) = session.next().await {
        if let Err(cause) = broker.deliver(&ident, &channel, &payload).await {
            warn!(%ident, %channel, %cause, "a message of the parent is not delivered: change --max-message");
        }
    }
}
