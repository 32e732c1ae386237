//! The batches and control frames that are being written to the socket.

#[cfg(feature = "spool")]
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{
    batch::{Batch, OutgoingBatch},
    dropping::drop_oldest,
    retain::{Removed, retain},
    unconfirmed::Unconfirmed,
    waiter::Waiter,
};
use crate::client::error::Error;

/// Pieces of memory that are kept for the next batches: what the processor has in its cache.
pub(crate) const SPENT: usize = 2;

/// The messages and bytes that a write completed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of the queue that are free again: nothing will confirm them.
    pub(crate) room: usize,
    /// Bytes of messages that nothing will confirm.
    pub(crate) published_bytes: usize,
    /// Messages that are now with the operating system, whole.
    pub(crate) messages: u64,
    /// Bytes of all kinds.
    pub(crate) bytes: usize,
    /// There was something of a message among them.
    pub(crate) published: bool,
}

/// The batches being written, and how far into the first one the socket has got.
///
/// It outlives connections. [`rewind`](Self::rewind) turns the frame that a broken connection cut
/// in two into a whole frame again, so that the next connection starts at a frame boundary. A message
/// that is written whole goes to [`Unconfirmed`], which says what must be written again.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    batches: VecDeque<OutgoingBatch>,
    /// Messages and bytes of `batches` and `kept`.
    unsent: (u64, usize),
    /// The messages that are written whole.
    pub(crate) unconfirmed: Unconfirmed,
    /// Bytes of the first batch that are written.
    offset: usize,
    /// Batches that are not for this connection any more.
    kept: VecDeque<OutgoingBatch>,
    /// Memory of batches that are written, for the next ones.
    spent: Vec<BytesMut>,
}

impl InFlight {
    /// Whether there is something to write; with `control_only`, before the first message.
    pub(crate) fn has_next(&self, control_only: bool) -> bool {
        match self.batches.front() {
            Some(OutgoingBatch::Control(_)) => true,
            Some(_) => !control_only,
            None => false,
        }
    }

    /// Whether control frames wait that [`push_control`](Self::push_control) has put there.
    pub(crate) fn holds_control(&self) -> bool {
        // One message may be partly written before them.
        self.batches.iter().take(2).any(|batch| matches!(batch, OutgoingBatch::Control(_)))
    }

    /// Puts control frames before all messages but one that is partly written.
    pub(crate) fn push_control(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let started = usize::from(self.offset > 0);
        let controls = self.batches.iter().skip(started).take_while(|s| matches!(s, OutgoingBatch::Control(_))).count();
        self.batches.insert(started + controls, OutgoingBatch::Control(bytes));
    }

