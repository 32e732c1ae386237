//! Slow-consumer detection: measures what a subscriber drains while publishers wait for it.
//!
//! ```text
//!            above the low mark               under the floor rate
//!            for a publisher                  for a window
//!  flowing ────────────────────▶ pressed ─────────────────────▶ slow ──▶ high mark: policy
//!     ▲     publishers wait       │   ▲      publishers do not  │ │
//!     │                           │   │      wait               │ │
//!     └──────── empty ────────────┘   └─ the floor rate for a ──┘ │
//!     │                                  window, or more          │
//!     └──────────────────────── at or below the low mark ─────────┘
//! ```
//!
//! *Pressed* is [`ConsumerState::KeepingUp`] with an open [`Window`].

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

use crate::delivery::policy::Rules;

/// The rate at which a subscriber takes messages, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ConsumerState {
    /// The floor rate or more.
    #[default]
    KeepingUp,
    /// Less than the floor rate, for longer than publishers may wait for it.
    Slow,
    /// All that it may: its writer waits because of a limit of the broker.
    RateLimited,
}

/// The detector of one subscriber.
#[derive(Debug, Default)]
pub(super) struct SlowConsumerDetector {
    pub(super) state: ConsumerState,
    /// The measurement under way, since a publisher found a backlog.
    window: Option<Window>,
    /// For how long the subscriber has still to drain the floor rate, while publishers have more,
    /// to prove that it reads. It begins with zero unless its allowance is used up then, and is at
    /// most [`Rules::proof`].
    unproven: Duration,
    /// The time in which publishers have waited in vain, not charged to the subscriber yet.
    uncharged: Option<Range<Instant>>,
}

/// The outcome of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The subscriber took less than the floor rate.
    Slow,
    /// A slow subscriber drained the floor rate, and has still to prove that it goes on.
    Reading { now: Instant },
    /// The subscriber drained the floor rate.
    KeepingUp,
}

/// A measurement of the rate at which a subscriber drains its outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    /// Bytes written since then.
    drained: usize,
    /// For how long publishers wait while the rate is below the floor.
    allowed: Duration,
    /// When to compute that again: other connections use the same allowance up.
    check: Instant,
}

impl SlowConsumerDetector {
    /// The detector of a subscriber whose allowance is used up: it has to prove that it reads.
    pub(super) fn unproven(rules: &Rules) -> Self {
        Self { unproven: rules.proof(), ..Self::default() }
    }

    /// A publisher finds a backlog: until when it waits, or `None` when publishers do not wait.
    /// `used` is how much of the allowance is used up.
    pub(super) fn on_backlog(
        &mut self,
        rules: &Rules,
        now: Instant,
        used: impl FnOnce() -> Duration,
    ) -> Option<Instant> {
        let window = self.window.get_or_insert(Window::new(now));
        if self.state == ConsumerState::Slow {
            return None;
        }
        if now >= window.check {
            window.allowed = allowed(rules, used(), self.unproven);
            window.check = now + rules.slice();
        }
        let until = window.check.min(window.start + rules.window);
        if window.elapsed(now) < window.allowed {
            return Some(until.min(window.start + window.allowed));
        }
        if !window.is_below(rules, now) {
            return Some(until);
        }
        self.end_window(rules, now);
        (self.window, self.state) = (Some(Window::new(now)), ConsumerState::Slow);
        None
    }

    /// So many bytes have been written, and so many are still queued. The clock is read only when a
    /// window may end.
    pub(super) fn on_sent(
        &mut self,
        bytes: usize,
        queued: usize,
        rules: &Rules,
        clock: impl FnOnce() -> Instant,
    ) -> Option<Judgement> {
        if let Some(window) = &mut self.window {
            window.drain(bytes);
        }
        let is_slow = self.state == ConsumerState::Slow;
        if is_slow && queued > rules.low_mark {
            return self.measure(rules, clock());
        }
        if self.window.is_some() && (is_slow || queued == 0) {
            self.end_window(rules, clock());
        }
        if is_slow {
            self.state = ConsumerState::KeepingUp;
        }
        None
    }

    /// Judges the subscriber, and begins another window, when one is over.
    pub(super) fn measure(&mut self, rules: &Rules, now: Instant) -> Option<Judgement> {
        self.window.filter(|window| window.elapsed(now) >= rules.window)?;
        let below = self.end_window(rules, now);
        self.window = Some(Window::new(now));
        if below {
            self.state = ConsumerState::Slow;
            return Some(Judgement::Slow);
        }
        if self.state == ConsumerState::Slow && !self.unproven.is_zero() {
            return Some(Judgement::Reading { now });
        }
        self.state = ConsumerState::KeepingUp;
        Some(Judgement::KeepingUp)
    }

    /// Ends the window, if there is one: whether the subscriber took less than the floor rate in
    /// it.
    pub(super) fn end_window(&mut self, rules: &Rules, now: Instant) -> bool {
        let Some(window) = self.window.take() else {
            return false;
        };
        let elapsed = window.elapsed(now);
        if !window.is_below(rules, now) {
            self.unproven = self.unproven.saturating_sub(elapsed.min(rules.window));
            return false;
        }
        if self.state != ConsumerState::Slow {
            // No publisher has waited in all of a much longer window: there may have been little to
            // drain.
            if elapsed >= 2 * rules.window {
                return false;
            }
            self.uncharged = Some(window.start..now);
        }
        self.unproven = rules.proof();
        true
    }

    /// The time in which publishers have waited in vain, to be charged once.
    pub(super) fn take_uncharged(&mut self) -> Option<Range<Instant>> {
        self.uncharged.take()
    }
}

/// For how long publishers wait for a subscriber that takes less than the floor rate, when its
/// ident and network have used up so much of their allowance.
fn allowed(rules: &Rules, used: Duration, unproven: Duration) -> Duration {
    let left = rules.window.saturating_sub(used);
    if !unproven.is_zero() {
        return left;
    }
    left.max((rules.window * 3 / 2).saturating_sub(used).min(rules.slice()))
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, drained: 0, allowed: Duration::ZERO, check: now }
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// So many bytes have been written.
    pub(super) fn drain(&mut self, bytes: usize) {
        self.drained += bytes;
    }

    /// Whether the rate is below the floor so far.
    pub(super) fn is_below(&self, rules: &Rules, now: Instant) -> bool {
        let rate = self.drained as u128 * 1_000_000 / self.elapsed(now).as_micros().max(1);
        rate < rules.floor_rate as u128
    }
}
