//! Everybody who has authenticated: what all connections of one ident have in common, which is its key, and all
//! connections of one [account name](Key::account), which is how much they may take.

pub(crate) mod recheck;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use hpfeeds::wire::{Ident, Secret};
use tokio::{sync::Notify, time::Instant};

use crate::{
    auth::key::Key,
    delivery::outbox::Outbox,
    limits::rate::{Limiter, Rate},
    util::collections::shrink,
};

/// The idents that have connections, and what they may take.
#[derive(Debug)]
pub(crate) struct IdentRegistry {
    rules: QuotaRules,
    map: Mutex<Map>,
    /// Somebody wants the keys to be looked up now.
    pub(crate) recheck: Notify,
}

/// What every account keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuotaRules {
    pub(crate) max_connections: usize,
    pub(crate) publish: Rate,
    pub(crate) deliver: Rate,
}

#[derive(Debug, Default)]
struct Map {
    accounts: HashMap<Ident, Arc<IdentState>>,
    /// Those of idents by themselves, and those of account names, which may be the same words.
    quotas: [HashMap<Arc<str>, Arc<Quota>>; 2],
    /// At how many it is worth looking for those that nobody needs any more.
    sweep_at: usize,
}

/// One ident.
#[derive(Debug)]
pub(crate) struct IdentState {
    ident: Ident,
    /// Grows when there is something for its connections to look at.
    generation: AtomicU64,
    state: Mutex<State>,
}

/// What all connections of one account name may take.
#[derive(Debug)]
pub(crate) struct Quota {
    name: Arc<str>,
    /// That of an account, not of an ident.
    shared: bool,
    /// Changes under the lock of the map.
    connections: AtomicUsize,
    /// What they publish, together.
    pub(crate) publish: Option<Limiter>,
    /// What is delivered to them, together.
    pub(crate) deliver: Option<Limiter>,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    /// The connections that can be woken up.
    outboxes: HashMap<u64, Arc<Outbox>>,
    /// How many connections there have been: the number of the latest.
    joined: u64,
    /// What a lookup found last, or the key of the first connection. `None`: there is no such key any more.
    found: Option<Arc<Key>>,
    /// The connections that it is news for: those that were there when the lookup began.
    as_of: u64,
    /// Somebody may have another key than that, or has not heard of it.
    uneven: bool,
}

impl IdentRegistry {
    pub(crate) fn new(rules: QuotaRules) -> Self {
        Self { rules, map: Mutex::default(), recheck: Notify::const_new() }
    }

    /// Adds a connection that has authenticated with a secret of a key; `None` when there are enough of its account name.
    pub(crate) fn join(self: &Arc<Self>, ident: Ident, key: Arc<Key>, secret: Secret) -> Option<Membership> {
        let now = Instant::now();
        let mut map = self.lock();
        let count = |map: &Map| map.quotas.iter().map(HashMap::len).sum::<usize>();
        if count(&map) >= map.sweep_at {
            map.quotas.iter_mut().for_each(|quotas| quotas.retain(|_, quota| quota.is_needed(now)));
            map.sweep_at = 2 * count(&map) + 64;
        }
        let (name, shared) = key.account.as_deref().map_or((ident.as_str(), false), |account| (account, true));
        let quota = map.quota(name, shared, &self.rules, now);
        if quota.connections.load(Relaxed) >= self.rules.max_connections {
            return None;
        }
        quota.connections.fetch_add(1, Relaxed);
        let account = map.accounts.entry(ident).or_insert_with_key(|ident| {
            Arc::new(IdentState { ident: ident.clone(), generation: AtomicU64::new(0), state: Mutex::default() })
        });
        let mut state = account.lock();
        let mut key = key;
        if state.connections == 0 {
            (state.found, state.uneven) = (Some(key.clone()), false);
        } else {
            match state.found.as_ref().filter(|found| is_same(found, &key)) {
                // Not each its own copy.
                Some(found) => key = found.clone(),
                None => state.uneven = true,
            }
        }
        state.connections += 1;
        state.joined += 1;
        let (number, seen) = (state.joined, account.generation.load(Acquire));
        drop(state);
        Some(Membership { accounts: self.clone(), account: account.clone(), quota, key, secret, number, seen })
    }

