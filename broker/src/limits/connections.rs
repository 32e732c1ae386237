//! How many connections there may be: in all, and from one address.
//!
//! When there is no room for another, the one that has been there longest without authenticating gives way: strangers who
//! hold connections open keep nobody out. Who authenticates is faster than they can come, unless so many come in the time of
//! one handshake as there is room for beside those who have authenticated.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::warn;

use crate::{
    context::BrokerContext,
    limits::source::network,
    metrics::{Connected, EndpointMetrics, Phase},
};

/// How often refusals are logged.
const REPORT: Duration = Duration::from_secs(10);

/// How many may be open beyond the limit, because those that give way to them have not gone yet. That takes them no longer
/// than it takes the runtime to get round to them; until then it accepts 128 connections at each endpoint.
const MAX_LEAVING: usize = 512;

/// What a client hears for which there is no room, and one that gives way.
pub(crate) const TOO_MANY: &str = "Too many connections";

/// Counts the connections that are open.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    max: usize,
    max_per_address: usize,
    /// Empty when there is no limit for each.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    strangers: Mutex<PendingConnections>,
    report: Mutex<Report>,
}

/// Connections that have not authenticated.
#[derive(Debug, Default)]
struct PendingConnections {
    /// In the order in which they came, each with what tells it to give way.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
    /// How many have been told so and are still there.
    leaving: usize,
}

#[derive(Debug, Default)]
struct Report {
    last: Option<Instant>,
    refused: u64,
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Self {
        let (open, addresses) = (AtomicUsize::new(0), Mutex::default());
        let (strangers, report) = (Mutex::default(), Mutex::default());
        Self { open, max, max_per_address, addresses, strangers, report }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    fn enter(&self, ip: IpAddr) -> Result<(), &'static str> {
        // First: who may have no more connections makes nobody else give way.
        self.enter_address(ip)?;
        self.enter_any().inspect_err(|_| self.leave_address(ip))
    }

    /// The same for one whose address is not known yet.
    fn enter_any(&self) -> Result<(), &'static str> {
        let more = |open: usize| (open < self.max).then_some(open + 1);
        if self.open.fetch_update(Relaxed, Relaxed, more).is_ok() {
            return Ok(());
        }
        if self.make_room() {
            self.open.fetch_add(1, Relaxed);
            return Ok(());
        }
        Err(TOO_MANY)
    }

    fn enter_address(&self, ip: IpAddr) -> Result<(), &'static str> {
        if self.max_per_address != usize::MAX {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let open = addresses.entry(network(ip)).or_default();
            if *open >= self.max_per_address {
                return Err("Too many connections from your address");
            }
            *open += 1;
        }
        Ok(())
    }

    /// Tells the one that has waited longest to give way, if there is one.
    fn make_room(&self) -> bool {
        let mut strangers = self.strangers();
        if strangers.leaving == MAX_LEAVING {
            return false;
        }
        let Some((_, oldest)) = strangers.waiting.pop_first() else {
            return false;
        };
        strangers.leaving += 1;
        drop(strangers);
        oldest.notify_one();
        true
    }

    fn strangers(&self) -> MutexGuard<'_, PendingConnections> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address is that with which it was counted.
    fn leave(&self, ip: Option<IpAddr>) {
        self.open.fetch_sub(1, Relaxed);
        if let Some(ip) = ip {
            self.leave_address(ip);
        }
    }

    fn leave_address(&self, ip: IpAddr) {
        if self.max_per_address != usize::MAX {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let ip = network(ip);
            if let Some(open) = addresses.get_mut(&ip) {
                *open -= 1;
                if *open == 0 {
                    addresses.remove(&ip);
                }
            }
        }
    }

    /// Logs that somebody was turned away, now and then.
    pub(crate) fn log_refusal(&self, ip: IpAddr, reason: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.refused += 1;
        let now = Instant::now();
        if report.last.is_none_or(|last| now >= last + REPORT) {
            report.last = Some(now);
            let refused = mem::take(&mut report.refused);
            warn!(%ip, reason, refused, "connections were turned away");
        }
    }
}

/// The right to hold a connection open; given back when dropped.
pub(crate) struct Permit {
    pub(crate) context: Arc<BrokerContext>,
    /// The client, or a proxy that has not said yet whose connection it is.
    pub(crate) peer: SocketAddr,
    /// It counts among the connections of its address.
    counted: bool,
    connected: Connected,
}

