//! The unconfirmed messages: batches that are written and not yet decided, their stream numbers, and
//! who waits for them.
//!
//! Numbers are counted in the order of the stream: a message gets its number when it is first
//! written whole (or stored), and keeps it when it is sent again. Decided messages are settled from
//! the front: its publishers hear of it, its memory and its room in the queue are free.

#[cfg(feature = "spool")]
mod stored;

use std::{collections::VecDeque, ops::RangeInclusive};

use tokio::{sync::oneshot, time::Instant};

use super::{batch::Batch, waiter::Waiter};
use crate::{
    client::{
        error::{Cause, Error},
        receipt::{Flushed, Receipt},
    },
    wire::extension::{Level, StreamId},
};

/// How much is settled at a time: batches and waiters, each some tens of nanoseconds.
const SETTLE_BUDGET: usize = 4096;

/// The way in which the current connection confirms a message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nothing: what is written whole is done with.
    #[default]
    Nothing,
    /// ACK, at this level.
    Acks(Level),
    /// The broker's end of stream after ours.
    Eof,
}

/// A number from the broker above everything that was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeverSent;

/// The messages that are written whole and not decided, and the numbers of the stream.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    stream: StreamId,
    /// The last number of a stream that an earlier start of the program has stored.
    stored: Option<u64>,
    keeping: Keeping,
    /// In the order of their numbers, without a gap.
    batches: VecDeque<Batch>,
    /// Messages and bytes of these.
    messages: u64,
    bytes: usize,
    /// The waiters, by number, in order; for a barrier, the number of the message before it. Also of
    /// numbered messages that are not here.
    waiters: VecDeque<(u64, Waiter)>,
    /// How many of them wait until their message is durable.
    #[cfg(feature = "spool")]
    storing: usize,
    /// All numbers up to here are settled.
    settled: u64,
    /// All numbers up to here are decided.
    decided: u64,
    /// The newest number that is written whole, to this connection or, between connections, to any.
    written: u64,
    /// The newest number that was ever written whole.
    sent: u64,
    /// The newest number that was given to a message.
    last: u64,
    /// Numbers above `settled` that were refused, in order and never touching.
    refused: VecDeque<RangeInclusive<u64>>,
    totals: Flushed,
    /// Messages that were written whole again.
    resent: u64,
    /// The answers that are still to be told: when the figures say the same.
    answers: Vec<Answer>,
}

/// The answer to somebody who has waited.
#[derive(Debug)]
enum Answer {
    Receipt(oneshot::Sender<Result<Receipt, Error>>, Result<Receipt, Error>),
    Barrier(oneshot::Sender<Result<Flushed, Error>>, Flushed),
}

impl Unconfirmed {
    // ---- numbers ----

    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// The number of the oldest message that is not settled, or of the next one.
    pub(crate) fn next(&self) -> u64 {
        self.settled + 1
    }

    /// The newest number that was ever written to a socket.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The newest number that is written whole.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Gives a batch its numbers, unless it has them: the next ones of the stream.
    pub(crate) fn number(&mut self, batch: &mut Batch) {
        if batch.number().is_some() {
            return;
        }
        let first = self.last + 1;
        for (index, waiter) in batch.give_number(first) {
            let number = first + u64::from(index);
            let number = if matches!(waiter, Waiter::Barrier(_)) { number - 1 } else { number };
            #[cfg(feature = "spool")]
            if matches!(waiter, Waiter::Stored(_)) {
                self.storing += 1;
            }
            self.waiters.push_back((number, waiter));
        }
        self.last += u64::from(batch.messages());
    }

    /// Adds a barrier behind everything that has a number.
    pub(crate) fn push_barrier(&mut self, barrier: Waiter) {
        self.waiters.push_back((self.last, barrier));
        if self.last == self.settled {
            self.settle_to(self.settled);
        }
    }

    // ---- a connection ----

    /// Sets the way in which the connection that begins now confirms.
    pub(crate) fn keep(&mut self, keeping: Keeping) {
        self.keeping = keeping;
    }

    pub(crate) fn keeping(&self) -> Keeping {
        self.keeping
    }

    /// The broker has decided messages up to here: of a stream that an earlier start of the program
    /// has stored, that start had sent them, and some of them may have been refused.
    pub(crate) fn note_decided_before(&mut self, decided: u64) {
        if let Some(last) = self.stored {
            self.sent = self.sent.max(decided.min(last));
        }
    }

    /// The broker's HELLO says what is decided. Everything after it must be written again, and is
    /// returned.
    ///
    /// Fails, and changes nothing, when the number is above all that was sent: then it is about
    /// another stream. Of one that was stored by an earlier start of the program, all may be decided.
    pub(crate) fn resume(&mut self, decided: u64) -> Result<VecDeque<Batch>, NeverSent> {
        let decided = match self.stored {
            Some(last) => decided.min(last),
            None if decided > self.sent => return Err(NeverSent),
            None => decided,
        };
        self.decided = self.decided.max(decided).max(self.settled);
        Ok(self.take_back())
    }

