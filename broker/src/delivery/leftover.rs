//! The queue of a connection that has ended: counted and freed in portions.
//!
//! A queue may hold millions of messages. Its owner, the connection's task, goes through it a portion at a time, and lets
//! other tasks run between two portions: see [`Outbox::poll_clear`].

use std::{
    collections::VecDeque,
    pin::pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use hpfeeds::wire;
use tokio::{task::yield_now, time::Instant};

use crate::{
    delivery::{outbox::Outbox, queue::Piece, slow_consumer::State, tally::Tally},
    metrics::category::Category,
};

/// How many bytes and pieces one portion has at the most, and one piece more, which is no longer than a message or a read
/// (256 KiB). Messages of 11 bytes are counted in less than a millisecond then.
pub(super) const PORTION_BYTES: usize = 64 * 1024;
pub(super) const PORTION_PIECES: usize = 1024;

/// What becomes of messages that are not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The subscriber was slow for too long.
    Dropped,
    /// Its connection ended.
    Discarded,
}

/// Pieces that are in no queue any more and still count as queued.
pub(super) struct Leftover {
    pieces: VecDeque<Piece>,
    fate: Fate,
}

impl Leftover {
    /// A portion, from the oldest piece on.
    fn portion(&mut self) -> Vec<Piece> {
        let (mut bytes, mut portion) = (0, Vec::new());
        while bytes < PORTION_BYTES
            && portion.len() < PORTION_PIECES
            && let Some(piece) = self.pieces.pop_front()
        {
            bytes += piece.frames.len();
            portion.push(piece);
        }
        portion
    }
}

impl Outbox {
    /// Closes the outbox and drops what is queued, because the subscriber was slow for too long. `taken` is what the writer
    /// holds, of whose first piece so many bytes are written: of that, the rest of a frame that was begun stays.
    ///
    /// What was in the queue is counted and freed by [`poll_clear`](Self::poll_clear).
    pub(crate) fn expire(&self, taken: &mut VecDeque<Bytes>, written: usize, now: Instant) {
        self.clear(taken, written, Fate::Dropped, now);
        self.exhaust(now);
        self.delivery.counters.slow_disconnects.add(1);
        self.session.error(Category::DeadlineTimerExpired);
    }

    /// Closes the outbox and forgets what is queued, because the connection must not get it. See [`expire`](Self::expire).
    pub(crate) fn revoke(&self, taken: &mut VecDeque<Bytes>, written: usize) {
        self.clear(taken, written, Fate::Discarded, Instant::now());
    }

    /// Closes the outbox and takes out all but the rest of a frame that was begun.
    fn clear(&self, taken: &mut VecDeque<Bytes>, written: usize, fate: Fate, now: Instant) {
        self.close(None);
        let begun = if written > 0 { taken.pop_front() } else { None };
        let mut state = self.lock();
        state.leave(taken, fate);
        if let Some(mut run) = begun {
            let rest = Piece::from(run.split_off(wire::FrameBatch::checked(&run).begun_by(written).len));
            self.unqueue(&mut state, rest.frames.len(), 0);
            self.give_up(&mut state, &Tally::of(rest.contents()), fate, now);
            taken.push_back(run);
        }
    }

    /// Closes the outbox and forgets everything, because the connection cannot be written to any more. `taken` is what the
    /// writer holds, of whose first piece so many bytes are written. See [`expire`](Self::expire).
    pub(crate) fn abandon(&self, taken: &mut VecDeque<Bytes>, written: usize) {
        self.close(None);
        let now = Instant::now();
        let mut state = self.lock();
        self.charge_loan(&mut state, now);
        if let Some(mut first) = taken.pop_front() {
            self.unqueue(&mut state, first.len() - written, 1);
            // A frame that was begun has not arrived.
            first.advance(wire::FrameBatch::checked(&first).ended_by(written).len);
            self.give_up(&mut state, &Tally::of(Piece::from(first).contents()), Fate::Discarded, now);
        }
        state.leave(taken, Fate::Discarded);
    }

    /// Counts and frees a portion of what was queued when the outbox was cleared. Ready when there is no more; otherwise the
    /// task is woken after others have run, also those that wait for a socket.
    pub(crate) fn poll_clear(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.clear_portion() {
            return pin!(yield_now()).poll(cx);
        }
        Poll::Ready(())
    }

    /// Counts and frees a portion of what was queued when the outbox was cleared; says whether there was any.
    pub(crate) fn clear_portion(&self) -> bool {
        let mut state = self.lock();
        let Some(leftover) = &mut state.leftover else {
            return false;
        };
        let (portion, fate) = (leftover.portion(), leftover.fate);
        if leftover.pieces.is_empty() {
            state.leftover = None;
        }
        drop(state);
        // Publishers need not wait while the messages are counted.
        let tally = Tally::of(portion.iter().flat_map(Piece::contents));
        let mut state = self.lock();
        self.unqueue(&mut state, portion.iter().map(|piece| piece.frames.len()).sum(), portion.len());
        self.give_up(&mut state, &tally, fate, Instant::now());
        true
    }

    /// Counts messages that were queued.
    fn give_up(&self, state: &mut State, tally: &Tally<'_>, fate: Fate, now: Instant) {
        match fate {
            Fate::Dropped => self.drop_messages(state, tally, true, now),
            Fate::Discarded => {
                self.delivery.counters.discarded.add(tally.messages);
                self.delivery.counters.unqueued.add(tally.messages);
            }
        }
    }
}

impl State {
    /// Leaves what the writer has taken and what is queued to [`Outbox::poll_clear`], in no time, however much is queued.
    fn leave(&mut self, taken: &mut VecDeque<Bytes>, fate: Fate) {
        // Nobody is called in for what is freed soon.
        self.loan = None;
        let mut pieces = self.queue.take();
        // At most as many as one write takes.
        taken.drain(..).rev().for_each(|piece| pieces.push_front(piece.into()));
        match &mut self.leftover {
            _ if pieces.is_empty() => {}
            // An ERROR, which was queued last and has no message in it.
            Some(leftover) => leftover.pieces.extend(pieces),
            none => *none = Some(Box::new(Leftover { pieces, fate })),
        }
    }
}
