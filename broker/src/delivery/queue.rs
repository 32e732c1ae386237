//! What waits to be written, in order.

use std::{collections::VecDeque, mem, num::NonZeroU32};

use bytes::{Bytes, BytesMut};

use crate::delivery::batch::{self, FrameBatch, SHORT};

/// What a queued piece of memory takes besides its bytes: its place in the queue and its allocation.
pub(crate) const OVERHEAD: usize = 128;

/// The longest piece of memory that short runs are put into, one after the other.
const PIECE: usize = 16 * 1024;

/// A queue that has grown longer gives its room back when it is empty.
const KEEP_CAPACITY: usize = 64;

/// Whole frames in one piece of memory.
pub(super) struct Piece {
    pub(super) frames: Bytes,
    /// So many messages on one channel, if that is known.
    on_one_channel: Option<NonZeroU32>,
}

impl Piece {
    /// Channels and how many messages on each come one after the other.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&str, u64)> {
        batch::contents(&self.frames, self.on_one_channel)
    }
}

impl From<Bytes> for Piece {
    fn from(frames: Bytes) -> Self {
        Self { frames, on_one_channel: None }
    }
}

#[derive(Default)]
pub(super) struct Queue {
    pieces: VecDeque<Piece>,
    /// The last one, when more may be added to it.
    open: BytesMut,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.open.is_empty()
    }

    /// Adds a run. Returns what it costs: its bytes, and what a piece of memory takes if it needs one.
    pub(super) fn push(&mut self, run: &mut FrameBatch<'_>) -> usize {
        let len = run.len();
        if len > SHORT {
            return self.push_run(run);
        }
        let used = self.open.len();
        if used > 0 && self.open.capacity() - used >= len {
            self.open.extend_from_slice(run);
            return len;
        }
        self.seal();
        match self.pieces.back() {
            // Who has more than one short run queued does not keep up: the next ones will be put beside this one. A piece
            // is as large as what is in the one before it and the run together: so all of them take at most twice of what
            // is in them, and one that was filled is followed by a larger one.
            Some(last) if used > 0 || last.frames.len() <= SHORT => {
                self.open = BytesMut::with_capacity((last.frames.len() + len).min(PIECE));
                self.open.extend_from_slice(run);
                len + OVERHEAD
            }
            _ => self.push_run(run),
        }
    }

    fn push_run(&mut self, run: &mut FrameBatch<'_>) -> usize {
        self.push_alone(Piece { on_one_channel: run.on_one_channel(), frames: run.share() })
    }

    /// Adds what stays a piece by itself.
    pub(super) fn push_alone(&mut self, piece: Piece) -> usize {
        self.seal();
        let cost = piece.frames.len() + OVERHEAD;
        self.pieces.push_back(piece);
        cost
    }

    /// Takes the oldest piece out.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        if self.pieces.is_empty() {
            self.seal();
        }
        self.pieces.pop_front()
    }

    /// Whether what is in it costs so much, or more. Looks at no more pieces than that takes.
    pub(super) fn holds(&self, cost: usize) -> bool {
        let open = if self.open.is_empty() { 0 } else { self.open.len() + OVERHEAD };
        let mut left = cost.saturating_sub(open);
        for piece in &self.pieces {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(piece.frames.len() + OVERHEAD);
        }
        left == 0
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> VecDeque<Piece> {
        self.seal();
        mem::take(&mut self.pieces)
    }

    /// It is empty: gives its room back if it is large.
    pub(super) fn shrink(&mut self) {
        if self.pieces.capacity() > KEEP_CAPACITY {
            self.pieces = VecDeque::new();
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(mem::take(&mut self.open).freeze().into());
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
        &[1, 10, 100, 300, 1000, 1024, SHORT - 1, SHORT, SHORT + 1, 3000, PIECE / 2, PIECE - 1, PIECE, PIECE + 1];

    impl Queue {
        pub(in super::super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
            let open = Some(&self.open[..]).filter(|open| !open.is_empty());
            self.pieces.iter().map(|piece| &piece.frames[..]).chain(open)
        }
    }

    fn push(queue: &mut Queue, number: u8, len: usize) -> usize {
        queue.push(&mut FrameBatch::received(&vec![number; len], 1, 0))
    }

    #[test]
    fn short_runs_share_pieces_and_stay_in_order() {
        let mut queue = Queue::default();
        let (mut cost, mut all) = (0, Vec::new());
        for number in 0..=255 {
            // Every eighth is long.
            let len = if number % 8 == 7 { SHORT + 1 } else { 300 };
            cost += push(&mut queue, number, len);
            all.resize(all.len() + len, number);
        }
        let pieces = queue.iter().count();
        assert_eq!(cost, all.len() + pieces * OVERHEAD);
        assert!(queue.holds(cost) && !queue.holds(cost + 1) && Queue::default().holds(0));
        // The seven short ones between two long ones: 300 bytes, 600, 900 and 300.
        assert_eq!(pieces, 5 * 32);
        let mut out = Vec::new();
        for _ in 0..pieces {
            out.extend_from_slice(&queue.pop().unwrap().frames);
        }
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!(out, all);
    }

    #[test]
    fn pieces_grow_to_their_bound() {
        for len in [1, 100, 300, 1000, SHORT] {
            let mut queue = Queue::default();
            for number in 0..=255 {
                push(&mut queue, number, len);
            }
            let most = queue.iter().map(<[u8]>::len).max().unwrap();
            assert!(most <= PIECE && most + len > PIECE.min(20 * len), "{len}: {most}");
        }
    }

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn its_memory_is_at_most_twice_what_it_costs(lengths in vec(select(LENGTHS), 1..14)) {
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
    fn who_keeps_up_gets_what_others_get_without_another_copy() {
        let (mut one, mut other) = (Queue::default(), Queue::default());
        let mut run = FrameBatch::received(b"run", 1, 0);
        assert_eq!((one.push(&mut run), other.push(&mut run)), (3 + OVERHEAD, 3 + OVERHEAD));
        let (one, other) = (one.pop().unwrap().frames, other.pop().unwrap().frames);
        assert_eq!((one.as_ptr(), &one[..]), (other.as_ptr(), &b"run"[..]));
    }

    #[test]
    fn what_stays_alone_ends_a_piece() {
        let mut queue = Queue::default();
        for number in 0..3 {
            push(&mut queue, number, 10);
        }
        assert_eq!(queue.push_alone(Bytes::from_static(b"last").into()), 4 + OVERHEAD);
        assert_eq!(queue.take().pop_back().unwrap().frames, "last");
        assert!(queue.is_empty());
    }
}
