//! The leftover of a queue whose connection has ended: batches that are still to be counted.

use std::collections::VecDeque;

use crate::delivery::queue::QueuedBatch;

/// How many bytes and batches one portion has at the most, and one batch more, which is no longer
/// than a message or a read (256 KiB). Messages of 11 bytes are counted in less than a millisecond
/// then.
pub(super) const PORTION_BYTES: usize = 64 * 1024;
pub(super) const PORTION_BATCHES: usize = 1024;

/// The fate of messages that are not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The subscriber was slow for too long.
    Dropped,
    /// Its connection ended.
    Discarded,
}

/// Batches that are in no queue any more and still count as queued.
pub(super) struct Leftover {
    batches: VecDeque<QueuedBatch>,
    pub(super) fate: Fate,
}

impl Leftover {
    pub(super) fn new(batches: VecDeque<QueuedBatch>, fate: Fate) -> Self {
        Self { batches, fate }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Adds batches at the end.
    pub(super) fn extend(&mut self, batches: VecDeque<QueuedBatch>) {
        self.batches.extend(batches);
    }

    /// Takes a portion out, from the oldest batch on.
    pub(super) fn portion(&mut self) -> Vec<QueuedBatch> {
        let (mut bytes, mut portion) = (0, Vec::new());
        while bytes < PORTION_BYTES
            && portion.len() < PORTION_BATCHES
            && let Some(batch) = self.batches.pop_front()
        {
            bytes += batch.frames.len();
            portion.push(batch);
        }
        portion
    }
}
