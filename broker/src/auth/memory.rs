//! Keys in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use futures::{StreamExt as _, stream};
use hpfeeds::wire::{Ident, Pattern};

use super::{AuthStore, Changes, Idents, Lookup, key::Key, sleep_until_time};

/// Keys that the program itself holds.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    keys: HashMap<Ident, Arc<Key>>,
}

impl MemoryStore {
    /// A store without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key, in place of an earlier one with the same ident.
    pub fn insert(&mut self, key: Key) {
        self.keys.insert(key.ident.clone(), Arc::new(key));
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The times at which old secrets end.
    pub(crate) fn ends(&self) -> impl Iterator<Item = SystemTime> {
        self.keys.values().flat_map(|key| key.old_secrets.iter().map(|(_, until)| *until))
    }

    pub(crate) fn all(&self) -> Vec<Ident> {
        self.keys.keys().cloned().collect()
    }

    pub(crate) fn get(&self, ident: &str) -> Option<Arc<Key>> {
        self.keys.get(ident).cloned()
    }
}

impl FromIterator<Key> for MemoryStore {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
        let mut store = Self::new();
        let mut lists = Lists::default();
        for key in keys {
            store.insert(lists.share(key));
        }
        store
    }
}

/// The distinct lists of many keys. A fleet of sensors has few of them, and each key's own copy
/// would take most of its memory.
#[derive(Default)]
pub(super) struct Lists(HashSet<Arc<[Pattern]>>);

impl Lists {
    /// Gives a key the lists that are equal to its own, where there have been such.
    pub(super) fn share(&mut self, mut key: Key) -> Key {
        for list in [&mut key.pubchans, &mut key.subchans] {
            match self.0.get(list) {
                Some(known) => *list = known.clone(),
                None => _ = self.0.insert(list.clone()),
            }
        }
        key
    }
}

impl AuthStore for MemoryStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move { Ok(self.get(ident)) })
    }

    fn may_change(&self) -> bool {
        false
    }

    fn idents(&self) -> Idents<'_> {
        Box::pin(async { Ok(self.all()) })
    }

    fn changes(&self) -> Changes {
        let mut ends: Vec<_> = self.ends().collect();
        ends.sort_unstable();
        ends.dedup();
        Box::pin(stream::iter(ends).then(sleep_until_time))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_each_old_secret_is_told_and_not_before() {
        let now = SystemTime::now();
        let ends = [now - Duration::from_secs(1), now + Duration::from_millis(50)];
        let key = |ident: &str| Key::new(ident, "s").unwrap().old_secret("a", ends[0]).old_secret("b", ends[1]);
        let store: MemoryStore = ["bob", "eve"].map(key).into_iter().collect();
        let mut changes = store.changes();
        for end in ends {
            assert_eq!(changes.next().await, Some(()));
            assert!(SystemTime::now() >= end);
        }
        assert_eq!(changes.next().await, None);
    }

    #[test]
    fn keys_with_equal_lists_share_them() {
        let key = |ident: &str, publish: &[&str], subscribe: &[&str]| {
            Key::new(ident, "s").unwrap().publish(publish).unwrap().subscribe(subscribe).unwrap()
        };
        let keys = [key("a", &["x", "y.*"], &[]), key("b", &["x", "y.*"], &["x", "y.*"]), key("c", &["y.*", "x"], &[])];
        let store: MemoryStore = keys.into_iter().collect();
        let [a, b, c] = ["a", "b", "c"].map(|ident| store.get(ident).unwrap());
        assert!(Arc::ptr_eq(&a.pubchans, &b.pubchans) && Arc::ptr_eq(&a.pubchans, &b.subchans));
        assert!(Arc::ptr_eq(&a.subchans, &c.subchans) && !Arc::ptr_eq(&a.pubchans, &c.pubchans));
        assert!(b.may_publish("y.z") && b.may_subscribe("x") && !a.may_subscribe("x") && c.may_publish("x"));
    }
}
