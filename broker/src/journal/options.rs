//! The settings of the journal, and the two times that its parts are given.

use std::time::Duration;

/// The policy of a journal that holds as much as it may, all of it wanted by some mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JournalFull {
    /// The oldest segment goes; what mailboxes lose is counted.
    #[default]
    DropOldest,
    /// Nothing is appended until there is room.
    Wait,
}

/// The settings of a journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalOptions {
    /// All segments together, in bytes.
    pub(crate) max_bytes: u64,
    /// The age at which a segment goes, by a clock that can be trusted.
    pub(crate) max_age: Option<Duration>,
    /// How long an append waits for its sync when nobody asks.
    pub(crate) sync: Duration,
    /// The size at which a new segment is begun, in bytes.
    pub(crate) segment_bytes: u64,
    /// The bound of what waits for the disk, in bytes.
    pub(crate) queue_bytes: usize,
    /// The newest batches that stay in memory, in bytes.
    pub(crate) ring_bytes: usize,
    pub(crate) when_full: JournalFull,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            max_age: Some(Duration::from_secs(7 * 24 * 3600)),
            sync: Duration::from_secs(1),
            segment_bytes: 64 << 20,
            queue_bytes: 16 << 20,
            ring_bytes: 16 << 20,
            when_full: JournalFull::DropOldest,
        }
    }
}

/// A moment, by the two clocks of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Now {
    /// The monotonic clock: since any moment, the same for all.
    pub(crate) since: Duration,
    /// The clock on the wall, in milliseconds since 1970: never relied on without
    /// [`WallClock`](super::wall_clock::WallClock).
    pub(crate) unix_ms: i64,
}
