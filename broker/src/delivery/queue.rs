//! The queue of batches that wait to be written, in order.

use std::{collections::VecDeque, mem, num::NonZeroU32};

use bytes::{Bytes, BytesMut};

use crate::delivery::batch::{self, FrameBatch, SHORT};

/// The bytes that a queued batch costs besides its frames: its place in the queue and its
/// allocation.
pub(crate) const OVERHEAD: usize = 128;

/// The longest allocation that short batches are put into, one after the other, in bytes.
const SHARED: usize = 16 * 1024;

/// A queue with room for more batches gives its memory back when it is empty.
const KEEP_CAPACITY: usize = 64;

/// A batch in the queue: one that was offered, or several short ones in one allocation.
pub(super) struct QueuedBatch {
    pub(super) frames: Bytes,
    /// The number of messages as it was counted when they were queued. Zero in a batch that a writer
    /// had taken, and in frames of the broker itself.
    pub(super) messages: u32,
    /// All of them are known to be on one channel.
    one_channel: bool,
}

impl QueuedBatch {
    /// Channels, and how many messages come one after the other on each.
    pub(super) fn channel_runs(&self) -> impl Iterator<Item = (&str, u64)> {
        batch::channel_runs(&self.frames, NonZeroU32::new(self.messages).filter(|_| self.one_channel))
    }
}

impl QueuedBatch {
    /// A single message.
    pub(super) fn message(frame: Bytes) -> Self {
        Self { frames: frame, messages: 1, one_channel: true }
    }
}

impl From<Bytes> for QueuedBatch {
    fn from(frames: Bytes) -> Self {
        Self { frames, messages: 0, one_channel: false }
    }
}

