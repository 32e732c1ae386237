//! What is queued for a subscriber, and how fast it takes it.

use std::{mem, time::Duration};

use tokio::time::Instant;

use super::{OVERHEAD, Rules, leftover::Leftover, queue::Queue, reserve::Loan};

/// How often drops of one subscriber are logged.
pub(super) const REPORT: Duration = Duration::from_secs(10);

/// What the system may take for a subscriber that reads nothing: Linux holds up to 4 MiB of what is sent and 6 MiB of what
/// is received, unless it is told otherwise, and TLS and our writer less than one. Who has taken more than that has read.
pub(super) const SYSTEM: usize = 16 << 20;

/// One that has as little queued as the low mark for so long keeps nobody waiting.
pub(super) const CALM: Duration = Duration::from_secs(60);

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
    pub(super) pace: Pace,
    /// It is on probation: never healthy.
    pub(super) trial: Option<Trial>,
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
pub(super) enum Pace {
    /// The floor rate or more, as far as is known.
    #[default]
    Healthy,
    /// Less than the floor rate, or on probation.
    Slow,
    /// All that it may: the writer waits because of a limit of ours.
    Held,
}

/// Measures what a subscriber drains while publishers wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) drained: usize,
}

/// What a subscriber on probation has shown. It ends when one of these is true:
///
/// - with more than the low mark queued, it has drained the floor rate for a window, after a first one: in that, the
///   system fills its buffers, at any rate;
/// - it has drained more than the [`SYSTEM`] may have taken for it;
/// - it has stayed at or below the low mark for a [minute](CALM).
#[derive(Debug)]
pub(super) struct Trial {
    drained: usize,
    /// Since when there has been no more than the low mark, if that is so.
    calm_since: Option<Instant>,
    /// There has been more for a window.
    filled: bool,
}

#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) total: u64,
    logged: u64,
    last_log: Option<Instant>,
}

impl State {
    /// A publisher finds more queued than it should be. Whether this has ended a deadline.
    pub(super) fn press(&mut self, rules: &Rules, now: Instant) -> bool {
        if let Some(trial) = &mut self.trial {
            if trial.calm_since.is_some_and(|since| now >= since + CALM) {
                return self.pass();
            }
            if self.queued > rules.low_mark {
                trial.calm_since = None;
            }
        }
        self.measure(rules, now)
    }

    /// Judges the subscriber at the end of a window: whether it had a deadline, and has recovered.
    pub(super) fn measure(&mut self, rules: &Rules, now: Instant) -> bool {
        let Some(window) = &mut self.window else {
            return false;
        };
        let elapsed = now.saturating_duration_since(window.start);
        if elapsed < rules.window {
            return false;
        }
        let below = window.rate(elapsed) < rules.floor_rate as u128;
        *window = Window { start: now, drained: 0 };
        if let Some(trial) = &mut self.trial {
            return mem::replace(&mut trial.filled, true) && !below && self.pass();
        }
        // When it is much longer, nobody has waited meanwhile: there may have been little to drain.
        let slow = below && (self.pace == Pace::Slow || elapsed < 2 * rules.window);
        self.pace = if slow { Pace::Slow } else { Pace::Healthy };
        !slow && self.deadline.take().is_some()
    }

    /// Whether this has ended a deadline. The time has to be given on probation.
    pub(super) fn sent(&mut self, bytes: usize, pieces: usize, rules: &Rules, now: Option<Instant>) -> bool {
        self.queued -= bytes + pieces * OVERHEAD;
        self.pay_back(bytes);
        let calm = self.queued <= rules.low_mark;
        if let Some(trial) = &mut self.trial {
            trial.drained += bytes;
            if trial.drained > SYSTEM {
                return self.pass();
            }
            if calm {
                trial.filled = false;
                trial.calm_since = trial.calm_since.or(now);
                self.window = None;
            }
        }
        if self.queued == 0 {
            self.window = None;
        } else if let Some(window) = &mut self.window {
            window.drained += bytes;
        }
        if !calm {
            return false;
        }
        if self.pace == Pace::Slow && self.trial.is_none() {
            self.pace = Pace::Healthy;
        }
        self.deadline.take().is_some()
    }

    /// The end of probation: whether it had a deadline.
    fn pass(&mut self) -> bool {
        (self.trial, self.window) = (None, None);
        if self.pace == Pace::Slow {
            self.pace = Pace::Healthy;
        }
        self.deadline.take().is_some()
    }

    /// For how long publishers have waited for a subscriber that leaves and took too little: as long as can be when it is
    /// slow. On probation, who has little queued is not to blame.
    ///
    /// Less than a window is no verdict, but whoever always leaves before that would hold them up for ever.
    pub(super) fn held_up(&self, rules: &Rules, now: Instant) -> Duration {
        let much = self.queued > rules.low_mark;
        match (self.pace, self.window) {
            (Pace::Slow, _) if much || self.trial.is_none() => Duration::MAX,
            (Pace::Healthy, Some(window)) if much => {
                let elapsed = now.saturating_duration_since(window.start);
                // As in `measure`.
                let waited = elapsed < 2 * rules.window && window.rate(elapsed) < rules.floor_rate as u128;
                if waited { elapsed } else { Duration::ZERO }
            }
            _ => Duration::ZERO,
        }
    }
}

impl Window {
    /// In bytes per second.
    pub(super) fn rate(&self, elapsed: Duration) -> u128 {
        self.drained as u128 * 1_000_000 / elapsed.as_micros().max(1)
    }
}

impl Trial {
    pub(super) fn new(now: Instant) -> Self {
        Self { drained: 0, calm_since: Some(now), filled: false }
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
