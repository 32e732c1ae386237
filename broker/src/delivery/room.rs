//! Room for a batch in an outbox that has met a mark: waiting, the slow policy, and the reserve.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;
use tracing::warn;

use crate::delivery::{
    context::DeliveryContext,
    outbox::Outbox,
    policy::{Rules, SlowPolicy},
    reserve::{Borrower, Loan},
    slow_consumer::ConsumerState,
    state::{OutboxState, Pressure, Room},
    tally::Tally,
};

impl Outbox {
    /// Looks for room for a batch of this cost, which would exceed the bound for all queues
    /// together by `excess`. More than `low` is queued, or there is an excess. For a subscriber
    /// that publishers do not wait for, as much is dropped as the policy allows and the batch
    /// needs.
    pub(super) fn find_room(
        &self,
        state: &mut OutboxState,
        cost: usize,
        excess: usize,
        low: usize,
        now: Instant,
    ) -> Room {
        let is_pressed = state.queued > low && state.consumer() != ConsumerState::RateLimited;
        if is_pressed && let Some(until) = self.on_backlog(state.pressure(), now) {
            return Room::AfterWait(until);
        }
        if state.queued == 0 {
            return self.lend(state, cost, now);
        }
        let over = (state.queued + cost).saturating_sub(self.delivery.rules.high_mark);
        // An excess of others is not taken from this queue: it gives as much as it gets.
        let needed = over.max(excess.min(cost));
        if needed == 0 {
            return Room::Free;
        }
        match self.delivery.rules.policy {
            SlowPolicy::Disconnect => {
                self.start_deadline(state, now);
                Room::None
            }
            SlowPolicy::DropOldest => self.drop_oldest(state, cost, excess, needed, now),
        }
    }

    /// A publisher finds more than the low mark queued: until when it has to wait, or `None` when
    /// the subscriber is slow.
    fn on_backlog(&self, pressure: &mut Pressure, now: Instant) -> Option<Instant> {
        let DeliveryContext { rules, slow_history, .. } = &*self.delivery;
        if pressure.measure(rules, now) {
            self.log_recovery(pressure.drops.take_untold());
        }
        let used = || slow_history.used(self.ident(), self.peer.ip(), now);
        let until = pressure.detector.on_backlog(rules, now, used);
        self.charge_wait(pressure);
        until
    }

    /// A slow subscriber is at its high mark: it is disconnected unless it recovers in time.
    fn start_deadline(&self, state: &mut OutboxState, now: Instant) {
        let (queued, deadline) = (state.queued, self.delivery.rules.deadline);
        let pressure = state.pressure();
        if pressure.deadline.is_some() || pressure.detector.state == ConsumerState::RateLimited {
            return;
        }
        pressure.deadline = Some(now + deadline);
        self.session.deadline();
        // Now the writer has a deadline to wait for.
        self.writer.wake();
        warn!(ident = self.ident().as_str(), peer = %self.peer, queued, ?deadline,
            "slow subscriber is at its high mark: its messages are dropped");
    }

    /// Drops the oldest batches until there are `needed` bytes for a new one.
    fn drop_oldest(&self, state: &mut OutboxState, cost: usize, excess: usize, needed: usize, now: Instant) -> Room {
        let before = state.queued;
        if !state.queue.holds(needed) {
            // Nothing is dropped in vain: for a batch for which there is no room even then.
            let is_begun = !state.queue.holds(before);
            let others = self.delivery.buffered.load(Relaxed) > before;
            if is_begun || (state.consumer() == ConsumerState::Slow && others && excess > before) {
                return Room::None;
            }
        }
        while before - state.queued < needed
            && let Some(oldest) = state.queue.pop()
        {
            self.unqueue(state, oldest.frames.len(), 1);
            self.drop_messages(state, &Tally::of(oldest.channel_runs()), true, now);
        }
        if before - state.queued >= needed {
            Room::Free
        } else if state.queued > 0 {
            Room::None
        } else if excess > before {
            self.lend(state, cost, now)
        } else {
            // The batch is longer than the queue may be, and goes alone.
            Room::Free
        }
    }

    /// Lends room for a batch to an outbox with an empty queue, while all together have too much.
    pub(super) fn lend(&self, state: &mut OutboxState, cost: usize, now: Instant) -> Room {
        let DeliveryContext { rules, slow_history, buffered, .. } = &*self.delivery;
        let pressure = state.pressure();
        // The batch of an earlier loan was dropped.
        pressure.loan = None;
        let all = buffered.load(Relaxed);
        // A batch that is alone has to go somehow.
        if all > 0 {
            if pressure.detector.state == ConsumerState::Slow {
                return Room::None;
            }
            let is_known = slow_history.used(self.ident(), self.peer.ip(), now) >= rules.window;
            let reserve = if is_known { rules.reserve / 2 } else { rules.reserve };
            if all.saturating_add(cost) > rules.max_buffered.saturating_add(reserve) {
                return if is_known { Room::Exhausted } else { Room::AfterCallIn };
            }
        }
        pressure.loan = Some(Box::new(Loan::new(now)));
        Room::Lent { unlisted: !mem::replace(&mut pressure.is_listed, true) }
    }

    /// Puts the outbox on the list of borrowers. Its state is not locked meanwhile.
    pub(super) fn list(self: &Arc<Self>) {
        let outbox: Arc<dyn Borrower> = self.clone();
        self.delivery.borrowers.add(Arc::downgrade(&outbox));
    }

    /// Whether the connection has to end at once, since others need the room that it does not give
    /// back.
    pub(crate) fn is_called_in(&self) -> bool {
        self.lock().pressure.as_ref().is_some_and(|pressure| pressure.is_called_in())
    }
}

impl Borrower for Outbox {
    fn still_owes(&self, rules: &Rules, now: Instant) -> bool {
        let mut state = self.lock();
        let Some(Pressure { loan, detector, is_listed, .. }) = state.pressure.as_deref_mut() else {
            return false;
        };
        let Some(loan) = loan else {
            *is_listed = false;
            return false;
        };
        // A subscriber that is held back by its own limit takes all that it may.
        *is_listed = detector.state == ConsumerState::RateLimited || !loan.call_in(rules, now);
        let owes = *is_listed;
        drop(state);
        if !owes {
            self.writer.wake();
        }
        owes
    }
}
