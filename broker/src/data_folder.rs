//! The data folder of a broker at its start and end: opening it, saying what was found there, and
//! closing it.

use std::{io, sync::Arc, time::Duration};

use hpfeeds::wire::extension::NodeId;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::{
    error::StartError,
    journal::{setup::Setup, store::Store},
};

/// How long the last sync of the data folder may take at a shutdown: together with the longest drain
/// less than a supervisor waits for.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// An identifier for a broker without a data folder.
pub(crate) fn random_node() -> Result<NodeId, StartError> {
    let mut node = [0; 16];
    getrandom::fill(&mut node).map_err(|cause| StartError::Random(io::Error::other(cause)))?;
    Ok(NodeId::new(node))
}

/// Opens the store of the data folder, if there is one, and says what was found there that an
/// operator has to know.
pub(crate) async fn open(setup: Setup) -> Result<Option<(Store, NodeId)>, StartError> {
    if setup.dir.is_none() {
        return Ok(None);
    }
    // The lock may be waited for, and the last segment is read.
    let opening = tokio::task::spawn_blocking(move || setup.open());
    let opened = opening.await.map_err(|cause| StartError::DataDir(cause.to_string()))?;
    let opened = opened.map_err(StartError::DataDir)?;
    if let Some((store, _)) = &opened {
        let (report, found) = (&store.report, &store.opened);
        if report.is_lost {
            warn!("the cursors of the mailboxes are gone: mailboxes begin at the oldest stored message");
        }
        for name in &report.foreign {
            warn!(mailbox = %name, "its cursors are of another journal: it begins at the oldest stored message");
        }
        if report.damaged > 0 {
            warn!(
                records = report.damaged,
                "records of cursors are damaged: mailboxes begin at the newest that are not"
            );
        }
        for file in &found.bad {
            warn!(%file, "a file of the journal cannot be read, and is set aside");
        }
        let (segments, mailboxes) = (found.segments, store.mailboxes.names().len());
        info!(segments, mailboxes, streams = report.known.len(), "the store is open");
    }
    Ok(opened)
}

/// Closes the store: everything that was appended is durable then, and the cursors are stored.
pub(crate) async fn close(store: Arc<Store>) {
    let closing = tokio::task::spawn_blocking(move || store.close());
    match timeout(CLOSE_TIMEOUT, closing).await {
        Ok(Ok(true)) => {}
        Ok(_) => error!("the journal has failed: what was not confirmed since then may be lost"),
        Err(_) => error!("the disk of the data folder does not answer: what was not confirmed may be lost"),
    }
}
