use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::metrics::counter::Counter;
use hpfeeds::wire::{Channel, Ident};

/// The most pairs of ident and channel that drops are kept apart by; what comes later is counted in the total only.
const MAX_DROP_ENTRIES: usize = 10_000;

/// What a [`Broker`](crate::broker::Broker) has done so far. Counters start at zero with the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open now, authenticated or not.
    pub connections: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were turned away because there were too many: in all, from one address, or of one ident; or too
    /// many TLS handshakes of one address. Also those that had to give way to others before they had authenticated, and
    /// those that did not come from a proxy where they have to.
    pub rejected: u64,
    /// Connections that authenticated.
    pub authenticated: u64,
    /// Wrong idents or secrets, and lookups that failed.
    pub auth_failures: u64,
    /// Connections that ended before AUTH without being turned away for a wrong key: silence, garbage, EOF.
    pub handshake_failures: u64,
    /// PUBLISH and SUBSCRIBE frames that the key did not allow, and other frames that ended a session.
    pub refused: u64,
    /// Connections that were ended because their key was removed or got another secret.
    pub revoked: u64,
    /// Messages that were published.
    pub received_messages: u64,
    /// Their bytes on the wire.
    pub received_bytes: u64,
    /// Of those messages, how many nobody subscribed to: they went nowhere.
    pub unrouted: u64,
    /// Messages that were queued for a subscriber (once for each) and not dropped or discarded since.
    pub delivered: u64,
    /// Messages that a slow subscriber did not get. See [`Broker::dropped`](crate::broker::Broker::dropped) for whom.
    pub dropped: u64,
    /// Messages that were still queued for a subscriber when its connection ended, or came while it ended.
    pub discarded: u64,
    /// Bytes written to authenticated connections.
    pub sent_bytes: u64,
    /// Subscribers that were disconnected because they stayed slow.
    pub slow_disconnects: u64,
    /// Bytes that are queued for subscribers now, with the cost of keeping them.
    pub buffered: u64,
}

/// How many messages of a channel a subscriber did not get because it was slow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Who was slow.
    pub ident: Ident,
    /// The channel.
    pub channel: Channel,
    /// The number of messages.
    pub messages: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) rejected: Counter,
    pub(crate) authenticated: Counter,
    pub(crate) auth_failures: Counter,
    pub(crate) handshake_failures: Counter,
    pub(crate) refused: Counter,
    pub(crate) revoked: Counter,
    pub(crate) received_messages: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) unrouted: Counter,
    pub(crate) queued: Counter,
    pub(crate) unqueued: Counter,
    pub(crate) dropped: Counter,
    pub(crate) discarded: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) slow_disconnects: Counter,
    drops: Mutex<DropTable>,
}

/// Who did not get what. Two levels, so that looking up needs no allocation.
#[derive(Debug, Default)]
struct DropTable {
    messages: HashMap<Ident, HashMap<Channel, u64>>,
    /// Of all idents together.
    entries: usize,
}

impl DropTable {
    fn add(&mut self, ident: &Ident, channel: &str, messages: u64) {
        let known = self.messages.get_mut(ident).and_then(|channels| channels.get_mut(channel));
        if let Some(count) = known {
            *count += messages;
        } else if self.entries < MAX_DROP_ENTRIES
            && let Ok(channel) = Channel::new(channel)
        {
            self.messages.entry(ident.clone()).or_default().insert(channel, messages);
            self.entries += 1;
        }
    }
}

impl Counters {
    /// Counts messages that a slow subscriber does not get: how many on which channels.
    pub(crate) fn drop_messages<'a>(&self, ident: &Ident, channels: impl Iterator<Item = (&'a str, u64)>) {
        let mut table = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        for (channel, messages) in channels {
            self.dropped.add(messages);
            table.add(ident, channel, messages);
        }
    }

    pub(crate) fn drops(&self) -> Vec<Dropped> {
        let table = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = table.messages.iter().flat_map(|(ident, channels)| {
            channels.iter().map(|(channel, messages)| Dropped {
                ident: ident.clone(),
                channel: channel.clone(),
                messages: *messages,
            })
        });
        entries.collect()
    }

    pub(crate) fn snapshot(&self, connections: usize, buffered: usize) -> Stats {
        // Read before `queued`, so that a drop in between does not make the difference too small.
        let unqueued = self.unqueued.get();
        Stats {
            connections: connections as u64,
            accepted: self.accepted.get(),
            rejected: self.rejected.get(),
            authenticated: self.authenticated.get(),
            auth_failures: self.auth_failures.get(),
            handshake_failures: self.handshake_failures.get(),
            refused: self.refused.get(),
            revoked: self.revoked.get(),
            received_messages: self.received_messages.get(),
            received_bytes: self.received_bytes.get(),
            unrouted: self.unrouted.get(),
            delivered: self.queued.get().saturating_sub(unqueued),
            dropped: self.dropped.get(),
            discarded: self.discarded.get(),
            sent_bytes: self.sent_bytes.get(),
            slow_disconnects: self.slow_disconnects.get(),
            buffered: buffered as u64,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn drops_are_kept_apart_up_to_a_bound_and_all_counted() {
        let counters = Counters::default();
        let ident = "i".parse().unwrap();
        for n in 0..MAX_DROP_ENTRIES + 10 {
            counters.drop_messages(&ident, [(&*format!("c{n}"), 1)].into_iter());
        }
        counters.drop_messages(&ident, [("c0", 5)].into_iter());
        let drops = counters.drops();
        assert_eq!(drops.len(), MAX_DROP_ENTRIES);
        assert_eq!(drops.iter().find(|entry| entry.channel == "c0").unwrap().messages, 6);
        assert_eq!(counters.snapshot(0, 0).dropped, MAX_DROP_ENTRIES as u64 + 15);
    }
}
