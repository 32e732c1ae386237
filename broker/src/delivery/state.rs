//! The state of an outbox: its queue, and the pressure that it has been under.

use std::{mem, time::Duration};

use tokio::time::Instant;

use crate::delivery::{
    leftover::Leftover,
    policy::Rules,
    queue::Queue,
    reserve::Loan,
    slow_consumer::{ConsumerState, Judgement, SlowConsumerDetector},
};

/// How often drops of one subscriber are logged.
pub(super) const REPORT: Duration = Duration::from_secs(10);

/// How often the incidents are told of drops of one subscriber.
const TELL: Duration = Duration::from_secs(1);

/// The fields behind the lock of an outbox.
#[derive(Default)]
pub(super) struct OutboxState {
    pub(super) queue: Queue,
    /// The cost of the batches in the queue, and of those that the writer has taken but not yet
    /// written, in bytes with overhead.
    pub(super) queued: usize,
    pub(super) closed: bool,
    /// The writer waits for something to write.
    pub(super) idle: bool,
    /// `None` until a publisher has found no room here, or the writer was held back by a rate
    /// limit: most outboxes never have it.
    pub(super) pressure: Option<Box<Pressure>>,
}

/// The part of the state that only an outbox needs whose subscriber does not take everything at
/// once.
#[derive(Default)]
pub(super) struct Pressure {
    pub(super) detector: SlowConsumerDetector,
    /// When the subscriber is disconnected for being slow.
    pub(super) deadline: Option<Instant>,
    pub(super) drops: Drops,
    /// The batches that were queued when the connection ended and are not counted yet.
    pub(super) leftover: Option<Box<Leftover>>,
    /// The only batch is a loan from the reserve.
    pub(super) loan: Option<Box<Loan>>,
    /// The outbox is on the list of borrowers.
    pub(super) is_listed: bool,
}

/// The drops of one subscriber, in messages.
#[derive(Debug, Default)]
pub(super) struct Drops {
    pub(super) total: u64,
    logged: u64,
    last_log: Option<Instant>,
    /// Not told to the incidents yet, and when some were last.
    untold: u64,
    told: Option<Instant>,
}

/// Whether a batch may be queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// It takes a loan from the reserve. The outbox has to be put on the list of borrowers if it is
    /// `unlisted`.
    Lent {
        unlisted: bool,
    },
    /// The subscriber keeps up, and has enough: the publisher waits until then.
    AfterWait(Instant),
    /// The reserve has no room now: the publisher calls loans in, and waits.
    AfterCallIn,
    /// The reserve has no room for a subscriber whose ident has been slow: loans are called in, and
    /// the batch is dropped.
    Exhausted,
    /// The policy gives it no room.
    None,
}

impl OutboxState {
    pub(super) fn consumer(&self) -> ConsumerState {
        self.pressure.as_ref().map_or(ConsumerState::KeepingUp, |pressure| pressure.detector.state)
    }

    pub(super) fn pressure(&mut self) -> &mut Pressure {
        self.pressure.get_or_insert_default()
    }
}

impl Pressure {
    /// So many bytes have been written, and so many are still queued. Whether this ends a deadline.
    pub(super) fn on_sent(
        &mut self,
        bytes: usize,
        queued: usize,
        rules: &Rules,
        clock: impl FnOnce() -> Instant,
    ) -> bool {
        if queued == 0 {
            self.loan = None;
        } else if let Some(loan) = &mut self.loan {
            loan.drain(bytes);
        }
        let judgement = self.detector.on_sent(bytes, queued, rules, clock);
        self.judge(judgement, rules) || queued <= rules.low_mark && self.deadline.take().is_some()
    }

    /// Measures the rate when a window is over. Whether this ends a deadline.
    pub(super) fn measure(&mut self, rules: &Rules, now: Instant) -> bool {
        let judgement = self.detector.measure(rules, now);
        self.judge(judgement, rules)
    }

    fn judge(&mut self, judgement: Option<Judgement>, rules: &Rules) -> bool {
        match judgement {
            Some(Judgement::KeepingUp) => self.deadline.take().is_some(),
            Some(Judgement::Reading { now }) => {
                // It gets more time.
                self.deadline = self.deadline.map(|_| now + rules.deadline);
                false
            }
            Some(Judgement::Slow) | None => false,
        }
    }

    /// Whether the connection has to end at once, as others need the room that it does not give
    /// back.
    pub(super) fn is_called_in(&self) -> bool {
        self.loan.as_ref().is_some_and(|loan| loan.is_called_in())
    }
}

impl Drops {
    /// Counts messages. Returns how many there were since the last time that it returned any: at
    /// most once in [`REPORT`].
    pub(super) fn count(&mut self, messages: u64, now: Instant) -> Option<u64> {
        self.total += messages;
        if self.last_log.is_some_and(|last| now < last + REPORT) {
            return None;
        }
        self.last_log = Some(now);
        Some(self.total - mem::replace(&mut self.logged, self.total))
    }

    /// Messages that the incidents have not been told of, at most once in [`TELL`].
    pub(super) fn tell(&mut self, messages: u64, now: Instant) -> Option<u64> {
        self.untold += messages;
        if self.told.is_some_and(|told| now < told + TELL) {
            return None;
        }
        self.told = Some(now);
        Some(self.take_untold())
    }

    /// The messages that the incidents have not been told of, at an end.
    pub(super) fn take_untold(&mut self) -> u64 {
        mem::take(&mut self.untold)
    }
}
