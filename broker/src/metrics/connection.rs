//! The counters of one authenticated connection, and their sums.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::metrics::counter::SingleWriterCounter;

/// The counters of one connection. Each has one writer at a time: `received` and `unparsed` the
/// connection's task, the others the holder of its outbox's lock.
#[derive(Debug)]
pub(super) struct ConnectionCounters {
    pub(super) owner: Box<str>,
    pub(super) received: SingleWriterCounter,
    pub(super) unparsed: SingleWriterCounter,
    pub(super) filled: SingleWriterCounter,
    pub(super) drained: SingleWriterCounter,
    pub(super) queued: SingleWriterCounter,
    pub(super) dropped: SingleWriterCounter,
    /// Whether an error of this connection has been counted.
    blamed: AtomicBool,
}

impl ConnectionCounters {
    pub(super) fn new(owner: &str) -> Self {
        Self {
            owner: owner.into(),
            received: SingleWriterCounter::default(),
            unparsed: SingleWriterCounter::default(),
            filled: SingleWriterCounter::default(),
            drained: SingleWriterCounter::default(),
            queued: SingleWriterCounter::default(),
            dropped: SingleWriterCounter::default(),
            blamed: AtomicBool::new(false),
        }
    }

    pub(super) fn blame(&self) {
        self.blamed.store(true, Relaxed);
    }

    pub(super) fn is_blamed(&self) -> bool {
        self.blamed.load(Relaxed)
    }

    pub(super) fn totals(&self) -> ConnectionTotals {
        ConnectionTotals {
            received: self.received.get(),
            filled: self.filled.get(),
            drained: self.drained.get(),
            dropped: self.dropped.get(),
            unparsed: self.unparsed.get(),
            queued: self.queued.get(),
        }
    }
}

/// Sums over connections. All but `dropped`, which counts messages, are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ConnectionTotals {
    /// Read from the client.
    pub(super) received: u64,
    /// Payloads that were queued for the subscriber.
    pub(super) filled: u64,
    /// Written to the subscriber.
    pub(super) drained: u64,
    /// Messages that were dropped because the subscriber was slow.
    pub(super) dropped: u64,
    /// Received and not acted on. Of open connections only.
    pub(super) unparsed: u64,
    /// Queued and not written. Of open connections only.
    pub(super) queued: u64,
}

impl ConnectionTotals {
    /// The sums that remain when the connections have ended.
    pub(super) fn ended(self) -> Self {
        Self { unparsed: 0, queued: 0, ..self }
    }
}

impl AddAssign for ConnectionTotals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.filled += other.filled;
        self.drained += other.drained;
        self.dropped += other.dropped;
        self.unparsed += other.unparsed;
        self.queued += other.queued;
    }
}
