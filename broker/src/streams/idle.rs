//! The streams without a connection, in the order in which they were used, and how many there may
//! be.

use std::collections::{BTreeMap, HashMap};

use hpfeeds::wire::extension::StreamId;

use crate::{identity::quota::Account, streams::key::StreamKey, util::collections::shrink};

/// How many streams without a connection are kept: of one account, and of all.
pub(super) const MAX_OF_ACCOUNT: usize = 1024;
pub(super) const MAX_OF_ALL: usize = 65_536;

/// The place of a stream in the order: larger ones were used later.
pub(super) type Turn = u64;

/// Idle streams: of each account, and so of all, the least recently used is first out.
#[derive(Debug, Default)]
pub(super) struct Idle {
    all: BTreeMap<Turn, StreamKey>,
    accounts: HashMap<Account, BTreeMap<Turn, StreamId>>,
    last: Turn,
}

impl Idle {
    /// Adds a stream as the one that was used last. Also returns those that it has no room for.
    pub(super) fn add(&mut self, key: StreamKey) -> (Turn, Vec<StreamKey>) {
        self.last += 1;
        let own = self.accounts.entry(key.account.clone()).or_default();
        own.insert(self.last, key.stream);
        let first = if own.len() > MAX_OF_ACCOUNT { own.first_key_value().map(|(turn, _)| *turn) } else { None };
        self.all.insert(self.last, key);
        let mut evicted = Vec::new();
        evicted.extend(first.and_then(|first| self.evict(first)));
        if self.all.len() > MAX_OF_ALL {
            let first = self.all.first_key_value().map(|(turn, _)| *turn);
            evicted.extend(first.and_then(|first| self.evict(first)));
        }
        (self.last, evicted)
    }

    /// Takes a stream out.
    pub(super) fn remove(&mut self, turn: Turn, key: &StreamKey) {
        self.all.remove(&turn);
        if let Some(own) = self.accounts.get_mut(&key.account) {
            own.remove(&turn);
            if own.is_empty() {
                self.accounts.remove(&key.account);
                shrink(&mut self.accounts);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn evict(&mut self, turn: Turn) -> Option<StreamKey> {
        let key = self.all.get(&turn)?.clone();
        self.remove(turn, &key);
        Some(key)
    }
}
