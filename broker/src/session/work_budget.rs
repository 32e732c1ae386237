//! Work budget of a connection: the work and the bytes read after which its task yields to others.
//!
//! The unit of work is about the time that queueing one batch for one subscriber takes. A
//! connection may exceed its budget by the last thing it does, such as a batch for all subscribers
//! of its channel.

/// Bytes that a connection reads before it yields.
const READ_BUDGET: usize = 1 << 20;

/// Units of work that a connection causes before it yields.
const WORK_BUDGET: usize = 2048;

/// Subscribers that are compared for one unit, to find out whether two channels have the same.
const COMPARES_PER_UNIT: usize = 32;

/// Cost of a change to the subscriber list of a channel or pattern, a part of which is copied.
const SUBSCRIPTION_COST: usize = 16;

/// Cost of looking up a channel that is not in the publish cache.
const LOOKUP_COST: usize = 16;

/// Work done and bytes read since the connection last yielded.
#[derive(Debug, Default)]
pub(crate) struct WorkBudget {
    units: usize,
    bytes_read: usize,
}

impl WorkBudget {
    /// Adds units of work.
    pub(crate) fn charge(&mut self, units: usize) {
        self.units += units;
    }

    /// Adds the comparison of two lists of `subscribers`.
    pub(crate) fn charge_comparison(&mut self, subscribers: usize) {
        self.charge(1 + subscribers / COMPARES_PER_UNIT);
    }

    /// Adds the look-up of a channel whose name has `prefixes` beginnings that may be a pattern's.
    pub(crate) fn charge_lookup(&mut self, prefixes: usize) {
        self.charge(LOOKUP_COST + prefixes);
    }

    /// Adds changes to so many subscriber lists.
    pub(crate) fn charge_subscriptions(&mut self, lists: usize) {
        self.charge(SUBSCRIPTION_COST * lists);
    }

    /// Adds bytes read.
    pub(crate) fn charge_read(&mut self, bytes: usize) {
        self.bytes_read += bytes;
    }

    /// Whether the work exceeds its budget.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.units > WORK_BUDGET
    }

    /// Whether to yield because of the work, which is counted from zero then.
    pub(crate) fn must_yield(&mut self) -> bool {
        let exceeded = self.is_exceeded();
        if exceeded {
            self.units = 0;
        }
        exceeded
    }

    /// Whether to yield because of the bytes read, which are counted from zero then.
    pub(crate) fn must_yield_reading(&mut self) -> bool {
        let exceeded = self.bytes_read > READ_BUDGET;
        if exceeded {
            self.bytes_read = 0;
        }
        exceeded
    }

    #[cfg(test)]
    pub(crate) fn units(&self) -> usize {
        self.units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_of_work_and_reading_are_apart_and_start_again_once_exceeded() {
        let mut budget = WorkBudget::default();
        budget.charge(WORK_BUDGET);
        budget.charge_read(READ_BUDGET);
        assert!(!budget.is_exceeded() && !budget.must_yield() && !budget.must_yield_reading());
        budget.charge(1);
        assert!(budget.is_exceeded() && !budget.must_yield_reading());
        assert!(budget.must_yield());
        assert!(!budget.is_exceeded() && !budget.must_yield());
        budget.charge_read(1);
        assert!(budget.must_yield_reading());
        assert!(!budget.must_yield_reading());
    }

    #[test]
    fn costs_grow_with_subscribers_lists_and_prefixes() {
        let cost = |charge: fn(&mut WorkBudget)| {
            let mut budget = WorkBudget::default();
            charge(&mut budget);
            budget.units()
        };
        assert_eq!(cost(|budget| budget.charge_comparison(0)), 1);
        assert_eq!(cost(|budget| budget.charge_comparison(10 * COMPARES_PER_UNIT)), 11);
        assert_eq!(cost(|budget| budget.charge_lookup(3)), LOOKUP_COST + 3);
        assert_eq!(cost(|budget| budget.charge_subscriptions(5)), 5 * SUBSCRIPTION_COST);
    }
}
