//! The registry of authenticated connections: the live key of each ident, and the quota of each
//! account.

pub(crate) mod quota;
pub(crate) mod recheck;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
};

use hpfeeds::wire::{Ident, Secret};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    auth::key::Key,
    delivery::outbox::Outbox,
    identity::quota::{Owner, Quota, QuotaRules, QuotaTable},
    util::collections::shrink,
};

/// The idents that have connections, and the quotas of their accounts.
#[derive(Debug)]
pub(crate) struct IdentRegistry {
    state: Mutex<RegistryState>,
    /// Asks for all keys to be looked up now.
    pub(crate) recheck: Notify,
}

#[derive(Debug)]
struct RegistryState {
    idents: HashMap<Ident, Arc<IdentState>>,
    quotas: QuotaTable,
}

/// The live key of one ident, and its connections.
#[derive(Debug)]
pub(crate) struct IdentState {
    ident: Ident,
    /// Grows when there is something for its connections to look at.
    generation: AtomicU64,
    state: Mutex<LiveKey>,
}

#[derive(Debug, Default)]
struct LiveKey {
    connections: usize,
    /// The connections that can be woken up, by their numbers.
    outboxes: HashMap<u64, Arc<Outbox>>,
    /// How many connections there have been: the number of the latest.
    joined: u64,
    /// The key that a lookup found last, or that of the first connection. `None`: there is no such
    /// key any more.
    found: Option<Arc<Key>>,
    /// The number of the latest connection when that lookup began: it is no news for later ones.
    as_of: u64,
    /// A connection may have another key than `found`, or has not heard of it.
    uneven: bool,
}

impl IdentRegistry {
    pub(crate) fn new(rules: QuotaRules) -> Self {
        let state = RegistryState { idents: HashMap::new(), quotas: QuotaTable::new(rules) };
        Self { state: Mutex::new(state), recheck: Notify::const_new() }
    }

    /// Adds a connection that has authenticated with a secret of a key; `None` when its
    /// [account](Key::account) has as many as it may.
    pub(crate) fn join(self: &Arc<Self>, ident: Ident, key: Arc<Key>, secret: Secret) -> Option<Membership> {
        let mut registry = self.state.lock();
        let owner = key.account.as_deref().map_or(Owner::Ident(&ident), Owner::Account);
        let quota = registry.quotas.connect(owner, Instant::now())?;
        let ident_state = registry.idents.entry(ident).or_insert_with_key(|ident| {
            Arc::new(IdentState { ident: ident.clone(), generation: AtomicU64::new(0), state: Mutex::default() })
        });
        let mut live = ident_state.state.lock();
        let mut key = key;
        if live.connections == 0 {
            (live.found, live.uneven) = (Some(key.clone()), false);
        } else {
            match live.found.as_ref().filter(|found| is_same(found, &key)) {
                // All connections share one copy.
                Some(found) => key = found.clone(),
                None => live.uneven = true,
            }
        }
        live.connections += 1;
        live.joined += 1;
        let (number, seen) = (live.joined, ident_state.generation.load(Acquire));
        drop(live);
        Some(Membership { registry: self.clone(), ident: ident_state.clone(), quota, key, secret, number, seen })
    }

    /// All idents in order, so that simulations look them up in the same order each time.
    pub(crate) fn all(&self) -> Vec<Arc<IdentState>> {
        let mut all: Vec<_> = self.state.lock().idents.values().cloned().collect();
        all.sort_unstable_by(|one, other| one.ident.cmp(&other.ident));
        all
    }
}

impl IdentState {
    pub(crate) fn ident(&self) -> &Ident {
        &self.ident
    }

    /// The number of the latest connection: what a lookup finds that begins now is about this one
    /// and those before it.
    pub(crate) fn latest(&self) -> u64 {
        self.state.lock().joined
    }

    /// Tells the connections what a lookup has found, if that is news.
    pub(crate) fn found(&self, key: Option<Arc<Key>>, as_of: u64) {
        let mut live = self.state.lock();
        let same = match (&live.found, &key) {
            (Some(old), Some(new)) => is_same(old, new),
            (None, None) => true,
            _ => false,
        };
        if same && !live.uneven {
            return;
        }
        live.found = key;
        live.as_of = as_of;
        live.uneven = live.joined != as_of;
        self.generation.fetch_add(1, AcqRel);
        let mut outboxes: Vec<_> = live.outboxes.iter().collect();
        outboxes.sort_unstable_by_key(|(number, _)| **number);
        for (_, outbox) in outboxes {
            outbox.wake();
        }
    }
}

