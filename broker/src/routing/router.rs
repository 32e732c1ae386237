//! The router: from a channel to its subscribers.
//!
//! There is a list of subscribers for each channel and for each pattern. A publisher reads the list
//! of its channel and those of the patterns that match it: which these are is looked up again only
//! after a pattern has appeared or gone. So a new channel costs nothing but itself, however many
//! patterns match it, and a pattern costs the same however many channels there are.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use arc_swap::ArcSwap;
use hpfeeds::wire::Channel;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    delivery::outbox::Outbox,
    routing::{
        patterns::{prefix, prefixes},
        subscriber_list::SubscriberList,
        topic::{Fingerprint, Matching, Subscribers, Topic},
    },
    util::collections::shrink,
};

/// The channels that have subscribers or publishers, and the patterns that have subscribers.
#[derive(Default)]
pub(crate) struct Router {
    state: Mutex<State>,
    /// Odd while lists change. A reader of several lists that finds it even, and the same before
    /// and after, has seen them as they were together.
    version: AtomicU64,
    /// Grows when a pattern appears or goes.
    patterns_version: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) topics: HashMap<Channel, Entry>,
    /// By the prefix of the pattern. No list is empty.
    pub(super) patterns: HashMap<Box<str>, Arc<SubscriberList>>,
    /// Shared by all channels that no pattern matches: nearly all, and so it is in the processor's
    /// cache.
    pub(super) nothing: Arc<Matching>,
}

pub(super) struct Entry {
    pub(super) topic: Arc<Topic>,
    /// How many [`TopicHandle`]s there are: without one and without subscribers, the channel is
    /// forgotten.
    pub(super) handles: usize,
}

impl Router {
    /// A handle for publishing to a channel, which stays in the router as long as the handle lives.
    pub(crate) fn topic(self: &Arc<Self>, channel: &Channel) -> TopicHandle {
        let mut state = self.lock();
        let entry = state.entry(channel);
        entry.handles += 1;
        let topic = entry.topic.clone();
        self.resolve(&mut state, &topic);
        TopicHandle { router: self.clone(), topic, seen: Cell::default() }
    }

    /// Adds an outbox to the lists of some channels and patterns and removes it from others.
    /// Publishers see all of that at once, or nothing.
    pub(crate) fn change(&self, outbox: &Arc<Outbox>, add: &[Channel], remove: &[Channel]) {
        if add.is_empty() && remove.is_empty() {
            return;
        }
        let mut state = self.lock();
        self.version.fetch_add(1, AcqRel);
        for text in add {
            match prefix(text) {
                Some(prefix) => self.add_pattern(&mut state, prefix, outbox),
                None => state.entry(text).topic.subscribers.push(outbox),
            }
        }
        for text in remove {
            match prefix(text) {
                Some(prefix) => self.remove_pattern(&mut state, prefix, outbox),
                None => state.release(text, |entry| entry.topic.subscribers.remove(outbox)),
            }
        }
        self.version.fetch_add(1, Release);
    }

    fn add_pattern(&self, state: &mut State, prefix: &str, outbox: &Arc<Outbox>) {
        if let Some(list) = state.patterns.get(prefix) {
            return list.push(outbox);
        }
        let list = Arc::new(SubscriberList::default());
        list.push(outbox);
        state.patterns.insert(prefix.into(), list);
        self.patterns_version.fetch_add(1, Release);
    }

    fn remove_pattern(&self, state: &mut State, prefix: &str, outbox: &Arc<Outbox>) {
        let Some(list) = state.patterns.get(prefix) else {
            return;
        };
        list.remove(outbox);
        if list.is_empty() {
            state.patterns.remove(prefix);
            shrink(&mut state.patterns);
            self.patterns_version.fetch_add(1, Release);
        }
    }