    /// Takes back the batches that are not decided, to be written again.
    pub(crate) fn take_back(&mut self) -> VecDeque<Batch> {
        self.written = self.decided;
        // The broker has forgotten what it refused above that: it decides once more.
        while let Some(last) = self.refused.pop_back() {
            if *last.start() <= self.decided {
                self.refused.push_back(*last.start()..=(*last.end()).min(self.decided));
                break;
            }
        }
        let whole = self.batches.partition_point(|batch| batch.last() <= Some(self.decided));
        let mut back = self.batches.split_off(whole);
        if let Some(first) = back.front_mut() {
            if let Some(decided) = first.number().and_then(|number| (self.decided + 1).checked_sub(number)) {
                if let Some(done) = first.split_messages(u32::try_from(decided).unwrap_or(u32::MAX)) {
                    self.batches.push_back(done);
                }
            }
        }
        for batch in &back {
            self.messages -= u64::from(batch.messages());
            self.bytes -= batch.len();
        }
        back
    }

    /// Begins a new stream, of which nothing has been sent: the numbers go on.
    pub(crate) fn renew(&mut self, stream: StreamId) {
        self.stream = stream;
        (self.decided, self.written, self.sent) = (self.settled, self.settled, self.settled);
    }

    /// Before a connection that acknowledges nothing: what was written twice without an answer is
    /// taken for delivered, and nobody says so. Returns how many messages these are.
    pub(crate) fn assume(&mut self) -> u64 {
        let assumed = self.batches.iter().take_while(|batch| batch.is_assumed());
        let (last, messages) = assumed.fold((0, 0), |(last, messages), batch| {
            (batch.last().unwrap_or(last), messages + u64::from(batch.messages()))
        });
        self.decided = self.decided.max(last);
        messages
    }

    /// Takes a batch that is written whole. It comes back when nothing will confirm it.
    pub(crate) fn push(&mut self, mut batch: Batch) -> Option<Batch> {
        self.number(&mut batch);
        self.resent += batch.mark_sent(self.keeping == Keeping::Eof);
        self.written = batch.last().unwrap_or_default();
        self.sent = self.sent.max(self.written);
        if self.keeping == Keeping::Nothing {
            self.decided = self.written;
            self.settle_to(self.written);
            return Some(batch);
        }
        self.messages += u64::from(batch.messages());
        self.bytes += batch.len();
        self.batches.push_back(batch);
        None
    }

    // ---- what the broker says ----

    /// Everything up to this number is decided. An older number than before says nothing new.
    pub(crate) fn ack(&mut self, number: u64) -> Result<(), NeverSent> {
        if number > self.written {
            return Err(NeverSent);
        }
        self.decided = self.decided.max(number);
        Ok(())
    }

    /// Everything that is written is decided.
    pub(crate) fn ack_written(&mut self) {
        self.decided = self.decided.max(self.written);
    }

    /// Whether everything that is written is decided.
    pub(crate) fn is_decided(&self) -> bool {
        self.decided >= self.written
    }

    /// These messages were refused. They count when they are decided; their publishers hear of it
    /// soon. Returns how many it is news of.
    ///
    /// Fails when some of them were never sent.
    pub(crate) fn refuse(&mut self, first: u64, count: u32, cause: &Error) -> Result<u64, NeverSent> {
        let end = first.saturating_add(u64::from(count));
        if end > self.sent.saturating_add(1) {
            return Err(NeverSent);
        }
        // Ranges come in order: what is said again is no news.
        let known = self.refused.back().map_or(self.settled, |last| *last.end());
        let first = first.max(known + 1);
        if first >= end {
            return Ok(0);
        }
        match self.refused.back_mut() {
            Some(last) if *last.end() + 1 == first => *last = *last.start()..=end - 1,
            _ => self.refused.push_back(first..=end - 1),
        }
        let from = self.waiters.partition_point(|(number, _)| *number < first);
        for (number, waiter) in self.waiters.range_mut(from..) {
            if *number >= end {
                break;
            }
            // Others are about more than whether it was refused.
            if !matches!(waiter, Waiter::Receipt(_)) {
                continue;
            }
            if let Waiter::Receipt(receipt) = std::mem::replace(waiter, Waiter::Told) {
                self.answers.push(Answer::Receipt(receipt, Err(cause.clone())));
            }
        }
        Ok(end - first)
    }

    /// The next message is not sent: its publisher hears why, and it counts as refused.
    pub(crate) fn give_up(&mut self, number: u64, cause: &Error) {
        self.sent = self.sent.max(number);
        if self.refuse(number, 1, cause).is_ok() {
            (self.decided, self.written) = (self.decided.max(number), self.written.max(number));
        }
    }

