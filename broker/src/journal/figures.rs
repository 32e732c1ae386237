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
    failed: AtomicU64,
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

    /// The journal has failed: so many messages were appended and are not durable.
    pub(super) fn fail(&self, messages: u64) {
        self.failed.fetch_add(messages, Relaxed);
    }

    /// Messages that were appended and are not durable, as the journal has failed: at most so many are lost.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
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
