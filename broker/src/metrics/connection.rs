//! The counters of one authenticated connection, and their sums.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::metrics::counter::SingleWriterCounter;

/// The counters of one connection. Each has one writer at a time: `received`, `unparsed`,
/// `published` and `copies` the connection's task, the others the holder of its outbox's lock.
#[derive(Debug)]
pub(crate) struct ConnectionCounters {
    pub(super) owner: Box<str>,
    pub(super) received: SingleWriterCounter,
    pub(super) unparsed: SingleWriterCounter,
    pub(super) published: SingleWriterCounter,
    pub(super) copies: SingleWriterCounter,
    pub(super) taken: SingleWriterCounter,
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
            published: SingleWriterCounter::default(),
            copies: SingleWriterCounter::default(),
            taken: SingleWriterCounter::default(),
            filled: SingleWriterCounter::default(),
            drained: SingleWriterCounter::default(),
            queued: SingleWriterCounter::default(),
            dropped: SingleWriterCounter::default(),
            blamed: AtomicBool::new(false),
        }
    }

    /// The messages that the client has published.
    pub(crate) fn published(&self) -> u64 {
        self.published.get()
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
            copies: self.copies.get(),
            taken: self.taken.get(),
        }
    }
}

/// Sums over connections. `dropped`, `copies` and `taken` count messages, all others bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ConnectionTotals {
    /// Read from the client.
    pub(super) received: u64,
    /// Payloads that were queued for the subscriber.
    pub(super) filled: u64,
    /// Written to the subscriber.
    pub(crate) drained: u64,
    /// Messages that were dropped because the subscriber was slow.
    pub(crate) dropped: u64,
    /// Received and not acted on. Of open connections only.
    pub(super) unparsed: u64,
    /// Queued and not written. Of open connections only.
    pub(crate) queued: u64,
    /// Messages that the client published, once for each subscriber at that time. Of open
    /// connections only.
    pub(super) copies: u64,
    /// Messages that the writer has taken out of the queue. Of open connections only.
    pub(super) taken: u64,
}

impl ConnectionTotals {
    /// The sums that remain when the connections have ended.
    pub(super) fn ended(self) -> Self {
        Self { unparsed: 0, queued: 0, copies: 0, taken: 0, ..self }
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
        self.copies += other.copies;
        self.taken += other.taken;
    }
}
