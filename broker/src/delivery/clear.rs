//! Clearing an outbox whose connection ends: batches that are not written are counted and freed.
//!
//! A queue may hold millions of messages. Its owner, the connection's task, goes through it a
//! portion at a time, and lets other tasks run between two portions: see [`Outbox::poll_clear`].

use std::{
    collections::VecDeque,
    pin::pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use hpfeeds::wire;
use tokio::{task::yield_now, time::Instant};

use crate::{
    delivery::{
        leftover::{Fate, Leftover},
        outbox::Outbox,
        queue::QueuedBatch,
        state::OutboxState,
        tally::Tally,
    },
    metrics::category::Category,
};

impl Outbox {
    /// Closes the outbox and drops the queue, because the subscriber was slow for too long. `taken`
    /// are the batches that the writer holds, and `written` the bytes of the first that are
    /// written: of that, the rest of a frame that was begun stays.
    ///
    /// The queue is counted and freed by [`poll_clear`](Self::poll_clear).
    pub(crate) fn expire(&self, taken: &mut VecDeque<Bytes>, written: usize, now: Instant) {
        self.clear(taken, written, Fate::Dropped, now);
        self.exhaust(now);
        self.count_slow();
    }

    /// Counts that the connection ends because the client takes nothing.
    pub(crate) fn count_slow(&self) {
        self.delivery.counters.slow_disconnects.add(1);
        self.session.error(Category::DeadlineTimerExpired);
    }

    /// Closes the outbox and forgets the queue, because the connection must not get it. See
    /// [`expire`](Self::expire).
    pub(crate) fn revoke(&self, taken: &mut VecDeque<Bytes>, written: usize) {
        self.clear(taken, written, Fate::Discarded, Instant::now());
    }

    /// Closes the outbox and takes out all but the rest of a frame that was begun.
    fn clear(&self, taken: &mut VecDeque<Bytes>, written: usize, fate: Fate, now: Instant) {
        self.close(None);
        let begun = if written > 0 { taken.pop_front() } else { None };
        let mut state = self.lock();
        state.leave(taken, fate);
        if let Some(mut batch) = begun {
            let end = wire::FrameBatch::checked(&batch).begun_by(written).len;
            let rest = QueuedBatch::from(batch.split_off(end));
            self.unqueue(&mut state, rest.frames.len(), 0);
            let tally = Tally::of(rest.channel_runs());
            self.delivery.counters.returned.add(tally.messages);
            self.give_up(&mut state, &tally, fate, now);
            taken.push_back(batch);
        }
    }

    /// Closes the outbox and forgets everything, because the connection cannot be written to any
    /// more. See [`expire`](Self::expire).
    pub(crate) fn abandon(&self, taken: &mut VecDeque<Bytes>, written: usize) {
        self.close(None);
        let now = Instant::now();
        let mut state = self.lock();
        self.charge_loan(&mut state, now);
        if let Some(mut first) = taken.pop_front() {
            self.unqueue(&mut state, first.len() - written, 1);
            // A frame that was begun has not arrived.
            first.advance(wire::FrameBatch::checked(&first).ended_by(written).len);
            let lost = QueuedBatch::from(first);
            let tally = Tally::of(lost.channel_runs());
            self.delivery.counters.returned.add(tally.messages);
            self.give_up(&mut state, &tally, Fate::Discarded, now);
        }
        state.leave(taken, Fate::Discarded);
    }

    /// Charges a subscriber with a loan that its connection has not paid back: others may have
    /// waited for the room. Otherwise a subscriber that comes again and again, and always goes in
    /// time, would never be known.
    fn charge_loan(&self, state: &mut OutboxState, now: Instant) {
        let loan = state.pressure.as_mut().and_then(|pressure| pressure.loan.take());
        if let Some(time) = loan.and_then(|loan| loan.held_in_vain(&self.delivery.rules, now)) {
            self.delivery.slow_history.charge(self.ident(), self.peer.ip(), time);
        }
    }

    /// Counts and frees a portion of the batches that were queued when the outbox was cleared.
    /// Ready when none is left; otherwise the task is woken after others have run, also those that
    /// wait for a socket.
    pub(crate) fn poll_clear(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.clear_portion() {
            return pin!(yield_now()).poll(cx);
        }
        Poll::Ready(())
    }

    /// Counts and frees a portion of the batches that were queued when the outbox was cleared; says
    /// whether there was any.
    pub(crate) fn clear_portion(&self) -> bool {
        let mut state = self.lock();
        let Some(leftover) = state.pressure.as_mut().and_then(|pressure| pressure.leftover.as_mut()) else {
            return false;
        };
        let (portion, fate) = (leftover.portion(), leftover.fate);
        if leftover.is_empty() {
            state.pressure().leftover = None;
        }
        drop(state);
        // Publishers need not wait while the messages are counted.
        let tally = Tally::of(portion.iter().flat_map(QueuedBatch::channel_runs));
        // The others had been taken out of the queue before.
        let queued: u64 = portion.iter().map(|batch| u64::from(batch.messages)).sum();
        self.delivery.counters.returned.add(tally.messages.saturating_sub(queued));
        let mut state = self.lock();
        self.unqueue(&mut state, portion.iter().map(|batch| batch.frames.len()).sum(), portion.len());
        self.give_up(&mut state, &tally, fate, Instant::now());
        true
    }

    /// Counts messages that were queued.
    fn give_up(&self, state: &mut OutboxState, tally: &Tally<'_>, fate: Fate, now: Instant) {
        match fate {
            Fate::Dropped => self.drop_messages(state, tally, true, now),
            Fate::Discarded => {
                self.delivery.counters.discarded.add(tally.messages);
                self.delivery.counters.unqueued.add(tally.messages);
            }
        }
    }
}

impl OutboxState {
    /// Leaves the batches that the writer has taken, and the queue, to [`Outbox::poll_clear`], in
    /// constant time for the queue.
    fn leave(&mut self, taken: &mut VecDeque<Bytes>, fate: Fate) {
        let mut batches = self.queue.take();
        // At most as many as one write takes.
        taken.drain(..).rev().for_each(|batch| batches.push_front(batch.into()));
        if let Some(pressure) = &mut self.pressure {
            // The loan is not called in, as it is freed soon.
            pressure.loan = None;
        }
        if batches.is_empty() {
            return;
        }
        match &mut self.pressure().leftover {
            // An ERROR, which was queued last and has no message in it.
            Some(leftover) => leftover.extend(batches),
            none => *none = Some(Box::new(Leftover::new(batches, fate))),
        }
    }
}
