//! The context that all outboxes of a broker share: marks, policy, and the sums over all queues.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{
    delivery::{policy::Rules, reserve::Borrowers, slow_history::SlowConsumerHistory},
    incidents::Incidents,
    metrics::counters::Counters,
};

/// The context of all outboxes of a broker.
#[derive(Debug)]
pub(crate) struct DeliveryContext {
    pub(crate) rules: Rules,
    /// The cost of all queues together, in bytes with overhead.
    pub(crate) buffered: AtomicUsize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) incidents: Arc<Incidents>,
    /// For how long subscribers have held publishers up lately.
    pub(crate) slow_history: SlowConsumerHistory,
    pub(crate) borrowers: Borrowers,
}

impl DeliveryContext {
    pub(crate) fn new(rules: Rules, counters: Arc<Counters>) -> Arc<Self> {
        let (buffered, slow_history) = (AtomicUsize::new(0), SlowConsumerHistory::default());
        let (incidents, borrowers) = (Arc::default(), Borrowers::default());
        Arc::new(Self { rules, buffered, counters, incidents, slow_history, borrowers })
    }

    /// By how many bytes a batch would exceed the bound for all queues together.
    #[inline]
    pub(super) fn excess(&self, cost: usize) -> usize {
        self.buffered.load(Relaxed).saturating_add(cost).saturating_sub(self.rules.max_buffered)
    }

    /// A publisher has found no room in the reserve: calls loans in that are not paid back, and
    /// says when to look again.
    pub(super) fn call_in(&self, now: Instant) -> Instant {
        self.borrowers.call_in(&self.rules, now)
    }
}