    /// Looks the patterns up that match a channel, if they may have changed. The caller holds the
    /// lock.
    fn resolve(&self, state: &mut State, topic: &Topic) {
        let version = self.patterns_version.load(Acquire);
        if topic.matching.load().version == version {
            return;
        }
        let mut lists = Vec::new();
        let name = &*topic.channel;
        // The shorter way: through all patterns, or through the name, which may hold very many
        // dots.
        if state.patterns.len() < name.len() {
            let matching = |prefix: &str| name.len() > prefix.len() && name.starts_with(prefix);
            let mut found: Vec<_> = state.patterns.iter().filter(|(prefix, _)| matching(prefix)).collect();
            // The same order each time, also for simulations.
            found.sort_unstable_by_key(|(prefix, _)| prefix.len());
            lists.extend(found.into_iter().map(|(_, list)| list.clone()));
        } else {
            lists.extend(prefixes(name).filter_map(|prefix| state.patterns.get(prefix)).cloned());
        }
        if !lists.is_empty() {
            return topic.matching.store(Arc::new(Matching { version, lists }));
        }
        if state.nothing.version != version {
            state.nothing = Arc::new(Matching { version, lists });
        }
        topic.matching.store(state.nothing.clone());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("topics", &self.lock().topics.len()).finish_non_exhaustive()
    }
}

impl State {
    fn entry(&mut self, channel: &Channel) -> &mut Entry {
        let nothing = &self.nothing;
        self.topics.entry(channel.clone()).or_insert_with(|| {
            // Before the first pattern, none matches; later, they have to be looked up.
            let matching = if nothing.version == 0 { nothing.clone() } else { Arc::default() };
            let (subscribers, matching) = (SubscriberList::default(), ArcSwap::new(matching));
            Entry { topic: Arc::new(Topic { channel: channel.clone(), subscribers, matching }), handles: 0 }
        })
    }

    /// Changes an entry, and forgets the channel if it has no handle and no subscribers then.
    fn release(&mut self, channel: &Channel, leave: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.topics.get_mut(channel) else {
            return;
        };
        leave(entry);
        if entry.handles == 0 && entry.topic.subscribers.is_empty() {
            self.topics.remove(channel);
            shrink(&mut self.topics);
        }
    }
}

/// Keeps a channel in the router for a connection that publishes to it.
pub(crate) struct TopicHandle {
    router: Arc<Router>,
    pub(super) topic: Arc<Topic>,
    /// The fingerprint of the subscribers that were found last, and the router's version then.
    seen: Cell<Option<(u64, Fingerprint)>>,
}

impl TopicHandle {
    pub(crate) fn channel(&self) -> &Channel {
        &self.topic.channel
    }

    /// A snapshot of the subscribers; each is there once.
    pub(crate) fn subscribers(&self) -> Subscribers {
        let Self { router, topic, .. } = self;
        // Without a lock, as nearly always: the lists as they were together, if no change came
        // between.
        let before = router.version.load(Acquire);
        if before.is_multiple_of(2)
            && let Some(subscribers) = topic.subscribers(router.patterns_version.load(Acquire))
            && router.version.load(Acquire) == before
        {
            return self.remember(subscribers, before);
        }
        // Otherwise with the lock, under which nothing changes.
        let mut state = router.lock();
        router.resolve(&mut state, topic);
        let subscribers = topic.subscribers(router.patterns_version.load(Acquire)).unwrap_or_default();
        self.remember(subscribers, router.version.load(Acquire))
    }

    /// Whether `others` are known, without a look at any list, to be the subscribers now. The hot
    /// test: two loads and a comparison for each batch.
    pub(crate) fn is_known_to_have(&self, others: &Subscribers) -> bool {
        let current = |version| self.router.version.load(Acquire) == version;
        self.seen.get().is_some_and(|(version, seen)| others.fingerprint == Some(seen) && current(version))
    }

    fn remember(&self, subscribers: Subscribers, version: u64) -> Subscribers {
        self.seen.set(subscribers.fingerprint.map(|fingerprint| (version, fingerprint)));
        subscribers
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        self.router.lock().release(&self.topic.channel, |entry| entry.handles -= 1);
    }
}
