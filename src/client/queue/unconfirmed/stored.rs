//! The unconfirmed messages of a session with a spool: streams that were stored, messages that are
//! durable, and numbers that are given up.

use super::{Answer, Unconfirmed};
use crate::{
    client::{
        error::Error,
        queue::{batch::Batch, waiter::Waiter},
    },
    wire::extension::StreamId,
};

impl Unconfirmed {
    /// A stream that an earlier start of the program has stored: what it has from `first` to `last`
    /// is replayed.
    pub(crate) fn stored(stream: StreamId, first: u64, last: u64) -> Self {
        let before = first.saturating_sub(1);
        Self {
            stream,
            stored: Some(last),
            settled: before,
            decided: before,
            written: before,
            sent: before,
            last: before,
            ..Self::default()
        }
    }

    /// The newest number that was given to a message.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the room of the queue from messages up to here, which are durable. They stay in memory
    /// until they are confirmed.
    pub(crate) fn take_room(&mut self, durable: u64) -> usize {
        let durable = self.batches.iter_mut().take_while(|batch| batch.last() <= Some(durable));
        durable.map(Batch::take_room).sum()
    }

    /// Answers those who wait until messages up to here are durable: that they are, or why they never
    /// will be.
    pub(crate) fn answer_stored(&mut self, to: u64, answer: &Result<(), Error>) {
        if self.storing == 0 {
            return;
        }
        for (number, waiter) in &mut self.waiters {
            if *number > to {
                return;
            }
            if matches!(waiter, Waiter::Stored(_)) {
                if let Waiter::Stored(stored) = std::mem::replace(waiter, Waiter::Told) {
                    self.storing -= 1;
                    drop(stored.send(answer.clone()));
                }
            }
        }
    }

    /// Gives up what is not settled of the numbers up to here, when nothing is unconfirmed: those
    /// who wait for them hear why. Returns how many these are.
    pub(crate) fn give_up_to(&mut self, to: u64, cause: &Error) -> u64 {
        debug_assert!(self.batches.is_empty(), "something is unconfirmed");
        let Some(lost) = to.checked_sub(self.settled).filter(|lost| *lost > 0) else { return 0 };
        let waiting = self.waiters.partition_point(|(number, _)| *number <= to);
        self.refused.retain(|range| *range.start() > to);
        self.totals.lost += lost;
        for (_, waiter) in self.waiters.drain(..waiting) {
            match waiter {
                Waiter::Barrier(barrier) => self.answers.push(Answer::Barrier(barrier, self.totals)),
                Waiter::Receipt(receipt) => self.answers.push(Answer::Receipt(receipt, Err(cause.clone()))),
                waiter => {
                    self.storing -= usize::from(matches!(waiter, Waiter::Stored(_)));
                    waiter.fail(cause.clone());
                }
            }
        }
        (self.settled, self.decided) = (to, self.decided.max(to));
        (self.written, self.last) = (self.written.max(to), self.last.max(to));
        lost
    }

    /// The batches, oldest first, each with its numbers.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }
}
