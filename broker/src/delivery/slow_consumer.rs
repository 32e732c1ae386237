//! What is queued for a subscriber, and how fast it takes it.

use std::{mem, ops::Range, time::Duration};

use tokio::time::Instant;

use crate::delivery::{
    context::Rules,
    leftover::Leftover,
    queue::{OVERHEAD, Queue},
    reserve::Loan,
};

/// How often drops of one subscriber are logged.
pub(super) const REPORT: Duration = Duration::from_secs(10);

/// What is behind the lock of an outbox.
#[derive(Default)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// The cost of what is in the queue and of what the writer has taken but not yet written.
    pub(super) queued: usize,
    pub(super) closed: bool,
    /// The writer waits for something to write.
    pub(super) idle: bool,
    pub(super) window: Option<Window>,
    pub(super) consumer: ConsumerState,
    /// For how long it has drained the floor rate while publishers had more, since it last took less: at most
    /// [`Rules::proof`], which it also begins with unless the allowance is used up then.
    pub(super) proof: Duration,
    /// Publishers have waited for it meanwhile, and it took too little: not charged yet.
    pub(super) in_vain: Option<Range<Instant>>,
    pub(super) deadline: Option<Instant>,
    pub(super) drops: Drops,
    /// What was queued when the connection ended and is not counted yet.
    pub(super) leftover: Option<Box<Leftover>>,
    /// The only batch is a loan from the reserve.
    pub(super) loan: Option<Box<Loan>>,
    /// It is among the borrowers.
    pub(super) is_listed: bool,
}

/// What a subscriber takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ConsumerState {
    /// The floor rate or more, as far as is known.
    #[default]
    KeepingUp,
    /// Less than the floor rate, for longer than publishers may wait for it.
    Slow,
    /// All that it may: the writer waits because of a limit of ours.
    RateLimited,
}

/// Measures what a subscriber drains while publishers wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) drained: usize,
    /// For how long they wait while it drains less than the floor rate.
    allowed: Duration,
    /// When to look again how long that is: other connections have a part in it.
    check: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) total: u64,
    logged: u64,
    last_log: Option<Instant>,
}

impl Rules {
    /// How often a publisher that waits looks whether it has to wait on, and how long one waits in vain for a subscriber
    /// that has shown that it reads, when no more of the allowance is left.
    pub(super) fn slice(&self) -> Duration {
        (self.window / 4).max(Duration::from_nanos(1))
    }

    /// For how long a subscriber has to drain the floor rate to show that it reads: in the first window, the system fills
    /// its buffers, at any rate.
    pub(super) fn proof(&self) -> Duration {
        2 * self.window
    }

    /// For how long publishers wait for a subscriber that takes less than the floor rate, when its ident and address have
    /// used up so much.
    fn allowed(&self, used: Duration, proof: Duration) -> Duration {
        let left = self.window.saturating_sub(used);
        if proof < self.proof() {
            return left;
        }
        left.max((self.window * 3 / 2).saturating_sub(used).min(self.slice()))
    }
}

impl State {
    /// A publisher finds more queued than it should be: until when it waits, or `None` when nobody does. `used` is how much
    /// of the allowance is used up.
    pub(super) fn on_backlog(
        &mut self,
        rules: &Rules,
        now: Instant,
        used: impl FnOnce() -> Duration,
    ) -> Option<Instant> {
        let window = self.window.get_or_insert(Window::new(now));
        if self.consumer == ConsumerState::Slow {
            return None;
        }
        if now >= window.check {
            window.allowed = rules.allowed(used(), self.proof);
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
        (self.window, self.consumer) = (Some(Window::new(now)), ConsumerState::Slow);
        None
    }

    /// Judges the subscriber at the end of a window: whether it had a deadline, and has recovered.
    pub(super) fn measure(&mut self, rules: &Rules, now: Instant) -> bool {
        if self.window.is_none_or(|window| window.elapsed(now) < rules.window) {
            return false;
        }
        let below = self.end_window(rules, now);
        self.window = Some(Window::new(now));
        if below {
            self.consumer = ConsumerState::Slow;
            return false;
        }
        if self.consumer == ConsumerState::Slow && self.proof < rules.proof() {
            // It reads.
            self.deadline = self.deadline.map(|_| now + rules.deadline);
            return false;
        }
        self.consumer = ConsumerState::KeepingUp;
        self.deadline.take().is_some()
    }

    /// Ends a window: whether the subscriber took too little in it.
    pub(super) fn end_window(&mut self, rules: &Rules, now: Instant) -> bool {
        let Some(window) = self.window.take() else {
            return false;
        };
        let elapsed = window.elapsed(now);
        if !window.is_below(rules, now) {
            self.proof = (self.proof + elapsed.min(rules.window)).min(rules.proof());
            return false;
        }
        if self.consumer != ConsumerState::Slow {
            // When it is much longer, nobody has waited meanwhile: there may have been little to drain.
            if elapsed >= 2 * rules.window {
                return false;
            }
            self.in_vain = Some(window.start..now);
        }
        self.proof = Duration::ZERO;
        true
    }

    /// Whether this has ended a deadline. The time has to be given when it is slow, and at the end of a window, which is
    /// when nothing is left.
    pub(super) fn sent(&mut self, bytes: usize, pieces: usize, rules: &Rules, now: Option<Instant>) -> bool {
        self.queued -= bytes + pieces * OVERHEAD;
        self.pay_back(bytes);
        if let Some(window) = &mut self.window {
            window.drained += bytes;
        }
        let mut recovered = false;
        if let Some(now) = now {
            if self.queued == 0 || self.queued <= rules.low_mark && self.consumer == ConsumerState::Slow {
                self.end_window(rules, now);
            } else {
                recovered = self.measure(rules, now);
            }
        }
        if self.queued <= rules.low_mark {
            if self.consumer == ConsumerState::Slow {
                self.consumer = ConsumerState::KeepingUp;
            }
            recovered |= self.deadline.take().is_some();
        }
        recovered
    }
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, drained: 0, allowed: Duration::ZERO, check: now }
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    /// Whether it is less than the floor rate so far.
    pub(super) fn is_below(&self, rules: &Rules, now: Instant) -> bool {
        let rate = self.drained as u128 * 1_000_000 / self.elapsed(now).as_micros().max(1);
        rate < rules.floor_rate as u128
    }
}

impl Drops {
    /// How many there were since the last time that this said so.
    pub(super) fn count(&mut self, messages: u64, now: Instant) -> Option<u64> {
        self.total += messages;
        if self.last_log.is_some_and(|last| now < last + REPORT) {
            return None;
        }
        self.last_log = Some(now);
        Some(self.total - mem::replace(&mut self.logged, self.total))
    }
}
