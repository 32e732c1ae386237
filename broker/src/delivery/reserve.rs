//! What may be queued beyond the bound for all subscribers together, so that one that reads gets its messages although
//! others have filled that.
//!
//! ```text
//!  0 ─────────────────────────────── max_buffered ────────── + reserve
//!    everybody, up to its own mark   │ loans: one batch each │ nobody: publishers wait
//! ```
//!
//! An outbox with nothing queued may take one batch from the reserve, a loan. It is paid back when all of it has been
//! written. When the reserve is used up, publishers wait, and a subscriber that has drained its loan at less than the floor
//! rate for a window is disconnected at once. After that, its ident at its address gets no more than half of the reserve for
//! ten minutes, and nobody waits for it: what has no room there is dropped. One that leaves with a loan is charged with the
//! time for which it had it, as if publishers had waited for it.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::delivery::{
    context::{DeliveryContext, Rules},
    outbox::Outbox,
    slow_consumer::{ConsumerState, State, Window},
};

/// How soon a publisher looks again whether there is room in the reserve: nothing tells it that another subscriber has
/// written something.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How many loans a publisher looks at that finds no room.
const LOOKED_AT: usize = 32;

/// How often that is done, however many publishers find no room: each message to each subscriber would do it.
const LOOK_APART: Duration = Duration::from_millis(1);

/// How many of those who are on the list are looked at when one more comes, whether they are still there: more than one,
/// so that the list is at most about twice as long as there are connections.
const SWEPT: usize = 2;

/// A batch that was taken from the reserve.
#[derive(Debug)]
pub(super) struct Loan {
    window: Window,
    /// The connection has to end: too little of it was written, and others need the room.
    called_in: bool,
}

/// The outboxes with a loan, each once, and some that have had one.
#[derive(Debug, Default)]
pub(crate) struct Borrowers(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// Those that were not looked at for the longest time come first.
    outboxes: VecDeque<Weak<Outbox>>,
    /// When somebody looked last who has to pay back.
    looked: Option<Instant>,
}

impl Borrowers {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look who has to pay back.
    fn is_due(&self, now: Instant) -> bool {
        let mut list = self.lock();
        let due = list.looked.is_none_or(|looked| now >= looked + LOOK_APART);
        if due {
            list.looked = Some(now);
        }
        due
    }

    fn pop(&self) -> Option<Weak<Outbox>> {
        self.lock().outboxes.pop_front()
    }

    fn push(&self, outbox: Weak<Outbox>) {
        self.lock().outboxes.push_back(outbox);
    }

    /// Adds one that is new. Those that have gone are forgotten here, as long as nobody finds the reserve used up.
    fn add(&self, outbox: Weak<Outbox>) {
        let outboxes = &mut self.lock().outboxes;
        for _ in 0..SWEPT {
            if let Some(other) = outboxes.pop_front().filter(|other| other.strong_count() > 0) {
                outboxes.push_back(other);
            }
        }
        outboxes.push_back(outbox);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().outboxes.len()
    }
}

/// Whether an outbox gets a loan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lent {
    /// It does, and is not on the list of borrowers yet if so.
    Yes { unlisted: bool },
    /// There is no room in the reserve now.
    Wait,
    /// There is none for a subscriber whose ident has been slow.
    Full,
    /// Not to this subscriber, which does not read.
    No,
}

impl DeliveryContext {
    /// By how much this would exceed the bound for all subscribers together.
    pub(super) fn excess(&self, cost: usize) -> usize {
        self.buffered.load(Relaxed).saturating_add(cost).saturating_sub(self.rules.max_buffered)
    }

    /// A publisher has found no room in the reserve: ends those that do not pay back, and says when to look again.
    pub(super) fn call_in(&self, now: Instant) -> Instant {
        let looked_at = if self.borrowers.is_due(now) { LOOKED_AT } else { 0 };
        for _ in 0..looked_at {
            // The list is not locked while an outbox is.
            let Some(outbox) = self.borrowers.pop() else {
                break;
            };
            if outbox.upgrade().is_some_and(|outbox| outbox.still_owes(&self.rules, now)) {
                self.borrowers.push(outbox);
            }
        }
        now + LOOK_AGAIN
    }
}

impl Outbox {
    /// Lends room for a batch to an outbox that has nothing queued, while all together have too much.
    pub(super) fn lend(&self, state: &mut State, cost: usize, now: Instant) -> Lent {
        let DeliveryContext { rules, slow_history, buffered, .. } = &*self.delivery;
        // What it had was dropped.
        state.loan = None;
        let all = buffered.load(Relaxed);
        // A batch that is alone has to go somehow.
        if all > 0 {
            if state.consumer == ConsumerState::Slow {
                return Lent::No;
            }
            let known = slow_history.used(self.ident(), self.peer.ip(), now) >= rules.window;
            let reserve = if known { rules.reserve / 2 } else { rules.reserve };
            if all.saturating_add(cost) > rules.max_buffered.saturating_add(reserve) {
                return if known { Lent::Full } else { Lent::Wait };
            }
        }
        state.loan = Some(Box::new(Loan { window: Window::new(now), called_in: false }));
        Lent::Yes { unlisted: !mem::replace(&mut state.is_listed, true) }
    }

    /// Puts it on the list of borrowers. Its state is not locked meanwhile.
    pub(super) fn list(self: &Arc<Self>) {
        self.delivery.borrowers.add(Arc::downgrade(self));
    }

    /// Whether it has to pay a loan back. Calls it in when too little has been written for a window.
    fn still_owes(&self, rules: &Rules, now: Instant) -> bool {
        let mut state = self.lock();
        let State { loan, consumer, is_listed, .. } = &mut *state;
        let Some(loan) = loan else {
            *is_listed = false;
            return false;
        };
        // One that is held back by its own limit takes all that it may.
        if loan.window.elapsed(now) < rules.window || *consumer == ConsumerState::RateLimited {
            return true;
        }
        if !loan.window.is_below(rules, now) {
            loan.window = Window::new(now);
            return true;
        }
        (loan.called_in, *is_listed) = (true, false);
        drop(state);
        self.writer.wake();
        false
    }

    /// The connection ends before it has paid a loan back, which held room that others may have waited for. Otherwise one
    /// that comes again and again, and always goes in time, would never be known.
    pub(super) fn charge_loan(&self, state: &mut State, now: Instant) {
        let DeliveryContext { rules, slow_history, .. } = &*self.delivery;
        if let Some(Loan { window, .. }) = state.loan.take().map(|loan| *loan)
            && window.is_below(rules, now)
        {
            slow_history.charge(self.ident(), self.peer.ip(), window.start..now);
        }
    }

    /// Whether the connection has to end at once, since others need the room that it does not give back.
    pub(crate) fn is_called_in(&self) -> bool {
        self.lock().loan.as_ref().is_some_and(|loan| loan.called_in)
    }
}

impl State {
    /// So many bytes have been written, maybe all.
    pub(super) fn pay_back(&mut self, bytes: usize) {
        if self.queued == 0 {
            self.loan = None;
        } else if let Some(loan) = &mut self.loan {
            loan.window.drained += bytes;
        }
    }
}
