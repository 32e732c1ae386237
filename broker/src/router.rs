//! Channel → subscribers.
//!
//! There is a list of subscribers for each channel and for each pattern. Who publishes to a channel reads its list and
//! those of the patterns that match it: which these are is looked up again only after a pattern has appeared or gone.
//! So a new channel costs nothing but itself, however many wait for it, and a pattern costs the same however many
//! channels there are.

mod list;

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use arc_swap::{ArcSwap, Guard};
use hpfeeds::wire::Channel;

use self::list::{List, Outboxes};
use crate::{
    outbox::Outbox,
    patterns::{prefix, prefixes},
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
struct State {
    topics: HashMap<Channel, Entry>,
    /// By prefix. None is empty.
    patterns: HashMap<Box<str>, Arc<List>>,
    /// What channels have in common that no pattern matches: nearly all, and so it is in the processor's cache.
    nothing: Arc<Matching>,
}

struct Entry {
    topic: Arc<Topic>,
    /// How many [`TopicHandle`]s there are: without one and without subscribers, the channel is forgotten.
    handles: usize,
}

/// One channel.
struct Topic {
    channel: Channel,
    subscribers: List,
    matching: ArcSwap<Matching>,
}

/// The patterns that match a channel.
#[derive(Default)]
struct Matching {
    /// Of the patterns when they were looked up.
    version: u64,
    lists: Vec<Arc<List>>,
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

    fn lock(&self) -> MutexGuard<'_, State> {
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

/// Gives the room of a hundred thousand entries back some time after they are gone.
pub(crate) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to_fit();
    }
}

/// Keeps a channel in the router for a connection that publishes to it.
pub(crate) struct TopicHandle {
    router: Arc<Router>,
    topic: Arc<Topic>,
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

impl Topic {
    /// What the lists hold, unless the patterns have to be looked up.
    fn subscribers(&self, patterns_version: u64) -> Option<Subscribers> {
        let matching = self.matching.load();
        (matching.version == patterns_version).then(|| {
            let own = self.subscribers.load();
            Subscribers::new(own, matching.lists.iter().map(|list| list.load_full()).collect())
        })
    }
}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        self.router.lock().release(&self.topic.channel, |entry| entry.handles -= 1);
    }
}

/// Who subscribed to a channel, in short: the addresses of up to two outboxes, or that of a longer list and 1, which nothing
/// has. As long as somebody keeps those outboxes, others with the same addresses are the same, in the same order.
type Addresses = [usize; 2];

/// Who subscribed to a channel at one moment.
pub(crate) struct Subscribers {
    addresses: Option<Addresses>,
    own: Guard<Arc<Outboxes>>,
    /// Nobody subscribes to two texts of which one covers the other, so nobody is in two of these.
    matching: Vec<Arc<Outboxes>>,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
