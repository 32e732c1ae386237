use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hpfeeds::wire::{Ident, Pattern};

use super::{AuthStore, Key, Lookup};

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

/// The different lists of many keys. A fleet of sensors has few of them, and each key's own would take most of its memory.
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

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
