//! The keeper of cursors: the part of the journal that knows which messages somebody still wants,
//! asked before a segment goes.

use hpfeeds::log::LogError;

use super::{batch::Batch, options::Now};
use hpfeeds::wire::extension::Position;

/// The mailboxes, as the journal's writer sees them. All calls are the writer's.
pub(super) trait Keeper: Send {
    /// Whether somebody may still want a message after one position, up to another.
    fn wants(&self, after: Position, last: Position) -> bool;

    /// Counts what is lost with a batch that will be dropped.
    fn lose(&mut self, batch: &Batch);

    /// Everything up to here will be dropped: cursors go on to it.
    fn dropped(&mut self, last: Position);

    /// A batch is appended to the log.
    fn appended(&mut self, batch: &Batch) {
        let _ = batch;
    }

    /// Makes durable what must be before a batch is that was appended.
    fn before_sync(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// Makes durable what has changed.
    fn store(&mut self) -> Result<(), LogError>;

    /// Called at each turn of the writer with the position up to which all is durable, and the time
    /// by a clock that can be trusted: stores what has changed, at most once a second.
    fn turn(&mut self, durable: Position, now: Now, trusted: Option<i64>) -> Result<(), LogError>;
}

/// A journal without mailboxes.
#[cfg(test)]
impl Keeper for () {
    fn wants(&self, _: Position, _: Position) -> bool {
        false
    }

    fn lose(&mut self, _: &Batch) {}

    fn dropped(&mut self, _: Position) {}

    fn store(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn turn(&mut self, _: Position, _: Now, _: Option<i64>) -> Result<(), LogError> {
        Ok(())
    }
}
