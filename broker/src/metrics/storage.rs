//! The numbers of a data folder: of its journal, and of each mailbox.

use crate::metrics::latency::LatencyCounts;

/// The numbers of a data folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StorageCounts {
    pub(crate) bytes: u64,
    pub(crate) limit: u64,
    /// What the file system has left, in bytes.
    pub(crate) free: u64,
    /// The condition of the journal, as its state in the exposition.
    pub(crate) health: &'static str,
    pub(crate) syncs: LatencyCounts,
    /// Messages that should be stored and are not, by reason.
    pub(crate) not_stored: [(&'static str, u64); 3],
    pub(crate) mailboxes: Vec<MailboxCounts>,
}

/// The numbers of a mailbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MailboxCounts {
    /// `IDENT` or `IDENT/NAME`.
    pub(crate) name: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// The age of the oldest message that waits.
    pub(crate) oldest_ms: u64,
    pub(crate) attached: bool,
    pub(crate) stuck: bool,
    /// By reason.
    pub(crate) lost: Vec<(&'static str, u64)>,
    pub(crate) denied: u64,
}
