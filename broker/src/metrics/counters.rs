//! The counters of the whole broker, without labels but for the reasons of handshake failures.

use crate::metrics::{
    counter::Counter,
    drops::Drops,
    failures::{FailureCounts, HandshakeFailures},
};

/// Counters that the accept loop, sessions and outboxes add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) rejected: Counter,
    pub(crate) throttled: Counter,
    pub(super) authenticated: Counter,
    pub(super) failures: HandshakeFailures,
    pub(crate) refused: Counter,
    pub(crate) revoked: Counter,
    /// Messages that the key did not allow, of connections that go on.
    pub(crate) denied: Counter,
    /// Connections that were ended since another one uses their stream.
    pub(crate) fenced: Counter,
    /// Connections that were ended since nothing came from the client.
    pub(crate) silent: Counter,
    pub(crate) received_messages: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) unrouted: Counter,
    pub(crate) queued: Counter,
    pub(crate) unqueued: Counter,
    /// Messages that a writer had taken and has not written.
    pub(crate) returned: Counter,
    /// Messages that were written to collectors from their mailboxes: of them nothing else counts.
    pub(crate) mailed: Counter,
    /// Messages that no connection published, once for each subscriber.
    pub(crate) copies: Counter,
    /// Messages for which a publisher has begun to wait, once for each subscriber, and those that
    /// have been decided since.
    pub(crate) awaited: Counter,
    pub(crate) decided: Counter,
    pub(crate) drops: Drops,
    pub(crate) discarded: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) slow_disconnects: Counter,
}

impl Counters {
    pub(crate) fn totals(&self) -> Totals {
        // Read before `queued`, so that a drop in between does not make the difference too small.
        let unqueued = self.unqueued.get();
        Totals {
            accepted: self.accepted.get(),
            rejected: self.rejected.get(),
            throttled: self.throttled.get(),
            authenticated: self.authenticated.get(),
            failures: self.failures.counts(),
            refused: self.refused.get(),
            revoked: self.revoked.get(),
            denied: self.denied.get(),
            fenced: self.fenced.get(),
            silent: self.silent.get(),
            received_messages: self.received_messages.get(),
            received_bytes: self.received_bytes.get(),
            unrouted: self.unrouted.get(),
            queued: self.queued.get(),
            unqueued,
            returned: self.returned.get(),
            mailed: self.mailed.get(),
            copies: self.copies.get(),
            awaited: self.awaited.get(),
            decided: self.decided.get(),
            dropped: self.drops.total(),
            discarded: self.discarded.get(),
            sent_bytes: self.sent_bytes.get(),
            slow_disconnects: self.slow_disconnects.get(),
        }
    }
}

/// The values of [`Counters`] at one moment. [`Stats`](crate::metrics::stats::Stats) says what most
/// of them mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Connections that waited because their address had failed to authenticate a moment before.
    pub(super) throttled: u64,
    pub(super) authenticated: u64,
    pub(super) failures: FailureCounts,
    pub(super) refused: u64,
    pub(super) revoked: u64,
    pub(super) denied: u64,
    pub(super) fenced: u64,
    pub(super) silent: u64,
    pub(super) received_messages: u64,
    pub(super) received_bytes: u64,
    pub(super) unrouted: u64,
    /// Messages that were queued, once for each subscriber.
    pub(super) queued: u64,
    /// Queued messages that were dropped or discarded later.
    pub(super) unqueued: u64,
    /// Messages that a writer had taken and has not written.
    pub(super) returned: u64,
    /// Messages that were written to collectors from their mailboxes.
    pub(super) mailed: u64,
    /// Copies of messages that no connection published.
    pub(super) copies: u64,
    /// Copies for which a publisher has begun to wait, and those that have been decided since.
    pub(super) awaited: u64,
    pub(super) decided: u64,
    pub(super) dropped: u64,
    pub(super) discarded: u64,
    pub(super) sent_bytes: u64,
    pub(super) slow_disconnects: u64,
}

impl Totals {
    /// Messages that were queued and not dropped or discarded later.
    pub(super) fn delivered(&self) -> u64 {
        self.queued.saturating_sub(self.unqueued)
    }
}
