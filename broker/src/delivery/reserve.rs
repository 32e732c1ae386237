//! The memory reserve beyond the bound for all queues together, from which outboxes take loans.
//!
//! A subscriber that reads gets its messages although others have filled the bound.
//!
//! ```text
//!  0 ─────────────────────────────── max_buffered ────────── + reserve
//!    everybody, up to its own mark   │ loans: one batch each │ nobody: publishers wait
//! ```
//!
//! An outbox with an empty queue may take one batch from the reserve, a loan. It is paid back when
//! all of it has been written. When the reserve is used up, publishers wait, and a subscriber that
//! has drained its loan at less than the floor rate for a window is called in: disconnected at
//! once. After that, its ident at its network gets no more than half of the reserve for ten
//! minutes, and publishers do not wait for it: a batch that has no room there is dropped. A
//! subscriber that leaves with a loan is charged with the time for which it had the loan, as if
//! publishers had waited.

use std::{collections::VecDeque, fmt, ops::Range, sync::Weak, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::delivery::{policy::Rules, slow_consumer::Window};

/// How soon a publisher looks again whether there is room in the reserve: it is not told when
/// another subscriber has written something.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How many loans a publisher looks at that finds no room.
const LOOKED_AT: usize = 32;

/// How often that is done, however many publishers find no room: each message to each subscriber
/// would do it.
const LOOK_APART: Duration = Duration::from_millis(1);

/// How many borrowers are looked at when one is added, whether they are still there. With more than
/// one, the list is at most about twice as long as there are connections.
const SWEPT: usize = 2;

/// A batch that was taken from the reserve.
#[derive(Debug)]
pub(super) struct Loan {
    window: Window,
    is_called_in: bool,
}

impl Loan {
    pub(super) fn new(now: Instant) -> Self {
        Self { window: Window::new(now), is_called_in: false }
    }

    /// So many bytes of it have been written.
    pub(super) fn drain(&mut self, bytes: usize) {
        self.window.drain(bytes);
    }

    /// Calls it in when too little has been written for a window; says whether it has to be paid
    /// back at once.
    pub(super) fn call_in(&mut self, rules: &Rules, now: Instant) -> bool {
        if self.window.elapsed(now) >= rules.window {
            self.is_called_in = self.window.is_below(rules, now);
            if !self.is_called_in {
                self.window = Window::new(now);
            }
        }
        self.is_called_in
    }

    /// Whether the connection has to end at once, as others need the room.
    pub(super) fn is_called_in(&self) -> bool {
        self.is_called_in
    }

    /// The time for which the subscriber had it and drained less than the floor rate.
    pub(super) fn held_in_vain(&self, rules: &Rules, now: Instant) -> Option<Range<Instant>> {
        self.window.is_below(rules, now).then_some(self.window.start..now)
    }
}

/// An outbox that may have a loan.
pub(super) trait Borrower: Send + Sync {
    /// Calls the loan in if need be. Whether the outbox stays on the list of borrowers.
    fn still_owes(&self, rules: &Rules, now: Instant) -> bool;
}

/// The outboxes with a loan, each once, and some that have had one.
#[derive(Default)]
pub(crate) struct Borrowers(Mutex<List>);

#[derive(Default)]
struct List {
    /// First the one that was not looked at for the longest time.
    outboxes: VecDeque<Weak<dyn Borrower>>,
    /// When loans were looked at last.
    looked: Option<Instant>,
}

impl Borrowers {
    /// A publisher has found no room in the reserve: calls loans in that are not paid back, and
    /// says when to look again.
    pub(super) fn call_in(&self, rules: &Rules, now: Instant) -> Instant {
        let looked_at = if self.is_due(now) { LOOKED_AT } else { 0 };
        for _ in 0..looked_at {
            // The list is not locked while an outbox is.
            let Some(outbox) = self.pop() else {
                break;
            };
            if outbox.upgrade().is_some_and(|outbox| outbox.still_owes(rules, now)) {
                self.0.lock().outboxes.push_back(outbox);
            }
        }
        now + LOOK_AGAIN
    }

    /// Whether it is time to look at loans.
    fn is_due(&self, now: Instant) -> bool {
        let mut list = self.0.lock();
        let due = list.looked.is_none_or(|looked| now >= looked + LOOK_APART);
        if due {
            list.looked = Some(now);
        }
        due
    }

    fn pop(&self) -> Option<Weak<dyn Borrower>> {
        self.0.lock().outboxes.pop_front()
    }

    /// Adds an outbox that is not there. Outboxes that have gone are forgotten here, as long as the
    /// reserve is not used up.
    pub(super) fn add(&self, outbox: Weak<dyn Borrower>) {
        let outboxes = &mut self.0.lock().outboxes;
        for _ in 0..SWEPT {
            if let Some(other) = outboxes.pop_front().filter(|other| other.strong_count() > 0) {
                outboxes.push_back(other);
            }
        }
        outboxes.push_back(outbox);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().outboxes.len()
    }
}

impl fmt::Debug for Borrowers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowers").finish_non_exhaustive()
    }
}