/// One authenticated connection of an ident.
#[derive(Debug)]
pub(crate) struct Membership {
    registry: Arc<IdentRegistry>,
    ident: Arc<IdentState>,
    quota: Arc<Quota>,
    key: Arc<Key>,
    /// The secret of this connection: the key's, or an old one that counts for a while only.
    secret: Secret,
    number: u64,
    /// The generation that it has looked at.
    seen: u64,
}

/// The outcome of a lookup for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// The key allows what it did.
    Same,
    /// The key allows something else.
    Changed,
    /// The key does not exist, is disabled, or the secret no longer counts.
    Revoked,
}

impl Membership {
    pub(crate) fn ident(&self) -> &Ident {
        &self.ident.ident
    }

    pub(crate) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Has the connection's task woken up through its outbox when there is something to look at.
    pub(crate) fn attach(&self, outbox: &Arc<Outbox>) {
        self.ident.state.lock().outboxes.insert(self.number, outbox.clone());
    }

    /// Whether there is something to look at.
    pub(crate) fn has_news(&self) -> bool {
        self.ident.generation.load(Acquire) != self.seen
    }

    /// Whether a lookup has found that the key does not count any more.
    pub(crate) fn is_revoked(&self) -> bool {
        let live = self.ident.state.lock();
        live.as_of >= self.number && live.found.as_ref().is_none_or(|new| !new.accepts(&self.secret))
    }

