//! A chain of key stores.

use std::{fmt, sync::Arc};

use futures::stream;

use super::{AuthStore, Changes, Idents, Lookup, Reload};

/// Several stores: the first that knows the ident decides.
///
/// A store that fails ends the search with its error. The stores after it are not asked: an ident
/// must not get another key because a database is down.
#[derive(Clone, Default)]
pub struct ChainStore {
    stores: Vec<Arc<dyn AuthStore>>,
}

impl ChainStore {
    /// A chain without stores, which knows no ident.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a store at the end.
    pub fn push(&mut self, store: impl AuthStore) {
        self.stores.push(Arc::new(store));
    }

    /// Whether there is no store at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }
}

impl fmt::Debug for ChainStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainStore").field("stores", &self.stores.len()).finish()
    }
}

impl AuthStore for ChainStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            for store in &self.stores {
                if let Some(key) = store.lookup(ident).await? {
                    return Ok(Some(key));
                }
            }
            Ok(None)
        })
    }

    /// Reloads every store, also after one has failed; the error is the first.
    fn reload(&self) -> Reload<'_> {
        Box::pin(async move {
            let mut result = Ok(());
            for store in &self.stores {
                result = result.and(store.reload().await);
            }
            result
        })
    }

    fn idents(&self) -> Idents<'_> {
        Box::pin(async move {
            let mut all = Vec::new();
            for store in &self.stores {
                all.append(&mut store.idents().await?);
            }
            Ok(all)
        })
    }

    fn may_change(&self) -> bool {
        self.stores.iter().any(|store| store.may_change())
    }

    fn changes(&self) -> Changes {
        Box::pin(stream::select_all(self.stores.iter().map(|store| store.changes())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::auth::{AuthError, key::Key, memory::MemoryStore};

    struct Broken;

    impl AuthStore for Broken {
        fn lookup<'a>(&'a self, _: &'a str) -> Lookup<'a> {
            Box::pin(async { Err(AuthError::new("down")) })
        }

        fn reload(&self) -> Reload<'_> {
            Box::pin(async { Err(AuthError::new("still down")) })
        }
    }

    /// Counts reloads.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl AuthStore for Arc<Counted> {
        fn lookup<'a>(&'a self, _: &'a str) -> Lookup<'a> {
            Box::pin(async { Ok(None) })
        }

        fn reload(&self) -> Reload<'_> {
            self.0.fetch_add(1, Relaxed);
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn every_store_is_reloaded_also_after_one_that_fails() {
        let counted = Arc::new(Counted::default());
        let mut chain = ChainStore::new();
        chain.push(store(&["a"], "memory"));
        chain.push(counted.clone());
        chain.reload().await.unwrap();
        chain.push(Broken);
        chain.push(counted.clone());
        assert_eq!(chain.reload().await.unwrap_err().to_string(), "still down");
        assert_eq!(counted.0.load(Relaxed), 3);
    }

    #[test]
    fn chain_may_change_if_a_store_in_it_may() {
        let mut chain = ChainStore::new();
        chain.push(store(&["a"], "memory"));
        chain.push(crate::auth::env::EnvStore::new());
        let mut outer = ChainStore::new();
        outer.push(chain.clone());
        assert!(!outer.may_change());
        chain.push(crate::auth::env::EnvStore::with(|_| Err(std::env::VarError::NotPresent)));
        outer.push(chain);
        assert!(outer.may_change());
    }

    fn store(idents: &[&str], owner: &str) -> MemoryStore {
        idents.iter().map(|ident| Key::new(ident, "s").unwrap().owner(owner)).collect()
    }

    #[tokio::test]
    async fn the_first_store_that_knows_the_ident_wins() {
        let mut chain = ChainStore::new();
        chain.push(store(&["a"], "first"));
        chain.push(store(&["a", "b"], "second"));
        assert_eq!(chain.lookup("a").await.unwrap().unwrap().owner, "first");
        assert_eq!(chain.lookup("b").await.unwrap().unwrap().owner, "second");
        assert!(chain.lookup("c").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_idents_of_all_stores_are_told() {
        let mut chain = ChainStore::new();
        chain.push(store(&["a"], "first"));
        chain.push(Arc::new(Counted::default()));
        chain.push(store(&["b"], "third"));
        assert_eq!(chain.idents().await.unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_broken_store_ends_the_search() {
        let mut chain = ChainStore::new();
        chain.push(store(&["a"], "first"));
        chain.push(Broken);
        chain.push(store(&["b"], "third"));
        assert!(chain.lookup("a").await.unwrap().is_some());
        assert_eq!(chain.lookup("b").await.unwrap_err().to_string(), "down");
    }
}
