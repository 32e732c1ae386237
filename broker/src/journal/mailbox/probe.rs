//! The search for a message on which a collector crashes: sending again waits longer each time,
//! and from the third time on hands out less, until one message is left.

use std::time::Duration;

use hpfeeds::wire::extension::Position;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that lives so long is no crash on what it got first.
const LIVES: Duration = Duration::from_secs(60);
/// Messages after which a collector lives so long are not the ones.
const GOOD: Duration = Duration::from_secs(5);
/// Crashes in a row before less is handed out.
const PATIENCE: u32 = 3;

/// The search of one mailbox. It moves no cursor: only who asks for `skip` passes anything over.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Connections in a row that have ended without any progress.
    failures: u32,
    /// Nothing is handed out before.
    retry_at: Duration,
    /// So many messages are handed out beyond those that are known to be good.
    portion: Option<u64>,
    /// The collector has lived on after these.
    good: Position,
    /// The last message that was handed out before a crash.
    extent: Position,
    /// One message is left, and this is it.
    suspect: Option<Position>,
    /// The crashes on that one.
    crashes: u32,
    attempt: Attempt,
}

/// The connection that is served.
#[derive(Debug, Default)]
struct Attempt {
    /// When the first message was handed out.
    began: Option<Duration>,
    /// Messages beyond those that are known to be good: how many, the first and the last.
    sent: u64,
    first: Option<Position>,
    last: Position,
    /// All messages.
    all: u64,
    /// When the last was handed out.
    at: Duration,
    has_progress: bool,
}

/// The messages that may be handed out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    All,
    /// At most so many beyond a position, and as many as there are up to it.
    Some(u64, Position),
    /// None before this time.
    Until(Duration),
}

impl Probe {
    /// Another connection is served.
    pub(super) fn begin(&mut self) {
        self.attempt = Attempt::default();
    }

    /// The messages that may be handed out.
    pub(super) fn allowance(&mut self, now: Duration) -> Allowance {
        if now < self.retry_at {
            return Allowance::Until(self.retry_at);
        }
        let Some(portion) = self.portion else { return Allowance::All };
        if self.attempt.sent < portion {
            return Allowance::Some(portion - self.attempt.sent, self.good);
        }
        let good_at = self.attempt.at + GOOD;
        if now < good_at {
            return Allowance::Until(good_at);
        }
        // It lives: the message is not among these.
        self.good = self.attempt.last;
        (self.attempt.sent, self.attempt.first) = (0, None);
        (self.suspect, self.crashes) = (None, 0);
        if self.good >= self.extent {
            self.reset();
            return Allowance::All;
        }
        Allowance::Some(portion, self.good)
    }

    /// Messages were handed out, one of them at each of the positions.
    pub(super) fn sent(&mut self, first: Position, last: Position, now: Duration) {
        let messages = last.number - first.number + 1;
        let attempt = &mut self.attempt;
        attempt.all += messages;
        attempt.at = now;
        attempt.began.get_or_insert(now);
        if last <= self.good {
            return;
        }
        let beyond = if first > self.good { messages } else { last.number - self.good.number };
        attempt.sent += beyond;
        attempt.first.get_or_insert(Position::new(last.epoch, last.number + 1 - beyond));
        attempt.last = attempt.last.max(last);
    }

    /// A cursor has moved.
    pub(super) fn progress(&mut self) {
        self.attempt.has_progress = true;
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, now: Duration) {
        let attempt = std::mem::take(&mut self.attempt);
        if attempt.has_progress {
            self.reset();
            return;
        }
        let Some(began) = attempt.began else { return };
        // While less is handed out, all of it takes its time.
        let since = if self.portion.is_some() { attempt.at } else { began };
        if now >= since + LIVES {
            self.reset();
            return;
        }
        self.failures += 1;
        let doubled = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        self.retry_at = now + FIRST.saturating_mul(doubled).min(LONGEST);
        self.extent = self.extent.max(attempt.last);
        if self.failures < PATIENCE {
            return;
        }
        match attempt.first {
            Some(first) if attempt.sent == 1 => {
                self.crashes = if self.suspect == Some(first) { self.crashes + 1 } else { 1 };
                self.suspect = Some(first);
                self.portion = Some(1);
            }
            Some(_) => {
                self.suspect = None;
                self.portion = Some((attempt.sent / 2).max(1));
            }
            // It has crashed on those that were good before: they are not.
            None => {
                self.good = Position::NONE;
                self.portion = Some((attempt.all / 2).max(1));
            }
        }
    }

    fn reset(&mut self) {
        let attempt = std::mem::take(&mut self.attempt);
        *self = Self { attempt, ..Self::default() };
        // The rest of the attempt is judged anew.
        (self.attempt.sent, self.attempt.all, self.attempt.first) = (0, 0, None);
    }

    /// The message is passed over: the search is over.
    pub(super) fn skipped(&mut self) {
        self.reset();
    }

    /// The message on which the collector crashes, once it is found.
    pub(super) fn suspect(&self) -> Option<Position> {
        self.suspect
    }

    /// The crashes on that message alone.
    pub(super) fn crashes(&self) -> u32 {
        if self.suspect.is_some() { self.crashes } else { 0 }
    }

    /// Connections in a row that have ended without any progress.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}