    /// Settles some of what is decided: `done` gets the batches, and [`answer`](Self::answer) tells
    /// the publishers. True when there is more.
    pub(crate) fn settle(&mut self, mut done: impl FnMut(Batch)) -> bool {
        let mut budget = SETTLE_BUDGET;
        while let Some(last) = self.batches.front().and_then(Batch::last) {
            if last <= self.decided {
                budget = budget.saturating_sub(1 + self.settle_to(last));
                self.pop(&mut done);
            } else {
                break;
            }
            if budget == 0 {
                return self.settled < self.decided;
            }
        }
        if self.settled < self.decided {
            if let Some(first) = self.batches.front_mut() {
                if let Some(decided) = first.number().and_then(|number| (self.decided + 1).checked_sub(number)) {
                    if let Some(part) = first.split_messages(u32::try_from(decided).unwrap_or(u32::MAX)) {
                        self.batches.push_front(part);
                        self.pop(&mut done);
                    }
                }
            }
            self.settle_to(self.decided);
        }
        false
    }

    fn pop(&mut self, done: &mut impl FnMut(Batch)) {
        if let Some(batch) = self.batches.pop_front() {
            self.messages -= u64::from(batch.messages());
            self.bytes -= batch.len();
            done(batch);
        }
    }

    /// Has an answer for everyone who waits for messages up to here; says how many these are.
    fn settle_to(&mut self, to: u64) -> usize {
        let waiting = self.waiters.partition_point(|(number, _)| *number <= to);
        for _ in 0..waiting {
            let Some((number, waiter)) = self.waiters.pop_front() else {
                break;
            };
            match waiter {
                Waiter::Receipt(receipt) => {
                    let answer = self.receipt(number);
                    self.answers.push(Answer::Receipt(receipt, answer));
                }
                Waiter::Barrier(barrier) => {
                    self.count_to(number);
                    self.answers.push(Answer::Barrier(barrier, self.totals));
                }
                #[cfg(feature = "spool")]
                Waiter::Stored(stored) => {
                    self.storing -= 1;
                    drop(stored.send(Ok(())));
                }
                Waiter::Told => {}
            }
        }
        self.count_to(to);
        waiting
    }

    /// The newest number that the broker has decided.
    pub(crate) fn decided(&self) -> u64 {
        self.decided
    }

    fn receipt(&self, number: u64) -> Result<Receipt, Error> {
        match self.keeping {
            Keeping::Nothing => Err(Error::new(Cause::NotConfirmable { written: true })),
            Keeping::Acks(level) => Ok(Receipt::new(self.stream, number, level)),
            Keeping::Eof => Ok(Receipt::new(self.stream, number, Level::ROUTED)),
        }
    }

    /// Counts messages up to here as settled.
    fn count_to(&mut self, to: u64) {
        let Some(settled) = to.checked_sub(self.settled) else {
            return;
        };
        let mut refused = 0;
        while let Some(range) = self.refused.front_mut() {
            let (first, last) = (*range.start(), *range.end());
            if first > to {
                break;
            }
            refused += last.min(to) + 1 - first;
            if last > to {
                *range = to + 1..=last;
                break;
            }
            self.refused.pop_front();
        }
        self.settled = to;
        self.totals.refused += refused;
        let others = settled - refused;
        match self.keeping {
            Keeping::Nothing => self.totals.unconfirmed += others,
            Keeping::Acks(_) | Keeping::Eof => self.totals.confirmed += others,
        }
    }

    // ---- figures, and the end ----

    /// Messages and bytes that are written and not settled.
    pub(crate) fn waiting(&self) -> (u64, usize) {
        (self.messages, self.bytes)
    }

    /// Counts messages that were dropped before they were sent.
    pub(crate) fn lose(&mut self, messages: u64) {
        self.totals.lost += messages;
    }

    /// The fates of everything that is settled.
    pub(crate) fn totals(&self) -> Flushed {
        self.totals
    }

    /// How many messages were written whole again.
    pub(crate) fn resent(&self) -> u64 {
        self.resent
    }

    /// When the oldest of them was accepted.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.batches.front().map(Batch::since)
    }

    /// Tells everyone whose message is settled. One that has gone costs nothing.
    pub(crate) fn answer(&mut self) {
        for answer in self.answers.drain(..) {
            match answer {
                Answer::Receipt(receipt, answer) => drop(receipt.send(answer)),
                Answer::Barrier(barrier, flushed) => drop(barrier.send(Ok(flushed))),
            }
        }
    }

    /// The session is over: those who wait hear it, and whether their message was written.
    pub(crate) fn end(&mut self, why: &Error) {
        self.answer();
        for (number, waiter) in self.waiters.drain(..) {
            waiter.end(number <= self.sent, why);
        }
        self.batches.clear();
        (self.messages, self.bytes) = (0, 0);
    }
}