    /// Puts control frames after everything.
    pub(crate) fn push_last(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.batches.push_back(OutgoingBatch::Control(bytes));
        }
    }

    /// Puts batches behind everything that is here.
    pub(crate) fn append(&mut self, batches: &mut VecDeque<OutgoingBatch>) {
        for batch in &*batches {
            self.count(batch.messages(), batch.weight());
        }
        // What is held back comes before them, on this connection or the next.
        let last = if self.kept.is_empty() { &mut self.batches } else { &mut self.kept };
        last.append(batches);
    }

    /// Puts messages that must be written again before all others.
    pub(crate) fn put_back(&mut self, again: VecDeque<Batch>) {
        let controls = self.batches.iter().take_while(|batch| matches!(batch, OutgoingBatch::Control(_))).count();
        let mut rest = self.batches.split_off(controls);
        for batch in again {
            self.count(batch.messages().into(), batch.len());
            self.batches.push_back(OutgoingBatch::Messages(batch));
        }
        self.batches.append(&mut rest);
    }

    /// Adds barriers behind everything that is here or written.
    pub(crate) fn push_barriers(&mut self, barriers: Vec<Waiter>) {
        for barrier in barriers {
            let last =
                self.kept.iter_mut().rev().chain(self.batches.iter_mut().rev()).find_map(OutgoingBatch::batch_mut);
            match last {
                Some(batch) if batch.number().is_none() => batch.push_barrier(barrier),
                // The last one that has a number is the newest that has one.
                _ => self.unconfirmed.push_barrier(barrier),
            }
        }
    }

    fn count(&mut self, messages: u64, bytes: usize) {
        self.unsent = (self.unsent.0 + messages, self.unsent.1 + bytes);
    }

    fn uncount(&mut self, messages: u64, bytes: usize) {
        self.unsent = (self.unsent.0 - messages, self.unsent.1 - bytes);
    }

    /// Memory of batches that are written whole, if nobody else holds on to it.
    pub(crate) fn reuse(&mut self) -> Option<BytesMut> {
        self.spent.pop()
    }

    /// The bytes that are left to write, for one vectored write; with `control_only`, up to the
    /// first message. Returns how many slices were filled.
    pub(crate) fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>], control_only: bool) -> usize {
        let mut filled = 0;
        let mut skip = self.offset;
        let batches = self.batches.iter().take_while(|s| !control_only || matches!(s, OutgoingBatch::Control(_)));
        let parts = batches.flat_map(|batch| match batch {
            OutgoingBatch::Control(bytes) => [bytes.as_ref(), &[]],
            OutgoingBatch::Messages(batch) => batch.parts().map(Bytes::as_ref),
        });
        // The first part may be written already, or some of it.
        for part in parts {
            if filled == slices.len() {
                break;
            }
            if skip < part.len() {
                slices[filled] = IoSlice::new(&part[skip..]);
                filled += 1;
                skip = 0;
            } else {
                skip -= part.len();
            }
        }
        filled
    }

    /// Notes that the socket took `n` more bytes.
    pub(crate) fn advance(&mut self, n: usize) -> Written {
        let mut written = Written { bytes: n, ..Written::default() };
        self.offset += n;
        while let Some(first) = self.batches.front() {
            if self.offset < first.len() {
                break;
            }
            self.offset -= first.len();
            if let Some(OutgoingBatch::Messages(batch)) = self.batches.pop_front() {
                self.wrote(batch, &mut written);
            }
        }
        written.published = written.messages > 0 || (self.offset > 0 && !self.has_next(true));
        written
    }

    /// Notes that a batch is written whole.
    fn wrote(&mut self, batch: Batch, written: &mut Written) {
        self.uncount(batch.messages().into(), batch.len());
        written.messages += u64::from(batch.messages());
        if let Some(done) = self.unconfirmed.push(batch) {
            written.room += done.room();
            written.published_bytes += done.len();
            recycle(&mut self.spent, done);
        }
    }

    /// Splits what is written whole off the batch that is being written, so that it can be decided.
    pub(crate) fn split_written(&mut self) -> Written {
        let mut written = Written::default();
        if let Some(OutgoingBatch::Messages(batch)) = self.batches.front_mut() {
            if let Some(whole) = batch.split_ended(self.offset) {
                self.offset -= whole.len();
                self.wrote(whole, &mut written);
            }
        }
        written
    }

    /// Settles some of what the broker has decided. Returns how many bytes of the queue are free
    /// again, and whether there is more to settle.
    pub(crate) fn settle(&mut self) -> (usize, bool) {
        let mut room = 0;
        let more = self.unconfirmed.settle(|batch| {
            room += batch.room();
            recycle(&mut self.spent, batch);
        });
        (room, more)
    }

    /// Keeps everything for the next connection but the rest of a frame that is partly written.
    /// Returns what had been written whole before it.
    pub(crate) fn part(&mut self) -> Written {
        self.split_begun();
        let mut rest = self.batches.split_off(usize::from(self.offset > 0).min(self.batches.len()));
        rest.append(&mut self.kept);
        self.kept = rest;
        // It may have been at the end of a frame.
        self.advance(0)
    }

    /// Prepares for another connection: drops every control frame, and keeps all that is not
    /// written whole.
    pub(crate) fn rewind(&mut self) -> Written {
        self.batches.append(&mut self.kept);
        let written = self.split_written();
        self.offset = 0;
        self.batches.retain(|batch| !matches!(batch, OutgoingBatch::Control(_)));
        written
    }

    /// Takes out the messages that `refusal` gives a reason against, by channel and length; for use
    /// while no message is partly written, as after [`rewind`](Self::rewind). Numbered ones stay.
    pub(crate) fn retain(&mut self, refusal: impl FnMut(&str, usize) -> Option<Error>) -> Removed {
        debug_assert!(self.offset == 0 || self.has_next(true), "a frame that is partly written must be finished");
        let (removed, barriers) = retain(&mut self.batches, refusal);
        self.uncount(removed.messages, removed.room);
        self.push_barriers(barriers);
        removed
    }

    /// Splits the frames that are written, or begun, off those behind them.
    fn split_begun(&mut self) {
        if let Some(OutgoingBatch::Messages(batch)) = self.batches.front_mut() {
            if self.offset > 0 {
                if let Some(begun) = batch.split_begun(self.offset) {
                    self.batches.push_front(OutgoingBatch::Messages(begun));
                }
            }
        }
    }

    /// Takes so many bytes of the oldest messages out that were never sent. Their room is for the caller
    /// to release.
    pub(crate) fn drop_oldest(&mut self, bytes: usize) -> Removed {
        self.split_begun();
        let begun = usize::from(self.offset > 0);
        let (mut removed, mut barriers) = drop_oldest(&mut self.batches, begun, bytes);
        let (more, others) = drop_oldest(&mut self.kept, 0, bytes.saturating_sub(removed.room));
        removed.room += more.room;
        removed.messages += more.messages;
        barriers.extend(others);
        self.uncount(removed.messages, removed.room);
        self.push_barriers(barriers);
        removed
    }

    /// Lets go what the broker has decided although it is not written: another program has sent it.
    pub(crate) fn drop_decided(&mut self) {
        let decided = self.unconfirmed.decided();
        let mut at = 0;
        while let Some(batch) = self.batches.get_mut(at) {
            let Some(batch) = batch.batch_mut() else {
                at += 1;
                continue;
            };
            let Some(first) = batch.number().filter(|first| *first <= decided) else { return };
            let known = u32::try_from(decided + 1 - first).unwrap_or(u32::MAX);
            if let Some(known) = batch.split_messages(known) {
                self.uncount(known.messages().into(), known.len());
                return;
            }
            if let Some(OutgoingBatch::Messages(batch)) = self.batches.remove(at) {
                self.uncount(batch.messages().into(), batch.len());
            }
        }
    }

    /// Messages and bytes that are not written whole.
    pub(crate) fn unsent(&self) -> (u64, usize) {
        self.unsent
    }

    /// Messages and bytes that are not written whole, or not decided.
    pub(crate) fn outstanding(&self) -> (u64, usize) {
        let (messages, bytes) = self.unconfirmed.waiting();
        (self.unsent.0 + messages, self.unsent.1 + bytes)
    }

    /// When the oldest message that is not decided was accepted.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.unconfirmed.oldest().or_else(|| self.batches().next().map(Batch::since))
    }

    /// Holds back the first numbered message that is longer than this, and everything behind it.
    /// True when there is one.
    pub(crate) fn hold_longer(&mut self, than: u32) -> bool {
        let numbered =
            |batch: &OutgoingBatch| batch.batch().filter(|batch| batch.number().is_some())?.before_longer(than);
        let Some((at, before)) = self.batches.iter().enumerate().find_map(|(at, batch)| Some((at, numbered(batch)?)))
        else {
            return false;
        };
        let mut rest = self.batches.split_off(at);
        if let Some(first) = rest.front_mut().and_then(OutgoingBatch::batch_mut) {
            if let Some(shorter) = first.split_messages(before) {
                self.batches.push_back(OutgoingBatch::Messages(shorter));
            }
        }
        rest.append(&mut self.kept);
        self.kept = rest;
        true
    }

    /// Whether something is held back.
    pub(crate) fn holds(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Gives up the message that is held back first, and takes the others back. Returns the room
    /// that is free, and its number.
    pub(crate) fn give_up_held(&mut self, cause: &Error) -> (usize, Option<u64>) {
        self.batches.append(&mut self.kept);
        let controls = self.batches.iter().take_while(|batch| matches!(batch, OutgoingBatch::Control(_))).count();
        let Some(OutgoingBatch::Messages(mut batch)) = self.batches.remove(controls) else {
            return (0, None);
        };
        let first = match batch.split_messages(1) {
            Some(first) => {
                self.batches.insert(controls, OutgoingBatch::Messages(batch));
                first
            }
            None => batch,
        };
        self.uncount(first.messages().into(), first.len());
        if let Some(number) = first.last() {
            self.unconfirmed.give_up(number, cause);
        }
        (first.room(), first.last())
    }

    /// The batches that are not written whole, oldest first.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().chain(&self.kept).filter_map(OutgoingBatch::batch)
    }

    /// The session is over: those who wait hear it.
    pub(crate) fn end(&mut self, why: &Error) {
        for batch in self.batches.iter_mut().chain(&mut self.kept).filter_map(OutgoingBatch::batch_mut) {
            for (_, waiter) in batch.take_waiters() {
                waiter.end(false, why);
            }
        }
        self.unconfirmed.end(why);
    }
}

/// Keeps the memory of a batch that is done with, unless the batch shares it with another.
fn recycle(spent: &mut Vec<BytesMut>, batch: Batch) {
    if spent.len() < SPENT && !batch.is_large() {
        if let Ok(mut memory) = batch.into_bytes().try_into_mut() {
            memory.clear();
            spent.push(memory);
        }
    }
}
