//! The batches in flight as a spool handles them: their numbers, and the room that they take up.

use std::collections::VecDeque;

use super::InFlight;
use crate::client::queue::batch::{Batch, OutgoingBatch};

impl InFlight {
    /// Gives a number to each message that has none, in order.
    pub(crate) fn number(&mut self) {
        for batch in self.batches.iter_mut().chain(&mut self.kept).filter_map(OutgoingBatch::batch_mut) {
            self.unconfirmed.number(batch);
        }
    }

    /// Takes out the newest batches: from the first on that does not stay. One that is partly
    /// written stays, and so does everything on a connection that is being left.
    pub(crate) fn split_off(&mut self, mut stays: impl FnMut(&Batch) -> bool) -> VecDeque<Batch> {
        let begun = usize::from(self.offset > 0);
        let goes =
            |(at, batch): (usize, &OutgoingBatch)| batch.batch().is_some_and(|batch| !stays(batch) && at >= begun);
        let Some(at) = self.batches.iter().enumerate().position(goes).filter(|_| self.kept.is_empty()) else {
            return VecDeque::new();
        };
        let mut taken = VecDeque::new();
        for batch in self.batches.split_off(at) {
            match batch {
                OutgoingBatch::Messages(batch) => {
                    self.uncount(batch.messages().into(), batch.len());
                    taken.push_back(batch);
                }
                // It goes before what is not written any more.
                control @ OutgoingBatch::Control(_) => self.batches.push_back(control),
            }
        }
        taken
    }

    /// Takes the room of the queue from messages up to here, which are durable. They stay in memory
    /// until they are confirmed.
    pub(crate) fn take_room(&mut self, durable: u64) -> usize {
        let here = self.batches.iter_mut().chain(&mut self.kept).filter_map(OutgoingBatch::batch_mut);
        let here = here.filter(|batch| batch.last().is_some_and(|last| last <= durable)).map(Batch::take_room);
        here.sum::<usize>() + self.unconfirmed.take_room(durable)
    }

    /// Puts batches behind everything that is here.
    pub(crate) fn append_batches(&mut self, batches: &mut VecDeque<Batch>) {
        for batch in batches.drain(..) {
            self.count(batch.messages().into(), batch.len());
            let last = if self.kept.is_empty() { &mut self.batches } else { &mut self.kept };
            last.push_back(OutgoingBatch::Messages(batch));
        }
    }

    /// The newest number that is here, or was.
    pub(crate) fn newest(&self) -> u64 {
        let here = self.batches.iter().chain(&self.kept).rev().find_map(OutgoingBatch::batch);
        let written = || self.unconfirmed.batches().last();
        here.or_else(written).and_then(Batch::last).unwrap_or(0).max(self.unconfirmed.next() - 1)
    }
}
