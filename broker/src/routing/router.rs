//! Channel → subscribers.
//!
//! There is a list of subscribers for each channel and for each pattern. Who publishes to a channel reads its list and
//! those of the patterns that match it: which these are is looked up again only after a pattern has appeared or gone.
//! So a new channel costs nothing but itself, however many wait for it, and a pattern costs the same however many
//! channels there are.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use arc_swap::ArcSwap;
use hpfeeds::wire::Channel;

use crate::{
    delivery::outbox::Outbox,
    routing::{
        patterns::{prefix, prefixes},
        subscriber_list::List,
        topic::{Addresses, Matching, Subscribers, Topic},
    },
    util::collections::shrink,
};

/// Knows the channels that somebody subscribes to or publishes to, and the patterns.
#[derive(Default)]
pub(crate) struct Router {
    state: Mutex<State>,
    /// Odd while lists change. Who reads several of them and finds it even and the same before and after has seen them
    /// as they were together.
    version: AtomicU64,
    /// Grows when a pattern appears or goes.
    patterns_version: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) topics: HashMap<Channel, Entry>,
    /// By prefix. None is empty.
    pub(super) patterns: HashMap<Box<str>, Arc<List>>,
    /// What channels have in common that no pattern matches: nearly all, and so it is in the processor's cache.
    pub(super) nothing: Arc<Matching>,
}

pub(super) struct Entry {
    pub(super) topic: Arc<Topic>,
    /// How many [`TopicHandle`]s there are: without one and without subscribers, the channel is forgotten.
    pub(super) handles: usize,
}

impl Router {
    /// A handle for publishing to a channel, which exists as long as there is one.
    pub(crate) fn topic(self: &Arc<Self>, channel: &Channel) -> TopicHandle {
        let mut state = self.lock();
        let entry = state.entry(channel);
        entry.handles += 1;
        let topic = entry.topic.clone();
        self.resolve(&mut state, &topic);
        TopicHandle { router: self.clone(), topic, seen: Cell::default() }
    }

    /// Puts an outbox into the lists of some channels and patterns and takes it out of others. Publishers see all of
    /// that at once, or nothing.
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
        let list = Arc::new(List::default());
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

    /// Looks the patterns up that match a channel, if they may have changed. Nobody else does meanwhile.
    fn resolve(&self, state: &mut State, topic: &Topic) {
        let version = self.patterns_version.load(Acquire);
        if topic.matching.load().version == version {
            return;
        }
        let mut lists = Vec::new();
        let name = &*topic.channel;
        // A name may hold very many dots.
        if state.patterns.len() < name.len() {
            let matching = |prefix: &str| name.len() > prefix.len() && name.starts_with(prefix);
            let mut found: Vec<_> = state.patterns.iter().filter(|(prefix, _)| matching(prefix)).collect();
            // In an order that is the same each time, also for simulations.
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            // Before there was any pattern that is how it is; later they have to be looked up.
            let matching = if nothing.version == 0 { nothing.clone() } else { Arc::default() };
            let (subscribers, matching) = (List::default(), ArcSwap::new(matching));
            Entry { topic: Arc::new(Topic { channel: channel.clone(), subscribers, matching }), handles: 0 }
        })
    }

    /// Somebody needs a channel no longer, maybe the last.
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
    /// Who was found last, at which version of the router.
    seen: Cell<Option<(u64, Addresses)>>,
}

impl TopicHandle {
    /// Everybody who subscribes now, once.
    pub(crate) fn subscribers(&self) -> Subscribers {
        let Self { router, topic, .. } = self;
        let before = router.version.load(Acquire);
        if before.is_multiple_of(2)
            && let Some(subscribers) = topic.subscribers(router.patterns_version.load(Acquire))
            && router.version.load(Acquire) == before
        {
            return self.remember(subscribers, before);
        }
        // Nothing changes while this is locked.
        let mut state = router.lock();
        router.resolve(&mut state, topic);
        let subscribers = topic.subscribers(router.patterns_version.load(Acquire)).unwrap_or_default();
        self.remember(subscribers, router.version.load(Acquire))
    }

    /// Whether it is known, without looking at any list, that `others` are who subscribes now.
    pub(crate) fn is_known_to_have(&self, others: &Subscribers) -> bool {
        let current = |version| self.router.version.load(Acquire) == version;
        self.seen.get().is_some_and(|(version, seen)| others.addresses == Some(seen) && current(version))
    }

    fn remember(&self, subscribers: Subscribers, version: u64) -> Subscribers {
        self.seen.set(subscribers.addresses.map(|addresses| (version, addresses)));
        subscribers
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        self.router.lock().release(&self.topic.channel, |entry| entry.handles -= 1);
    }
}
