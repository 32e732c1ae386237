//! Looks at what was written to a connection and is still on its way.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep, sleep};

use super::link::Link;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// A peer that has everything in its buffers may take as long to read it as it took to send it, up to so many times the
/// silence that it is given otherwise.
const PATIENCE: u32 = 10;

/// Counts the bytes that the peer's system has acknowledged, and for how long it has acknowledged none. Where the
/// system does not tell, what is written counts as acknowledged.
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    /// Something is on its way. Otherwise nothing is looked at, and no timer runs.
    armed: bool,
    /// Bytes written, and those acknowledged at the last look.
    written: u64,
    acknowledged: u64,
    /// When `acknowledged` grew.
    progress: Instant,
    /// Since when something has been on its way.
    since: Instant,
    /// For how long the peer's system has answered nothing.
    pub(super) unanswered: Duration,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            timer: Box::pin(sleep(LOOK)),
            armed: false,
            written: 0,
            acknowledged: 0,
            progress: now,
            since: now,
            unanswered: Duration::ZERO,
        }
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        self.arm();
    }

    /// Begins to look.
    pub(super) fn arm(&mut self) {
        if !self.armed {
            self.armed = true;
            (self.since, self.progress) = (Instant::now(), Instant::now());
            self.timer.as_mut().reset(self.since + LOOK);
        }
    }

    /// Looks when it is time to; then says how many bytes more have been acknowledged. Goes on as long as something is
    /// on its way, or `waits` to be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, link: &Link, waits: bool) -> Option<u64> {
        if !self.armed || self.timer.as_mut().poll(cx).is_pending() {
            return None;
        }
        let status = link.status().unwrap_or_default();
        self.unanswered = status.unanswered;
        let acknowledged = self.written.saturating_sub(status.unacknowledged);
        let more = acknowledged.saturating_sub(self.acknowledged);
        if more > 0 {
            (self.acknowledged, self.progress) = (acknowledged, Instant::now());
        }
        self.armed = waits || self.acknowledged < self.written;
        if self.armed {
            self.timer.as_mut().reset(Instant::now() + LOOK);
            // It has just been set: this is for its waker.
            let _pending = self.timer.as_mut().poll(cx);
        }
        Some(more)
    }

    /// Whether nothing has been acknowledged for so long. When all is, and only to be read, it takes longer.
    pub(super) fn is_stalled(&self, silence: Duration) -> bool {
        let reading = if self.acknowledged < self.written { Duration::ZERO } else { self.progress - self.since };
        self.progress.elapsed() >= silence.saturating_add(reading.min(silence.saturating_mul(PATIENCE)))
    }
}