    /// All of them, by their idents: simulations want everything in the same order each time.
    pub(crate) fn all(&self) -> Vec<Arc<IdentState>> {
        let mut all: Vec<_> = self.lock().accounts.values().cloned().collect();
        all.sort_unstable_by(|one, other| one.ident.cmp(&other.ident));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdentState {
    pub(crate) fn ident(&self) -> &Ident {
        &self.ident
    }

    /// The latest connection: what a lookup finds that begins now is about this one and those before it.
    pub(crate) fn latest(&self) -> u64 {
        self.lock().joined
    }

    /// Tells the connections what a lookup has found, if that is news.
    pub(crate) fn found(&self, key: Option<Arc<Key>>, as_of: u64) {
        let mut state = self.lock();
        let same = match (&state.found, &key) {
            (Some(old), Some(new)) => is_same(old, new),
            (None, None) => true,
            _ => false,
        };
        if same && !state.uneven {
            return;
        }
        state.found = key;
        state.as_of = as_of;
        state.uneven = state.joined != as_of;
        self.generation.fetch_add(1, AcqRel);
        let mut outboxes: Vec<_> = state.outboxes.iter().collect();
        outboxes.sort_unstable_by_key(|(number, _)| **number);
        for (_, outbox) in outboxes {
            outbox.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Map {
    fn quota(&mut self, name: &str, shared: bool, rules: &QuotaRules, now: Instant) -> Arc<Quota> {
        let quotas = &mut self.quotas[usize::from(shared)];
        if let Some(quota) = quotas.get(name) {
            return quota.clone();
        }
        let (publish, deliver) = (rules.publish.limiter(now), rules.deliver.limiter(now));
        let quota = Arc::new(Quota { name: name.into(), shared, connections: AtomicUsize::new(0), publish, deliver });
        quotas.insert(quota.name.clone(), quota.clone());
        quota
    }
}

impl Quota {
    fn is_needed(&self, now: Instant) -> bool {
        let in_debt = |limiter: &Option<Limiter>| limiter.as_ref().is_some_and(|limiter| !limiter.is_full(now));
        // Otherwise coming back would be a way around the limits.
        self.connections.load(Relaxed) > 0 || in_debt(&self.publish) || in_debt(&self.deliver)
    }
}

/// One connection of an account.
#[derive(Debug)]
pub(crate) struct Membership {
    accounts: Arc<IdentRegistry>,
    account: Arc<IdentState>,
    quota: Arc<Quota>,
    key: Arc<Key>,
    /// The secret of this connection: the key's, or an old one that counts for a while only.
    secret: Secret,
    number: u64,
    /// The generation that it has looked at.
    seen: u64,
}

/// What has become of the key of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// It allows what it did.
    Same,
    /// It allows something else.
    Changed,
    /// It does not exist, is disabled, or the secret no longer counts.
    Revoked,
}

impl Membership {
    pub(crate) fn ident(&self) -> &Ident {
        &self.account.ident
    }

    pub(crate) fn key(&self) -> &Arc<Key> {
        &self.key
    }

    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Has the connection's task woken up through its outbox when there is something to look at.
    pub(crate) fn attach(&self, outbox: &Arc<Outbox>) {
        self.account.lock().outboxes.insert(self.number, outbox.clone());
    }

    /// Whether there is something to look at.
    pub(crate) fn has_news(&self) -> bool {
        self.account.generation.load(Acquire) != self.seen
    }

    /// Looks at what a lookup has found, and keeps the new key.
    pub(crate) fn look(&mut self) -> KeyChange {
        let state = self.account.lock();
        self.seen = self.account.generation.load(Acquire);
        if state.as_of < self.number {
            return KeyChange::Same;
        }
        match &state.found {
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
        let mut map = self.accounts.lock();
        let mut state = self.account.lock();
        state.outboxes.remove(&self.number);
        state.connections -= 1;
        let last = state.connections == 0;
        drop(state);
        if last {
            map.accounts.remove(self.account.ident());
            shrink(&mut map.accounts);
        }
        self.quota.connections.fetch_sub(1, Relaxed);
        if !self.quota.is_needed(Instant::now()) {
            let quotas = &mut map.quotas[usize::from(self.quota.shared)];
            quotas.remove(&*self.quota.name);
            shrink(quotas);
        }
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

    const RULES: QuotaRules = QuotaRules { max_connections: 3, publish: Rate::UNLIMITED, deliver: Rate::UNLIMITED };

    fn key(secret: &str, pubchans: &[&str]) -> Arc<Key> {
        Arc::new(Key::new("bob", secret).unwrap().publish(pubchans).unwrap())
    }

    fn join(accounts: &Arc<IdentRegistry>, key: &Arc<Key>) -> Membership {
        accounts.join("bob".parse().unwrap(), key.clone(), key.secret.clone()).unwrap()
    }

    #[test]
    fn an_account_lives_as_long_as_its_connections() {
        let accounts = Arc::new(IdentRegistry::new(RULES));
        let key = key("s", &[]);
        let members = [join(&accounts, &key), join(&accounts, &key), join(&accounts, &key)];
        assert!(accounts.join("bob".parse().unwrap(), key.clone(), "s".into()).is_none());
        assert!(accounts.join("eve".parse().unwrap(), key.clone(), "s".into()).is_some());
        assert_eq!((accounts.all().len(), accounts.lock().quotas[0].len()), (1, 1));
        drop(members);
        let map = accounts.lock();
        assert!(map.accounts.is_empty() && map.quotas.iter().all(HashMap::is_empty));
    }

    #[test]
    fn keys_of_one_account_share_its_limits_and_nothing_else() {
        let rate = Rate { messages: 1, bytes: 1 };
        let accounts = Arc::new(IdentRegistry::new(QuotaRules { max_connections: 2, publish: rate, deliver: rate }));
        let join = |ident: &str, account: &str| {
            let key = Key::new(ident, "s").unwrap().account(account);
            accounts.join(ident.parse().unwrap(), Arc::new(key), "s".into())
        };
        let (mut one, two) = (join("bob", "BOB").unwrap(), join("Bob", "BOB").unwrap());
        assert!(join("BOB", "BOB").is_none() && join("bob", "BOB").is_none());
        assert!(Arc::ptr_eq(one.quota(), two.quota()));
        // Another may have that for its ident.
        let ident = accounts.join("BOB".parse().unwrap(), Arc::new(Key::new("BOB", "t").unwrap()), "t".into()).unwrap();
        assert!(!Arc::ptr_eq(one.quota(), ident.quota()));
        assert_eq!(accounts.all().len(), 3);
        one.account.found(None, one.account.latest());
        assert_eq!((one.look(), two.has_news()), (KeyChange::Revoked, false));
        drop(one);
        assert!(join("bOb", "BOB").is_some());
    }

    #[test]
    fn a_debt_outlives_the_connections() {
        let accounts = Arc::new(IdentRegistry::new(QuotaRules { publish: Rate { messages: 1, bytes: 1 }, ..RULES }));
        let key = key("s", &[]);
        let now = Instant::now();
        let _ = join(&accounts, &key).quota().publish.as_ref().unwrap().reserve(1, 1000, now);
        assert_eq!((accounts.all().len(), accounts.lock().quotas[0].len()), (0, 1));
        assert!(!join(&accounts, &key).quota().publish.as_ref().unwrap().is_full(now));
        let old = accounts.lock().quotas[0].values().next().unwrap().clone();
        assert!(!old.is_needed(now + std::time::Duration::from_secs(1001)));
    }

    #[test]
    fn a_lookup_is_news_only_when_something_has_changed() {
        let accounts = Arc::new(IdentRegistry::new(RULES));
        let mut member = join(&accounts, &key("s", &["a"]));
        let account = member.account.clone();
        account.found(Some(key("s", &["a"])), account.latest());
        assert!(!member.has_news());
        account.found(Some(key("s", &["b"])), account.latest());
        assert!(member.has_news());
        assert_eq!(member.look(), KeyChange::Changed);
        assert!(!member.has_news() && member.key().may_publish("b"));
        account.found(Some(key("other", &["b"])), account.latest());
        assert_eq!(member.look(), KeyChange::Revoked);
        let mut other = join(&accounts, &key("other", &["b"]));
        account.found(None, account.latest());
        assert_eq!((member.look(), other.look()), (KeyChange::Revoked, KeyChange::Revoked));
    }

    #[test]
    fn a_connection_keeps_its_old_secret_as_long_as_that_counts() {
        let accounts = Arc::new(IdentRegistry::new(RULES));
        let mut old = join(&accounts, &key("old", &[]));
        let account = old.account.clone();
        let both = |until| Arc::new(Key::new("bob", "new").unwrap().old_secret("old", until)).current();
        let now = std::time::SystemTime::now();
        account.found(Some(both(now + std::time::Duration::from_secs(3600))), account.latest());
        assert_eq!(old.look(), KeyChange::Same);
        let mut new = join(&accounts, &key("new", &[]));
        account.found(Some(both(now)), account.latest());
        assert_eq!((old.look(), new.look()), (KeyChange::Revoked, KeyChange::Same));
        let disabled = Key::new("bob", "new").unwrap().disabled();
        account.found(Some(Arc::new(disabled)), account.latest());
        assert_eq!(new.look(), KeyChange::Revoked);
    }

    #[test]
    fn who_comes_during_a_lookup_is_not_judged_by_it() {
        let accounts = Arc::new(IdentRegistry::new(RULES));
        let (old, new) = (key("old", &[]), key("new", &[]));
        let mut first = join(&accounts, &old);
        let account = first.account.clone();
        let began = account.latest();
        // The key changes; somebody authenticates with the new one before the lookup returns the old one.
        let mut second = join(&accounts, &new);
        account.found(Some(old.clone()), began);
        assert_eq!((first.look(), second.look()), (KeyChange::Same, KeyChange::Same));
        account.found(Some(new.clone()), account.latest());
        assert_eq!((first.look(), second.look()), (KeyChange::Revoked, KeyChange::Same));
        account.found(Some(new), account.latest());
        assert!(!second.has_news());
    }

    #[test]
    fn who_came_with_an_old_key_learns_of_the_new_one() {
        let accounts = Arc::new(IdentRegistry::new(RULES));
        let (old, new) = (key("s", &["a"]), key("s", &["b"]));
        let first = join(&accounts, &new);
        // Its lookup took long.
        let mut second = join(&accounts, &old);
        let account = &first.account;
        account.found(Some(new), account.latest());
        assert_eq!(second.look(), KeyChange::Changed);
        assert!(second.key().may_publish("b"));
    }
}
