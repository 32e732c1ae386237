//! The figures of the journal's disk: its bytes, what the file system has left, and its syncs, as the
//! writer sees them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::latency::Latency;

/// The figures, which the writer sets.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    bytes: AtomicU64,
    free: AtomicU64,
    limit: AtomicU64,
    /// The syncs of the disk.
    pub(crate) syncs: Latency,
}

impl Figures {
    /// All segments together, in bytes; `free` is what the file system has left, where it tells.
    pub(super) fn set(&self, bytes: u64, free: Option<u64>, limit: u64) {
        self.bytes.store(bytes, Relaxed);
        self.limit.store(limit, Relaxed);
        if let Some(free) = free {
            self.free.store(free, Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The bytes that the file system had left at the last look.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// The most bytes that may be stored.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }
}
