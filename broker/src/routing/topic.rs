//! A topic: one channel, and its subscribers at one moment.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use hpfeeds::wire::Channel;

use crate::{
    delivery::outbox::Outbox,
    routing::subscriber_list::{List, Outboxes},
};

/// One channel.
pub(super) struct Topic {
    pub(super) channel: Channel,
    pub(super) subscribers: List,
    pub(super) matching: ArcSwap<Matching>,
}

/// The patterns that match a channel.
#[derive(Default)]
pub(super) struct Matching {
    /// Of the patterns when they were looked up.
    pub(super) version: u64,
    pub(super) lists: Vec<Arc<List>>,
}

impl Topic {
    /// What the lists hold, unless the patterns have to be looked up.
    pub(super) fn subscribers(&self, patterns_version: u64) -> Option<Subscribers> {
        let matching = self.matching.load();
        (matching.version == patterns_version).then(|| {
            let own = self.subscribers.load();
            Subscribers::new(own, matching.lists.iter().map(|list| list.load_full()).collect())
        })
    }
}

/// Who subscribed to a channel, in short: the addresses of up to two outboxes, or that of a longer list and 1, which nothing
/// has. As long as somebody keeps those outboxes, others with the same addresses are the same, in the same order.
pub(super) type Addresses = [usize; 2];

/// Who subscribed to a channel at one moment.
pub(crate) struct Subscribers {
    pub(super) addresses: Option<Addresses>,
    own: Guard<Arc<Outboxes>>,
    /// Nobody subscribes to two texts of which one covers the other, so nobody is in two of these.
    pub(super) matching: Vec<Arc<Outboxes>>,
}

impl Subscribers {
    fn new(own: Guard<Arc<Outboxes>>, matching: Vec<Arc<Outboxes>>) -> Self {
        let mut subscribers = Self { addresses: None, own, matching };
        let mut all = subscribers.iter().map(|outbox| Arc::as_ptr(outbox).addr());
        let addresses = match (all.next(), all.next(), all.next()) {
            (None, ..) => Some([0, 0]),
            (Some(one), None, _) => Some([one, 0]),
            (Some(one), Some(two), None) => Some([one, two]),
            _ => subscribers.only_list().map(|list| [Arc::as_ptr(list).addr(), 1]),
        };
        drop(all);
        subscribers.addresses = addresses;
        subscribers
    }

    /// The list that has all of them, if one has.
    fn only_list(&self) -> Option<&Arc<Outboxes>> {
        let mut lists = [&*self.own].into_iter().chain(&self.matching).filter(|list| !list.is_empty());
        lists.next().filter(|_| lists.next().is_none())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.addresses == Some([0, 0])
    }

    pub(crate) fn len(&self) -> usize {
        self.own.len() + self.matching.iter().map(|list| list.len()).sum::<usize>()
    }

    /// Whether they are the same, in the same order.
    pub(crate) fn are(&self, others: &Self) -> bool {
        self.iter().map(Arc::as_ptr).eq(others.iter().map(Arc::as_ptr))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        let others = self.matching.iter().flat_map(|list| list.iter());
        // Of few subscribers, the first part has all.
        self.own.few().iter().chain(self.own.many().chain(others))
    }
}

impl Default for Subscribers {
    fn default() -> Self {
        Self::new(Guard::from_inner(Arc::default()), Vec::new())
    }
}