/// A queue of batches, of which short ones share allocations.
#[derive(Default)]
pub(super) struct Queue {
    batches: VecDeque<QueuedBatch>,
    /// The last batch, when more frames may be added to it.
    open: BytesMut,
    /// The messages in that.
    open_messages: u32,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open.is_empty()
    }

    /// Adds a batch. Returns its cost: its bytes, and [`OVERHEAD`] unless it shares an allocation.
    pub(super) fn push(&mut self, batch: &mut FrameBatch<'_>) -> usize {
        let len = batch.len();
        if len > SHORT {
            return self.push_whole(batch);
        }
        let used = self.open.len();
        if used > 0 && self.open.capacity() - used >= len {
            self.open.extend_from_slice(batch);
            self.open_messages += batch.messages;
            return len;
        }
        self.seal();
        match self.batches.back() {
            // A subscriber with more than one short batch queued does not keep up: the next ones
            // will be put beside this one. An allocation is as large as the one before it and the
            // batch together: so all of them take at most twice the bytes in them, and one that was
            // filled is followed by a larger one.
            Some(last) if used > 0 || last.frames.len() <= SHORT => {
                self.open = BytesMut::with_capacity((last.frames.len() + len).min(SHARED));
                self.open.extend_from_slice(batch);
                self.open_messages = batch.messages;
                len + OVERHEAD
            }
            _ => self.push_whole(batch),
        }
    }

    fn push_whole(&mut self, batch: &mut FrameBatch<'_>) -> usize {
        let (messages, one_channel) = (batch.messages, batch.one_channel);
        self.push_alone(QueuedBatch { messages, one_channel, frames: batch.share() })
    }

    /// Adds a batch that keeps an allocation of its own.
    pub(super) fn push_alone(&mut self, batch: QueuedBatch) -> usize {
        self.seal();
        let cost = batch.frames.len() + OVERHEAD;
        self.batches.push_back(batch);
        cost
    }

    /// Takes the oldest batch out.
    pub(super) fn pop(&mut self) -> Option<QueuedBatch> {
        if self.batches.is_empty() {
            self.seal();
        }
        self.batches.pop_front()
    }

    /// Whether the queue costs so many bytes, or more. Looks at no more batches than that takes.
    pub(super) fn holds(&self, cost: usize) -> bool {
        let open = if self.open.is_empty() { 0 } else { self.open.len() + OVERHEAD };
        let mut left = cost.saturating_sub(open);
        for batch in &self.batches {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(batch.frames.len() + OVERHEAD);
        }
        left == 0
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> VecDeque<QueuedBatch> {
        self.seal();
        mem::take(&mut self.batches)
    }

    /// Gives the memory of an empty queue back, if it is large.
    pub(super) fn shrink(&mut self) {
        if self.batches.capacity() > KEEP_CAPACITY {
            self.batches = VecDeque::new();
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let (frames, messages) = (mem::take(&mut self.open).freeze(), mem::take(&mut self.open_messages));
            self.batches.push_back(QueuedBatch { frames, messages, one_channel: false });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::util::property::cases;

    const LENGTHS: &[usize] =
        &[1, 10, 100, 300, 1000, 1024, SHORT - 1, SHORT, SHORT + 1, 3000, SHARED / 2, SHARED - 1, SHARED, SHARED + 1];

    impl Queue {
        pub(in super::super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
            let open = Some(&self.open[..]).filter(|open| !open.is_empty());
            self.batches.iter().map(|batch| &batch.frames[..]).chain(open)
        }
    }

    fn push(queue: &mut Queue, number: u8, len: usize) -> usize {
        queue.push(&mut FrameBatch::received(&vec![number; len], 1, 0))
    }

    #[test]
    fn short_batches_share_allocations_and_stay_in_order() {
        let mut queue = Queue::default();
        let (mut cost, mut all) = (0, Vec::new());
        for number in 0..=255 {
            // Every eighth is long.
            let len = if number % 8 == 7 { SHORT + 1 } else { 300 };
            cost += push(&mut queue, number, len);
            all.resize(all.len() + len, number);
        }
        let batches = queue.iter().count();
        assert_eq!(cost, all.len() + batches * OVERHEAD);
        assert!(queue.holds(cost) && !queue.holds(cost + 1) && Queue::default().holds(0));
        // The seven short ones between two long ones: 300 bytes, 600, 900 and 300.
        assert_eq!(batches, 5 * 32);
        let mut out = Vec::new();
        for _ in 0..batches {
            out.extend_from_slice(&queue.pop().unwrap().frames);
        }
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!(out, all);
    }

    #[test]
    fn shared_allocations_grow_to_their_bound() {
        for len in [1, 100, 300, 1000, SHORT] {
            let mut queue = Queue::default();
            for number in 0..=255 {
                push(&mut queue, number, len);
            }
            let most = queue.iter().map(<[u8]>::len).max().unwrap();
            assert!(most <= SHARED && most + len > SHARED.min(20 * len), "{len}: {most}");
        }
    }

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn memory_of_a_queue_is_at_most_twice_its_cost(lengths in vec(select(LENGTHS), 1..14)) {
            let mut queue = Queue::default();
            let (mut cost, mut taken) = (0, 0);
            for len in lengths.into_iter().cycle().take(300) {
                let before = queue.iter().count();
                cost += push(&mut queue, 0, len);
                if queue.iter().count() > before {
                    taken += if queue.open.is_empty() { len } else { queue.open.capacity() };
                }
                prop_assert!(taken <= 2 * cost, "{} for {}", taken, cost);
            }
        }
    }

    #[test]
    fn subscribers_that_keep_up_share_one_copy() {
        let (mut one, mut other) = (Queue::default(), Queue::default());
        let mut batch = FrameBatch::received(b"run", 1, 0);
        assert_eq!((one.push(&mut batch), other.push(&mut batch)), (3 + OVERHEAD, 3 + OVERHEAD));
        let (one, other) = (one.pop().unwrap().frames, other.pop().unwrap().frames);
        assert_eq!((one.as_ptr(), &one[..]), (other.as_ptr(), &b"run"[..]));
    }

    #[test]
    fn the_last_subscriber_gets_a_copy_of_its_own() {
        let (mut one, mut other) = (Queue::default(), Queue::default());
        let mut batch = FrameBatch::received(b"run", 1, 0);
        batch.is_last = true;
        assert_eq!((one.push(&mut batch), other.push(&mut batch)), (3 + OVERHEAD, 3 + OVERHEAD));
        let (one, other) = (one.pop().unwrap().frames, other.pop().unwrap().frames);
        assert!(one.is_unique() && other.is_unique());
        assert_eq!((&one[..], &other[..]), (&b"run"[..], &b"run"[..]));
    }

    #[test]
    fn a_batch_that_stays_alone_ends_a_shared_allocation() {
        let mut queue = Queue::default();
        for number in 0..3 {
            push(&mut queue, number, 10);
        }
        assert_eq!(queue.push_alone(Bytes::from_static(b"last").into()), 4 + OVERHEAD);
        assert_eq!(queue.take().pop_back().unwrap().frames, "last");
        assert!(queue.is_empty());
    }
}
