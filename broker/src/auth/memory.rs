use std::{collections::HashMap, sync::Arc};

use hpfeeds::wire::Ident;

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
        for key in keys {
            store.insert(key);
        }
        store
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
