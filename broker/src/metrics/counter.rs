//! The two kinds of counters: one that many threads add to, and one with a single writer at a time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows. Any number of threads add to it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that one thread at a time changes and any thread reads. An addition takes no locked
/// instruction.
#[derive(Debug, Default)]
pub(super) struct SingleWriterCounter(AtomicU64);

impl SingleWriterCounter {
    pub(super) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    pub(super) fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
