//! Stalls: publishers that wait for subscribers, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::metrics::{counter::Counter, latency::nanos};

/// Counts stalled publishers, and the time that stalls have taken.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    now: AtomicI64,
    nanos: Counter,
}

impl Stalls {
    /// A publisher waits for subscribers until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Stall {
        self.now.fetch_add(1, Relaxed);
        Stall { stalls: self.clone(), since: Instant::now() }
    }

    pub(super) fn counts(&self) -> StallCounts {
        StallCounts { now: self.now.load(Relaxed), nanos: self.nanos.get() }
    }
}

/// A stalled publisher. A guard: the stall ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stall {
    stalls: Arc<Stalls>,
    since: Instant,
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.stalls.now.fetch_sub(1, Relaxed);
        self.stalls.nanos.add(nanos(self.since.elapsed()));
    }
}

/// Stalls at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StallCounts {
    /// Publishers that are stalled.
    pub(super) now: i64,
    /// Nanoseconds that the stalls before have taken together.
    pub(super) nanos: u64,
}