    /// Looks at what a lookup has found, and keeps the new key.
    pub(crate) fn look(&mut self) -> KeyChange {
        let live = self.ident.state.lock();
        self.seen = self.ident.generation.load(Acquire);
        if live.as_of < self.number {
            return KeyChange::Same;
        }
        match &live.found {
            Some(new) if new.accepts(&self.secret) => {
                let old = std::mem::replace(&mut self.key, new.clone());
                if allows_the_same(&old, new) { KeyChange::Same } else { KeyChange::Changed }
            }
            _ => KeyChange::Revoked,
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut registry = self.registry.state.lock();
        let mut live = self.ident.state.lock();
        live.outboxes.remove(&self.number);
        live.connections -= 1;
        let last = live.connections == 0;
        drop(live);
        if last {
            registry.idents.remove(self.ident.ident());
            shrink(&mut registry.idents);
        }
        registry.quotas.disconnect(&self.quota, Instant::now());
    }
}

fn is_same(one: &Arc<Key>, other: &Arc<Key>) -> bool {
    Arc::ptr_eq(one, other) || (allows_the_same(one, other) && one.owner == other.owner && one.has_secrets_of(other))
}

fn allows_the_same(one: &Key, other: &Key) -> bool {
    one.pubchans == other.pubchans && one.subchans == other.subchans
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::limits::rate::Rate;

    const RULES: QuotaRules = QuotaRules { max_connections: 3, publish: Rate::UNLIMITED, deliver: Rate::UNLIMITED };

    fn key(secret: &str, pubchans: &[&str]) -> Arc<Key> {
        Arc::new(Key::new("bob", secret).unwrap().publish(pubchans).unwrap())
    }

    fn join(registry: &Arc<IdentRegistry>, key: &Arc<Key>) -> Membership {
        registry.join("bob".parse().unwrap(), key.clone(), key.secret.clone()).unwrap()
    }

    #[test]
    fn ident_lives_as_long_as_its_connections() {
        let registry = Arc::new(IdentRegistry::new(RULES));
        let key = key("s", &[]);
        let members = [join(&registry, &key), join(&registry, &key), join(&registry, &key)];
        assert!(registry.join("bob".parse().unwrap(), key.clone(), "s".into()).is_none());
        assert!(registry.join("eve".parse().unwrap(), key.clone(), "s".into()).is_some());
        assert_eq!((registry.all().len(), registry.state.lock().quotas.len()), (1, 1));
        drop(members);
        let state = registry.state.lock();
        assert_eq!((state.idents.len(), state.quotas.len()), (0, 0));
    }

    #[test]
    fn keys_of_one_account_share_its_limits_and_nothing_else() {
        let rate = Rate { messages: 1, bytes: 1 };
        let registry = Arc::new(IdentRegistry::new(QuotaRules { max_connections: 2, publish: rate, deliver: rate }));
        let join = |ident: &str, account: &str| {
            let key = Key::new(ident, "s").unwrap().account(account);
            registry.join(ident.parse().unwrap(), Arc::new(key), "s".into())
        };
        let (mut one, two) = (join("bob", "BOB").unwrap(), join("Bob", "BOB").unwrap());
        assert!(join("BOB", "BOB").is_none() && join("bob", "BOB").is_none());
        assert!(Arc::ptr_eq(one.quota(), two.quota()));
        // An ident may have the same name.
        let ident = registry.join("BOB".parse().unwrap(), Arc::new(Key::new("BOB", "t").unwrap()), "t".into()).unwrap();
        assert!(!Arc::ptr_eq(one.quota(), ident.quota()));
        assert_eq!(registry.all().len(), 3);
        one.ident.found(None, one.ident.latest());
        assert_eq!((one.look(), two.has_news()), (KeyChange::Revoked, false));
        drop(one);
        assert!(join("bOb", "BOB").is_some());
    }

    #[test]
    fn lookup_is_news_only_when_something_has_changed() {
        let registry = Arc::new(IdentRegistry::new(RULES));
        let mut member = join(&registry, &key("s", &["a"]));
        let ident = member.ident.clone();
        ident.found(Some(key("s", &["a"])), ident.latest());
        assert!(!member.has_news());
        ident.found(Some(key("s", &["b"])), ident.latest());
        assert!(member.has_news());
        assert!(!member.is_revoked());
        assert_eq!(member.look(), KeyChange::Changed);
        assert!(!member.has_news() && member.key().may_publish("b"));
        ident.found(Some(key("other", &["b"])), ident.latest());
        assert!(member.is_revoked());
        assert_eq!(member.look(), KeyChange::Revoked);
        let mut other = join(&registry, &key("other", &["b"]));
        assert!(!other.is_revoked(), "what was found before it came");
        ident.found(None, ident.latest());
        assert!(other.is_revoked());
        assert_eq!((member.look(), other.look()), (KeyChange::Revoked, KeyChange::Revoked));
    }

    #[test]
    fn connection_keeps_its_old_secret_as_long_as_that_counts() {
        let registry = Arc::new(IdentRegistry::new(RULES));
        let mut old = join(&registry, &key("old", &[]));
        let ident = old.ident.clone();
        let both = |until| Arc::new(Key::new("bob", "new").unwrap().old_secret("old", until)).current();
        let now = std::time::SystemTime::now();
        ident.found(Some(both(now + std::time::Duration::from_secs(3600))), ident.latest());
        assert_eq!(old.look(), KeyChange::Same);
        let mut new = join(&registry, &key("new", &[]));
        ident.found(Some(both(now)), ident.latest());
        assert_eq!((old.look(), new.look()), (KeyChange::Revoked, KeyChange::Same));
        let disabled = Key::new("bob", "new").unwrap().disabled();
        ident.found(Some(Arc::new(disabled)), ident.latest());
        assert_eq!(new.look(), KeyChange::Revoked);
    }

    #[test]
    fn connection_during_a_lookup_is_not_judged_by_it() {
        let registry = Arc::new(IdentRegistry::new(RULES));
        let (old, new) = (key("old", &[]), key("new", &[]));
        let mut first = join(&registry, &old);
        let ident = first.ident.clone();
        let began = ident.latest();
        // The key changes; a client authenticates with the new one before the lookup returns the
        // old.
        let mut second = join(&registry, &new);
        ident.found(Some(old.clone()), began);
        assert_eq!((first.look(), second.look()), (KeyChange::Same, KeyChange::Same));
        ident.found(Some(new.clone()), ident.latest());
        assert_eq!((first.look(), second.look()), (KeyChange::Revoked, KeyChange::Same));
        ident.found(Some(new), ident.latest());
        assert!(!second.has_news());
    }

    #[test]
    fn connection_with_an_old_key_learns_of_the_new_one() {
        let registry = Arc::new(IdentRegistry::new(RULES));
        let (old, new) = (key("s", &["a"]), key("s", &["b"]));
        let first = join(&registry, &new);
        // Its lookup took long.
        let mut second = join(&registry, &old);
        let ident = &first.ident;
        ident.found(Some(new), ident.latest());
        assert_eq!(second.look(), KeyChange::Changed);
        assert!(second.key().may_publish("b"));
    }
}
