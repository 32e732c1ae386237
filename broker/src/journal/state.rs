//! The state that the journal's writer and its users share: the ring, what is durable, and what is
//! asked for.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hpfeeds::{log::ReaderSource, wire::extension::Position};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, watch};

use super::{figures::Figures, ring::Ring};

/// The writer looks at the queue so often when nobody waits: what is younger dies with the process.
const LINGER: Duration = Duration::from_millis(2);
/// So much in the queue, and the writer does not wait for more.
const HURRY: usize = 256 << 10;

/// The writer stays awake for so long after a turn when the next request tends to follow at once: to
/// be woken takes as long as half a sync does.
const VIGIL: Duration = Duration::from_micros(100);
/// Vigils in vain before the writer sleeps at once, and turns until it tries again.
const VAIN: u32 = 4;
const PAUSE: u32 = 64;

/// The decision whether the writer stays awake for a moment between two turns: where publishers
/// wait for one message before they send the next, but not for those that come now and then.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    /// Vigils in vain since the last one that was not.
    vain: u32,
    /// Turns without a vigil.
    paused: u32,
}

impl Vigil {
    /// Whether to stay awake now.
    fn begin(&mut self) -> bool {
        if self.vain < VAIN {
            return true;
        }
        self.paused += 1;
        if self.paused < PAUSE {
            return false;
        }
        self.paused = 0;
        true
    }

    /// Somebody asked for something during a vigil, or nobody did.
    fn end(&mut self, was_asked: bool) {
        self.vain = if was_asked { 0 } else { (self.vain + 1).min(VAIN) };
    }
}

/// The condition of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// It holds as much as it may, all of it is wanted, and it may drop nothing: what waits in the
    /// queue waits for room.
    Full,
    /// The file system is full, and nothing may be dropped.
    NoSpace,
    /// Two writes or syncs have failed: nothing more is stored until the broker is started again.
    Failed,
    /// It was closed, and everything that was appended is durable.
    Closed,
}

impl Health {
    /// The condition in a word or two.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Full => "full",
            Self::NoSpace => "no space",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }

    /// Whether nothing more becomes durable.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Closed)
    }
}

/// The fate of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) durable: Position,
    pub(crate) health: Health,
}

/// The shared state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    pub(super) wake: Condvar,
    pub(super) progress: watch::Sender<Progress>,
    /// The newest position that may be read.
    pub(super) readable: watch::Sender<Position>,
    /// The queue has become shorter.
    pub(super) room: Notify,
    pub(super) figures: Figures,
    pub(super) readers: ReaderSource,
    /// Readers of the file at once.
    pub(super) permits: Arc<Semaphore>,
}

/// The part behind the lock.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "what its users have asked for and what has become of it")]
pub(super) struct Inner {
    pub(super) ring: Ring,
    /// Somebody waits until this is durable.
    pub(super) wanted: Position,
    /// The writer is to take a turn at once.
    pub(super) is_urgent: bool,
    pub(super) is_closing: bool,
    /// The queue waits for room on the disk.
    pub(super) is_blocked: bool,
    /// Nothing more is taken.
    pub(super) has_failed: bool,
}

impl Shared {
    /// Lets mailboxes see what may be read.
    pub(super) fn announce(&self, readable: Position) {
        self.readable.send_if_modified(|old| {
            let is_newer = readable > *old;
            *old = (*old).max(readable);
            is_newer
        });
    }

    /// Asks the writer to make this durable at once.
    pub(super) fn want(&self, position: Position) {
        let mut inner = self.inner.lock();
        if position > inner.wanted {
            inner.wanted = position;
            inner.is_urgent = true;
            self.wake.notify_one();
        }
    }

    /// The writer's sleep between two turns: at most so long. Returns whether the journal is to be
    /// closed.
    pub(super) fn sleep(&self, most: Duration, vigil: &mut Vigil) -> bool {
        let mut inner = self.inner.lock();
        let is_due = |inner: &Inner| inner.is_urgent || inner.is_closing;
        let most = most.max(LINGER);
        if !is_due(&inner) && vigil.begin() {
            let start = Instant::now();
            while !is_due(&inner) && start.elapsed() < VIGIL {
                // The others have their turn, also where there is one processor only.
                MutexGuard::unlocked(&mut inner, thread::yield_now);
            }
            vigil.end(is_due(&inner));
        }
        if !is_due(&inner) {
            // Appends come in bursts, and one write for all of them costs less.
            self.wake.wait_while_for(&mut inner, |inner| !is_due(inner), LINGER);
        }
        if !is_due(&inner) {
            let is_idle = |inner: &mut Inner| !is_due(inner) && (inner.is_blocked || inner.ring.pending_bytes() == 0);
            self.wake.wait_while_for(&mut inner, is_idle, most.saturating_sub(LINGER));
        }
        inner.is_urgent = false;
        inner.is_closing
    }

    /// Wakes the writer after a push, if it sleeps: otherwise it comes within 2 ms.
    pub(super) fn pushed(&self, inner: &mut Inner, was_idle: bool) {
        inner.is_urgent |= inner.ring.pending_bytes() > HURRY && !inner.is_blocked;
        if was_idle || inner.is_urgent {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_stays_awake_while_that_helps_and_seldom_otherwise() {
        let mut vigil = Vigil::default();
        for _ in 0..1000 {
            assert!(vigil.begin());
            vigil.end(true);
        }
        // A turn each second, each of them alone.
        let mut vain = 0;
        for _ in 0..6400 {
            if vigil.begin() {
                vigil.end(false);
                vain += 1;
            }
        }
        assert_eq!(vain, 4 + 99);
        // One that helps is enough.
        while !vigil.begin() {}
        vigil.end(true);
        assert!(vigil.begin());
    }
}
