//! The public statistics of a broker: a view of its totals and levels.

use crate::metrics::{counters::Totals, levels::Levels};

/// Statistics of a [`Broker`](crate::broker::Broker). Counters start at zero with the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open now, authenticated or not.
    pub connections: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were turned away because there were too many: in all, from one address, or
    /// of one ident; or too many TLS handshakes of one address. Also those that had to give way to
    /// others before they had authenticated, and those that did not come from a proxy where they
    /// have to.
    pub rejected: u64,
    /// Connections that authenticated.
    pub authenticated: u64,
    /// Wrong idents or secrets, and lookups that failed.
    pub auth_failures: u64,
    /// Connections that ended before AUTH without being turned away for a wrong key: silence,
    /// garbage, EOF.
    pub handshake_failures: u64,
    /// PUBLISH and SUBSCRIBE frames that the key did not allow, and other frames that ended a
    /// session.
    pub refused: u64,
    /// Connections that were ended because their key was removed or got another secret.
    pub revoked: u64,
    /// Messages that the key did not allow and that were refused without ending the connection, as
    /// the extension `hpx/1` can.
    pub refused_messages: u64,
    /// Connections that were ended because another one used their stream (`hpx/1`).
    pub fenced: u64,
    /// Connections that were ended because of
    /// [`client_timeout`](crate::builder::BrokerBuilder::client_timeout).
    pub silent: u64,
    /// Messages that were published.
    pub received_messages: u64,
    /// Their bytes on the wire.
    pub received_bytes: u64,
    /// Of those messages, how many had no subscriber: they went nowhere.
    pub unrouted: u64,
    /// Messages that were queued for a subscriber (once for each) and not dropped or discarded
    /// since, and those that were written to collectors from their mailboxes.
    pub delivered: u64,
    /// Messages that a slow subscriber did not get.
    /// [`Broker::dropped`](crate::broker::Broker::dropped) has them by ident and channel.
    pub dropped: u64,
    /// Messages that were still queued for a subscriber when its connection ended, or came while it
    /// ended.
    pub discarded: u64,
    /// Bytes written to authenticated connections.
    pub sent_bytes: u64,
    /// Subscribers that were disconnected because they stayed slow, and clients that took none of
    /// the answers that the extension `hpx/1` gives them.
    pub slow_disconnects: u64,
    /// Bytes that are queued for subscribers now, with the overhead of keeping them.
    pub buffered: u64,
}

impl Stats {
    pub(crate) fn of(totals: &Totals, levels: &Levels) -> Self {
        Self {
            connections: levels.connections as u64,
            accepted: totals.accepted,
            rejected: totals.rejected,
            authenticated: totals.authenticated,
            auth_failures: totals.failures.authentication(),
            handshake_failures: totals.failures.before_authentication(),
            refused: totals.refused,
            revoked: totals.revoked,
            refused_messages: totals.denied,
            fenced: totals.fenced,
            silent: totals.silent,
            received_messages: totals.received_messages,
            received_bytes: totals.received_bytes,
            unrouted: totals.unrouted,
            delivered: totals.delivered() + totals.mailed,
            dropped: totals.dropped,
            discarded: totals.discarded,
            sent_bytes: totals.sent_bytes,
            slow_disconnects: totals.slow_disconnects,
            buffered: levels.queued_bytes as u64,
        }
    }
}
