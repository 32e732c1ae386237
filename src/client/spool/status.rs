//! The status of a spool, in figures, and its news.

use std::time::Duration;

use super::error::SpoolError;

/// The figures of a spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStatus {
    /// The bytes of its files.
    pub bytes: u64,
    /// The messages in it that are not released, at most: those that are damaged are among them
    /// until they are read.
    pub messages: u64,
    /// How long ago the oldest of them was accepted, if a clock knows.
    pub oldest: Option<Duration>,
    /// How long there have been messages in it without a break.
    pub since: Option<Duration>,
    /// Messages that cannot be read any more, or not be sent, since the program has started.
    pub damaged: u64,
    /// Messages that were dropped for room, since the program has started.
    pub dropped: u64,
    /// Why its disk cannot be used at the moment.
    pub failing: Option<SpoolError>,
    /// Whether it holds as much as it may.
    pub is_full: bool,
}

/// The news of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpoolNews {
    /// It was opened, and holds so many messages of earlier programs.
    Opened {
        /// At most so many.
        messages: u64,
    },
    /// The first message since it was empty is on disk.
    Spooling,
    /// Everything in it is released.
    Drained,
    /// The disk fails, or the spool cannot be used at all. Said once, until it works again.
    Failing(SpoolError),
    /// The disk works again.
    Recovered,
    /// So many more messages cannot be read, or not be sent.
    Damaged(u64),
    /// So many more messages were dropped for room.
    Dropped(u64),
    /// It holds as much as it may.
    Full,
}
