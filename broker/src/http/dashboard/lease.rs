//! The lease of a connection to the dashboard: the time at which it ends unless a stream extends it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a connection lives in all; with a stream of events, how long its client may take nothing
/// of it. A stream has something to say every 15 s.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// The time at which a connection ends.
#[derive(Debug)]
pub(super) struct Lease {
    until: Mutex<Instant>,
    is_stream: AtomicBool,
}

impl Default for Lease {
    fn default() -> Self {
        Self { until: Mutex::new(Instant::now() + TIMEOUT), is_stream: AtomicBool::new(false) }
    }
}

impl Lease {
    pub(super) fn until(&self) -> Instant {
        *self.until.lock()
    }

    /// The connection lives for as long from now on.
    pub(super) fn extend(&self, time: Duration) {
        *self.until.lock() = Instant::now() + time;
    }

    /// Whether the connection carries a stream of events.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream.load(Relaxed)
    }

    /// Says whether it does.
    pub(super) fn set_stream(&self, is_stream: bool) {
        self.is_stream.store(is_stream, Relaxed);
    }
}
