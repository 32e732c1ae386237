//! Channel → subscribers.

use std::{
    collections::HashMap,
    fmt, mem,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use hpfeeds::wire::Channel;

use crate::{metrics::Subscribed, outbox::Outbox};

/// Knows the channels that somebody subscribes to or publishes to.
#[derive(Default)]
pub(crate) struct Router {
    topics: Mutex<HashMap<Channel, Entry>>,
}

struct Entry {
    topic: Arc<Topic>,
    /// How many [`TopicHandle`]s there are: with the last one, the channel is forgotten.
    handles: usize,
}

/// One channel.
pub(crate) struct Topic {
    channel: Channel,
    /// Copied when it changes, so that publishers read it without a lock.
    subscribers: ArcSwap<Vec<Arc<Outbox>>>,
}

impl Router {
    /// A handle on a channel, which exists as long as there is one.
    pub(crate) fn topic(self: &Arc<Self>, channel: &Channel) -> TopicHandle {
        let mut topics = self.lock();
        let entry = topics.entry(channel.clone()).or_insert_with(|| Entry {
            topic: Arc::new(Topic { channel: channel.clone(), subscribers: ArcSwap::default() }),
            handles: 0,
        });
        entry.handles += 1;
        TopicHandle { router: self.clone(), topic: entry.topic.clone() }
    }

    /// Delivers a channel's messages to an outbox as long as the subscription is kept.
    pub(crate) fn subscribe(self: &Arc<Self>, channel: &Channel, outbox: &Arc<Outbox>) -> Subscription {
        let topic = self.topic(channel);
        topic.subscribers.rcu(|list| {
            let mut longer = Vec::with_capacity(list.len() + 1);
            longer.extend_from_slice(list);
            longer.push(outbox.clone());
            longer
        });
        let counted = outbox.session().subscribed(channel);
        Subscription { topic, outbox: outbox.clone(), _counted: counted }
    }

    /// How many channels are known.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn release(&self, channel: &Channel) {
        let mut topics = self.lock();
        if let Some(entry) = topics.get_mut(channel) {
            entry.handles -= 1;
            if entry.handles == 0 {
                topics.remove(channel);
            }
        }
        // Gives the room of a hundred thousand channels back some time after they are gone.
        if topics.capacity() > 1024 && topics.len() < topics.capacity() / 8 {
            topics.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Channel, Entry>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("topics", &self.lock().len()).finish()
    }
}

impl Topic {
    /// Calls `each` with everybody who subscribes now.
    pub(crate) fn for_each(&self, each: impl FnMut(&Arc<Outbox>)) {
        self.subscribers.load().iter().for_each(each);
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        !self.subscribers.load().is_empty()
    }

    fn remove(&self, outbox: &Arc<Outbox>) {
        self.subscribers.rcu(|list| {
            let mut shorter = Vec::with_capacity(list.len().saturating_sub(1));
            shorter.extend(list.iter().filter(|other| !Arc::ptr_eq(other, outbox)).cloned());
            shorter
        });
    }
}

/// Keeps a channel in the router: held by each subscription, and by each connection that publishes to it.
pub(crate) struct TopicHandle {
    router: Arc<Router>,
    topic: Arc<Topic>,
}

impl Deref for TopicHandle {
    type Target = Topic;

    fn deref(&self) -> &Topic {
        &self.topic
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        self.router.release(&self.topic.channel);
    }
}

/// One outbox in the list of one channel; dropping it takes it out.
pub(crate) struct Subscription {
    topic: TopicHandle,
    outbox: Arc<Outbox>,
    _counted: Subscribed,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.topic.remove(&self.outbox);
    }
}

/// The channels that one connection subscribes to.
pub(crate) struct Subscriptions {
    router: Arc<Router>,
    outbox: Arc<Outbox>,
    channels: HashMap<Channel, Subscription>,
}

impl Subscriptions {
    pub(crate) fn new(router: Arc<Router>, outbox: Arc<Outbox>) -> Self {
        Self { router, outbox, channels: HashMap::new() }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Adds a channel, once: `false` when it was there already.
    pub(crate) fn add(&mut self, channel: Channel) -> bool {
        if self.channels.contains_key(&channel) {
            return false;
        }
        let subscription = self.router.subscribe(&channel, &self.outbox);
        self.channels.insert(channel, subscription);
        true
    }

    /// Takes a channel out, if it is there.
    pub(crate) fn remove(&mut self, channel: &str) {
        self.channels.remove(channel);
        if self.channels.is_empty() {
            drop(mem::take(&mut self.channels));
        }
    }

    pub(crate) fn contains(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        name.parse().unwrap()
    }

    fn count(topic: &Topic) -> usize {
        let mut count = 0;
        topic.for_each(|_| count += 1);
        count
    }

    #[test]
    fn a_channel_lives_as_long_as_somebody_uses_it() {
        let router = Arc::new(Router::default());
        let publisher = router.topic(&channel("a"));
        let subscription = router.subscribe(&channel("a"), &Outbox::for_test());
        assert_eq!((router.len(), count(&publisher)), (1, 1));
        drop(subscription);
        assert_eq!((router.len(), count(&publisher)), (1, 0));
        assert!(!publisher.has_subscribers());
        drop(publisher);
        assert_eq!(router.len(), 0);
    }

    #[test]
    fn a_publisher_that_came_first_sees_later_subscribers() {
        let router = Arc::new(Router::default());
        let publisher = router.topic(&channel("a"));
        let one = router.subscribe(&channel("a"), &Outbox::for_test());
        let two = router.subscribe(&channel("a"), &Outbox::for_test());
        let elsewhere = router.subscribe(&channel("b"), &Outbox::for_test());
        assert_eq!(count(&publisher), 2);
        drop(one);
        assert_eq!(count(&publisher), 1);
        drop((two, elsewhere));
        assert_eq!(count(&publisher), 0);
    }

    #[test]
    fn a_connection_subscribes_once_to_a_channel() {
        let router = Arc::new(Router::default());
        let topic = router.topic(&channel("a"));
        let mut mine = Subscriptions::new(router.clone(), Outbox::for_test());
        assert!(mine.add(channel("a")));
        assert!(!mine.add(channel("a")));
        assert_eq!((count(&topic), mine.len()), (1, 1));
        mine.remove("never");
        mine.remove("a");
        mine.remove("a");
        assert_eq!((count(&topic), mine.len()), (0, 0));
        mine.add(channel("a"));
        mine.add(channel("b"));
        drop(mine);
        assert_eq!((count(&topic), router.len()), (0, 1));
    }

    #[test]
    fn a_hundred_thousand_channels_come_and_go() {
        let router = Arc::new(Router::default());
        let mut mine = Subscriptions::new(router.clone(), Outbox::for_test());
        for n in 0..100_000 {
            mine.add(channel(&format!("channel-{n}")));
        }
        assert_eq!(router.len(), 100_000);
        drop(mine);
        assert_eq!(router.len(), 0);
        assert!(router.lock().capacity() <= 2048);
    }
}
