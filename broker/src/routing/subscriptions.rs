//! The subscriptions of one connection.

use std::{collections::BTreeMap, sync::Arc};

use hpfeeds::wire::Channel;

use crate::{
    auth::key::Key,
    delivery::outbox::Outbox,
    metrics::channels::Subscribed,
    routing::{
        patterns::{SubscriptionSet, allowed, inside, is_covered},
        router::Router,
    },
};

/// The most subscriber lists that are changed at once when a connection ends: other connections get
/// the router's lock in between.
const CHUNK: usize = 256;

/// The channels and patterns that one connection subscribes to.
pub(crate) struct Subscriptions {
    router: Arc<Router>,
    outbox: Arc<Outbox>,
    /// The texts that the client has asked for; each is counted for the exporter.
    wanted: BTreeMap<Channel, Subscribed>,
    /// The parts of those that its key allows: the lists that the outbox is in. As none covers
    /// another, it gets no message twice.
    held: SubscriptionSet,
}

impl Subscriptions {
    pub(crate) fn new(router: Arc<Router>, outbox: Arc<Outbox>) -> Self {
        Self { router, outbox, wanted: BTreeMap::new(), held: SubscriptionSet::default() }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Adds a channel or a pattern, once. Returns how many lists have changed, or `None` when the
    /// key allows no part of it.
    pub(crate) fn add(&mut self, wanted: Channel, key: &Key) -> Option<usize> {
        // It is allowed, as another key is applied at once.
        if self.wanted.contains_key(&wanted) {
            return Some(0);
        }
        let allowed = allowed(key, &wanted);
        if allowed.is_empty() {
            return None;
        }
        let counted = self.outbox.session().subscribed(&wanted);
        self.wanted.insert(wanted, counted);
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        // The parts themselves may overlap; those that were there before do not.
        for part in allowed.into_iter().collect::<SubscriptionSet>().iter() {
            if let Some(covered) = self.held.insert(part.clone()) {
                add.push(part.clone());
                remove.extend(covered);
            }
        }
        self.router.change(&self.outbox, &add, &remove);
        Some(add.len() + remove.len())
    }

    /// Removes a channel or a pattern, if it is there; the parts that others cover stay. Returns
    /// how many lists have changed plus how many subscriptions had to be looked at.
    pub(crate) fn remove(&mut self, wanted: &str, key: &Key) -> usize {
        if self.wanted.remove(wanted).is_none() || is_covered(&self.wanted, wanted) {
            return 0;
        }
        let before = self.held.inside(wanted);
        let rest: Vec<_> = inside(&self.wanted, wanted).collect();
        let looked_at = rest.len();
        let after: SubscriptionSet = rest.into_iter().flat_map(|rest| allowed(key, rest)).collect();
        let before: SubscriptionSet = before.into_iter().collect();
        looked_at + self.replace(&before, &after)
    }

    /// Applies another key. Returns how many lists have changed, or a subscription that the key no
    /// longer allows any part of.
    pub(crate) fn rekey(&mut self, key: &Key) -> Result<usize, Channel> {
        let mut after = SubscriptionSet::default();
        for wanted in self.wanted.keys() {
            let allowed = allowed(key, wanted);
            if allowed.is_empty() {
                return Err(wanted.clone());
            }
            for part in allowed {
                let _ = after.insert(part);
            }
        }
        let before = std::mem::take(&mut self.held);
        Ok(self.replace(&before, &after))
    }

    pub(crate) fn contains(&self, wanted: &str) -> bool {
        self.wanted.contains_key(wanted)
    }

    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Changes the lists that the outbox is in: from those of `before` to those of `after`.
    fn replace(&mut self, before: &SubscriptionSet, after: &SubscriptionSet) -> usize {
        let (add, remove) = (after.without(before), before.without(after));
        for text in &remove {
            self.held.remove(text);
        }
        for text in after.iter() {
            let _ = self.held.insert(text.clone());
        }
        self.router.change(&self.outbox, &add, &remove);
        add.len() + remove.len()
    }
}

impl Subscriptions {
    /// Removes the connection from at most [`CHUNK`] lists, as it ends. Whether it is in others
    /// still: the caller lets other tasks run in between.
    pub(crate) fn leave(&mut self) -> bool {
        self.router.change(&self.outbox, &[], &self.held.take(CHUNK));
        // Texts that others cover are in no list.
        (0..CHUNK).for_each(|_| drop(self.wanted.pop_first()));
        !self.wanted.is_empty() || self.held.iter().next().is_some()
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        while self.leave() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn ending_connection_leaves_its_lists_in_portions() {
        const COUNT: usize = 10_000;
        let router = Arc::<Router>::default();
        let key = Key::new("test", "s").unwrap().subscribe(["*"]).unwrap();
        let mut subscriptions = Subscriptions::new(router.clone(), Outbox::for_test());
        for n in 0..COUNT {
            subscriptions.add(format!("c{n}").parse().unwrap(), &key).unwrap();
        }
        let (mut left, mut steps) = (COUNT, 0);
        while subscriptions.leave() {
            let now = subscriptions.held.iter().count();
            assert!((1..=CHUNK).contains(&(left - now)), "{} in one step", left - now);
            (left, steps) = (now, steps + 1);
        }
        assert_eq!((steps, subscriptions.len()), (COUNT / CHUNK, 0));
        assert!(router.topic(&"c0".parse().unwrap()).subscribers().is_empty());
    }
}