impl Permit {
    /// Or what to tell a client for whom there is no room.
    pub(crate) fn take(
        context: &Arc<BrokerContext>,
        peer: SocketAddr,
        entrance: &EndpointMetrics,
    ) -> Result<Self, &'static str> {
        context.admission.enter(peer.ip())?;
        Ok(Self { context: context.clone(), peer, counted: true, connected: entrance.connection() })
    }

    /// The same for a connection that comes from a proxy: whose address it counts for is [found out](Self::identify).
    pub(crate) fn take_proxied(
        context: &Arc<BrokerContext>,
        proxy: SocketAddr,
        entrance: &EndpointMetrics,
    ) -> Result<Self, &'static str> {
        context.admission.enter_any()?;
        Ok(Self { context: context.clone(), peer: proxy, counted: false, connected: entrance.connection() })
    }

    /// A proxy has said whose connection it is. Or what to tell a client that has too many.
    pub(crate) fn identify(&mut self, client: SocketAddr) -> Result<(), &'static str> {
        self.context.admission.enter_address(client.ip())?;
        (self.peer, self.counted) = (client, true);
        Ok(())
    }

    /// The connection has not authenticated.
    pub(crate) fn pending(&self) -> PendingConnection {
        let mut strangers = self.context.admission.strangers();
        let number = strangers.next;
        strangers.next += 1;
        let told = Arc::new(Notify::new());
        strangers.waiting.insert(number, told.clone());
        drop(strangers);
        PendingConnection { context: self.context.clone(), number, told, state: State::Waiting, silent: false }
    }

    /// The connection has come this far.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.connected.enter(phase);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.context.admission.leave(self.counted.then(|| self.peer.ip()));
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
/// Waiting or parting, it gives way when it is told to. While its key is looked up it does not: the lookup would have been
/// for nothing, and may cost a database connection that others need.
pub(crate) struct PendingConnection {
    context: Arc<BrokerContext>,
    number: u64,
    told: Arc<Notify>,
    state: State,
    /// Nothing can be said to it now: TLS has not begun, or a frame has not been written to its end.
    pub(crate) silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    LookingUp,
    Ending,
}

impl PendingConnection {
    /// Completes when it has to give way.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let told = self.told.clone();
        async move { told.notified().await }
    }

    /// Its key is looked up from here on; `false` when it has been told to give way before.
    pub(crate) fn begin_lookup(&mut self) -> bool {
        let waited = self.context.admission.strangers().waiting.remove(&self.number).is_some();
        if waited {
            self.state = State::LookingUp;
        }
        waited
    }

    /// There will be no session, which has been counted; what is left is to say so.
    pub(crate) fn end_without_session(&mut self) {
        if mem::replace(&mut self.state, State::Ending) == State::LookingUp {
            self.context.admission.strangers().waiting.insert(self.number, self.told.clone());
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.state == State::Ending
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        if self.state != State::LookingUp {
            let mut strangers = self.context.admission.strangers();
            if strangers.waiting.remove(&self.number).is_none() {
                strangers.leaving -= 1;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_counted_apart_and_forgotten() {
        let admission = Admission::new(4, 2);
        for text in ["1.2.3.4", "::ffff:1.2.3.4", "2001:db8::1"] {
            admission.enter(ip(text)).unwrap();
        }
        assert_eq!(admission.enter(ip("1.2.3.4")), Err("Too many connections from your address"));
        assert_eq!(admission.open(), 3);
        // One network of 64 bits is one address.
        admission.enter(ip("2001:db8::ffff:2")).unwrap();
        assert_eq!(admission.enter(ip("5.6.7.8")), Err("Too many connections"));
        admission.leave(Some(ip("1.2.3.4")));
        admission.enter(ip("1.2.3.4")).unwrap();
        for text in ["1.2.3.4", "1.2.3.4", "2001:db8::2", "2001:db8::2"] {
            admission.leave(Some(ip(text)));
        }
        assert_eq!((admission.open(), admission.addresses.lock().unwrap().len()), (0, 0));
    }

    /// Tells the oldest to give way, and says which one has heard it.
    fn evict(admission: &Admission, strangers: &[Arc<Notify>]) -> Option<usize> {
        admission
            .make_room()
            .then(|| strangers.iter().position(|told| told.notified().now_or_never().is_some()).unwrap())
    }

    #[test]
    fn the_oldest_gives_way_and_few_at_once() {
        let admission = Admission::new(0, usize::MAX);
        let strangers: Vec<_> = (0..MAX_LEAVING + 2).map(|_| Arc::<Notify>::default()).collect();
        admission.strangers().waiting.extend((0..).zip(strangers.iter().cloned()));
        for n in 0..MAX_LEAVING {
            assert_eq!(evict(&admission, &strangers), Some(n));
        }
        assert_eq!(admission.enter(ip("1.2.3.4")), Err(TOO_MANY));
        admission.strangers().leaving -= 1;
        assert_eq!(evict(&admission, &strangers), Some(MAX_LEAVING));
        admission.strangers().leaving = 0;
        assert_eq!(admission.enter(ip("1.2.3.4")), Ok(()));
        assert_eq!((admission.open(), admission.strangers().leaving), (1, 1));
        assert_eq!(admission.enter(ip("1.2.3.4")), Err(TOO_MANY));
    }

    #[test]
    fn without_a_limit_addresses_are_not_remembered() {
        let admission = Admission::new(2, usize::MAX);
        admission.enter(ip("1.2.3.4")).unwrap();
        assert!(admission.addresses.lock().unwrap().is_empty());
        admission.leave(Some(ip("1.2.3.4")));
        assert_eq!(admission.open(), 0);
    }
}
