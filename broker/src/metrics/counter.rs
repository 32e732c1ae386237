//! A counter that many threads add to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows; many threads add to it.
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
