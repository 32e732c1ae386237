//! Connections before AUTH, and the eviction of the oldest one when a new connection needs its
//! place.

use std::{collections::BTreeMap, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Number of evicted connections that may still be open, beyond the limit on connections. They are
/// open for no longer than the runtime needs to poll their tasks; until then it accepts 128
/// connections at each endpoint.
const MAX_EVICTED_OPEN: usize = 512;

/// Registry of the connections that have not authenticated.
#[derive(Debug, Default)]
pub(crate) struct PreAuth(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    /// Connections that can be evicted, by age, each with the signal that evicts it.
    evictable: BTreeMap<u64, Arc<Notify>>,
    next: u64,
    /// Number of evicted connections that are still open.
    evicted_open: usize,
}

impl PreAuth {
    /// Registers a new connection.
    pub(crate) fn register(self: &Arc<Self>) -> PendingConnection {
        let evict = Arc::new(Notify::new());
        let mut registry = self.0.lock();
        let number = registry.next;
        registry.next += 1;
        registry.evictable.insert(number, evict.clone());
        drop(registry);
        PendingConnection { registry: self.clone(), number, evict, state: State::Waiting, silent: false }
    }

    /// Evicts the connection that has waited longest; `false` when no connection can be evicted.
    pub(crate) fn evict_oldest(&self) -> bool {
        let mut registry = self.0.lock();
        if registry.evicted_open == MAX_EVICTED_OPEN {
            return false;
        }
        let Some((_, oldest)) = registry.evictable.pop_first() else {
            return false;
        };
        registry.evicted_open += 1;
        drop(registry);
        oldest.notify_one();
        true
    }
}

/// A connection that has not authenticated.
///
/// ```text
///          AUTH came            its key was found
/// Waiting ──────────▶ LookingUp ───────────────────▶ (a session)
///    │                   │ it was not
///    └──────▶ Ending ◀──┘
/// ```
///
/// A connection can be evicted while it waits or ends. It cannot while its key is looked up: the
/// lookup would have been in vain, and may use a database connection that others need.
pub(crate) struct PendingConnection {
    registry: Arc<PreAuth>,
    number: u64,
    evict: Arc<Notify>,
    state: State,
    /// An ERROR cannot be sent now: TLS has not begun, or a frame is written in part.
    pub(crate) silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    LookingUp,
    Ending,
}

impl PendingConnection {
    /// Completes when the connection is evicted.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let evict = self.evict.clone();
        async move { evict.notified().await }
    }

    /// Exempts the connection from eviction while its key is looked up; `false` when it has been
    /// evicted already.
    pub(crate) fn begin_lookup(&mut self) -> bool {
        let waited = self.registry.0.lock().evictable.remove(&self.number).is_some();
        if waited {
            self.state = State::LookingUp;
        }
        waited
    }

    /// The handshake has failed, and has been counted. Only the ERROR is left to send.
    pub(crate) fn end_without_session(&mut self) {
        if mem::replace(&mut self.state, State::Ending) == State::LookingUp {
            self.registry.0.lock().evictable.insert(self.number, self.evict.clone());
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.state == State::Ending
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        if self.state != State::LookingUp {
            let mut registry = self.registry.0.lock();
            if registry.evictable.remove(&self.number).is_none() {
                registry.evicted_open -= 1;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Evicts the oldest connection, and returns its index.
    fn evict(pre_auth: &PreAuth, pending: &[PendingConnection]) -> Option<usize> {
        pre_auth
            .evict_oldest()
            .then(|| pending.iter().position(|pending| pending.evicted().now_or_never().is_some()).unwrap())
    }

    #[test]
    fn eviction_takes_the_oldest_and_few_at_once() {
        let pre_auth = Arc::<PreAuth>::default();
        let mut pending: Vec<_> = (0..MAX_EVICTED_OPEN + 2).map(|_| pre_auth.register()).collect();
        for n in 0..MAX_EVICTED_OPEN {
            assert_eq!(evict(&pre_auth, &pending), Some(n));
        }
        assert_eq!(evict(&pre_auth, &pending), None);
        // One of them has gone.
        pending.remove(0);
        assert_eq!(evict(&pre_auth, &pending), Some(MAX_EVICTED_OPEN - 1));
        assert_eq!(evict(&pre_auth, &pending), None);
        pending.clear();
        assert!(!pre_auth.evict_oldest(), "no connection is left");
        assert_eq!(pre_auth.0.lock().evicted_open, 0);
    }

    #[test]
    fn lookup_exempts_from_eviction_until_it_has_failed() {
        let pre_auth = Arc::<PreAuth>::default();
        let mut pending = [pre_auth.register(), pre_auth.register()];
        assert!(pending[0].begin_lookup());
        assert_eq!(evict(&pre_auth, &pending), Some(1));
        assert_eq!(evict(&pre_auth, &pending), None);
        assert!(!pending[1].begin_lookup(), "it has been evicted");
        pending[0].end_without_session();
        assert!(pending[0].is_ending());
        assert_eq!(evict(&pre_auth, &pending), Some(0));
        drop(pending);
        assert_eq!(pre_auth.0.lock().evicted_open, 0);
    }
}
