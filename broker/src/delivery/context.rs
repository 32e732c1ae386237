//! What all outboxes of a broker share: the marks, the policy, and the sums over all queues.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use crate::{
    delivery::{policy::SlowPolicy, reserve::Borrowers, slow_history::SlowConsumerHistory},
    metrics::counters::Counters,
};

/// The marks and policy of every outbox. See [`BrokerBuilder`](crate::builder::BrokerBuilder).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) low_mark: usize,
    pub(crate) high_mark: usize,
    pub(crate) floor_rate: usize,
    /// Over which time the rate of a subscriber is measured.
    pub(crate) window: Duration,
    pub(crate) policy: SlowPolicy,
    pub(crate) deadline: Duration,
    pub(crate) max_buffered: usize,
    /// What may be queued beyond that, see `reserve`.
    pub(crate) reserve: usize,
}

/// What all outboxes of a broker have in common.
#[derive(Debug)]
pub(crate) struct DeliveryContext {
    pub(crate) rules: Rules,
    /// What is queued in all of them, with overhead.
    pub(crate) buffered: AtomicUsize,
    pub(crate) counters: Arc<Counters>,
    /// For how long subscribers have held publishers up lately.
    pub(crate) slow_history: SlowConsumerHistory,
    pub(crate) borrowers: Borrowers,
}

impl DeliveryContext {
    pub(crate) fn new(rules: Rules, counters: Arc<Counters>) -> Arc<Self> {
        let (buffered, slow_history) = (AtomicUsize::new(0), SlowConsumerHistory::default());
        Arc::new(Self { rules, buffered, counters, slow_history, borrowers: Borrowers::default() })
    }
}
