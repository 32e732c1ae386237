//! A topic: one channel, and a snapshot of its subscribers.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use hpfeeds::wire::Channel;

use crate::{
    delivery::outbox::Outbox,
    routing::subscriber_list::{Outboxes, SubscriberList},
};

/// One channel: its own subscribers, and the patterns that match it.
pub(super) struct Topic {
    pub(super) channel: Channel,
    pub(super) subscribers: SubscriberList,
    pub(super) matching: ArcSwap<Matching>,
}

/// The subscribers of the patterns that match a channel.
#[derive(Default)]
pub(super) struct Matching {
    /// The version of the router's patterns when they were looked up.
    pub(super) version: u64,
    pub(super) lists: Vec<Arc<SubscriberList>>,
}

impl Topic {
    /// A snapshot of the lists, unless the patterns have to be looked up again.
    pub(super) fn subscribers(&self, patterns_version: u64) -> Option<Subscribers> {
        let matching = self.matching.load();
        (matching.version == patterns_version).then(|| {
            let own = self.subscribers.load();
            Subscribers::new(own, matching.lists.iter().map(|list| list.load_full()).collect())
        })
    }
}

/// Fingerprint of a subscriber list, for a cheap equality test. Up to two subscribers: the
/// addresses of their `Outbox`es. More: the list's address and the tag `1`, never a valid address.
///
/// Equal fingerprints mean the same subscribers in the same order while one of the two snapshots
/// lives: it keeps the addresses from being used again. An id of the list would not do: channels
/// with the same subscriber have a list each.
pub(super) type Fingerprint = [usize; 2];

/// A snapshot of the subscribers of a channel.
pub(crate) struct Subscribers {
    /// `None`: there are several lists with more than two subscribers together.
    pub(super) fingerprint: Option<Fingerprint>,
    own: Guard<Arc<Outboxes>>,
    /// No outbox is in two of these: of the texts that one connection holds, none covers another.
    pub(super) matching: Vec<Arc<Outboxes>>,
}

impl Subscribers {
    fn new(own: Guard<Arc<Outboxes>>, matching: Vec<Arc<Outboxes>>) -> Self {
        let mut subscribers = Self { fingerprint: None, own, matching };
        let mut all = subscribers.iter().map(|outbox| Arc::as_ptr(outbox).addr());
        let fingerprint = match (all.next(), all.next(), all.next()) {
            (None, ..) => Some([0, 0]),
            (Some(one), None, _) => Some([one, 0]),
            (Some(one), Some(two), None) => Some([one, two]),
            _ => subscribers.only_list().map(|list| [Arc::as_ptr(list).addr(), 1]),
        };
        drop(all);
        subscribers.fingerprint = fingerprint;
        subscribers
    }

    /// The list that has all of them, if one has.
    fn only_list(&self) -> Option<&Arc<Outboxes>> {
        let mut lists = [&*self.own].into_iter().chain(&self.matching).filter(|list| !list.is_empty());
        lists.next().filter(|_| lists.next().is_none())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fingerprint == Some([0, 0])
    }

    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.matching.iter().map(|list| list.len()).sum::<usize>()
    }

    /// Whether both have the same subscribers in the same order.
    pub(crate) fn are(&self, others: &Self) -> bool {
        self.iter().map(Arc::as_ptr).eq(others.iter().map(Arc::as_ptr))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        let others = self.matching.iter().flat_map(|list| list.iter());
        // Most channels have few subscribers, which are all in the first part.
        self.own.few().iter().chain(self.own.many().chain(others))
    }
}

impl Default for Subscribers {
    fn default() -> Self {
        Self::new(Guard::from_inner(Arc::default()), Vec::new())
    }
}
