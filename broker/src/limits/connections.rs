//! Connection limits: how many connections may be open, in all and from one address.
//!
//! When there is no room for another connection, the oldest of those that have not authenticated is
//! [evicted](PreAuth::evict_oldest): clients that hold connections open without authenticating keep
//! no other client out. A handshake is faster than new connections can evict it, unless as many of
//! them come in the time of one handshake as there is room for beside the authenticated ones.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    limits::{
        pre_auth::{PendingConnection, PreAuth},
        source::HeldBySource,
    },
    metrics::endpoints::{Connected, EndpointMetrics, Phase},
};

/// Shortest time between two log lines about refused connections.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// ERROR text for a connection for which there is no room, and for one that is evicted.
pub(crate) const TOO_MANY: &str = "Too many connections";

/// Counters of the open connections, and their limits.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    max: usize,
    max_per_address: Option<NonZeroUsize>,
    /// Open connections by source. Empty without a limit.
    addresses: Mutex<HeldBySource<usize>>,
    pre_auth: Arc<PreAuth>,
    refusals: Mutex<Refusals>,
}

/// Refused connections since the last log line about them.
#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    count: u64,
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_address: Option<NonZeroUsize>) -> Self {
        let (open, addresses) = (AtomicUsize::new(0), Mutex::default());
        Self { open, max, max_per_address, addresses, pre_auth: Arc::default(), refusals: Mutex::default() }
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Admits a connection from `peer`, or returns the ERROR text.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: SocketAddr,
        endpoint: &EndpointMetrics,
    ) -> Result<Permit, &'static str> {
        self.enter(peer.ip())?;
        Ok(Permit { admission: self.clone(), peer, counted: true, connected: endpoint.connection() })
    }

    /// The same for a connection from a proxy: its source is [found out](Permit::identify) later.
    pub(crate) fn admit_proxied(
        self: &Arc<Self>,
        proxy: SocketAddr,
        endpoint: &EndpointMetrics,
    ) -> Result<Permit, &'static str> {
        self.enter_any()?;
        Ok(Permit { admission: self.clone(), peer: proxy, counted: false, connected: endpoint.connection() })
    }

    fn enter(&self, ip: IpAddr) -> Result<(), &'static str> {
        // First, so that a source that has too many connections evicts none.
        self.enter_address(ip)?;
        self.enter_any().inspect_err(|_| self.leave_address(ip))
    }

    /// Counts a connection whose source is not known yet.
    fn enter_any(&self) -> Result<(), &'static str> {
        let more = |open: usize| (open < self.max).then_some(open + 1);
        if self.open.fetch_update(Relaxed, Relaxed, more).is_ok() {
            return Ok(());
        }
        if self.pre_auth.evict_oldest() {
            self.open.fetch_add(1, Relaxed);
            return Ok(());
        }
        Err(TOO_MANY)
    }

    fn enter_address(&self, ip: IpAddr) -> Result<(), &'static str> {
        if let Some(max) = self.max_per_address {
            let mut addresses = self.addresses.lock();
            let open = addresses.hold(ip.into(), || 0);
            if *open >= max.get() {
                return Err("Too many connections from your address");
            }
            *open += 1;
        }
        Ok(())
    }

    /// `ip` is the source that the connection was counted for, if it was.
    fn leave(&self, ip: Option<IpAddr>) {
        self.open.fetch_sub(1, Relaxed);
        if let Some(ip) = ip {
            self.leave_address(ip);
        }
    }

    fn leave_address(&self, ip: IpAddr) {
        if self.max_per_address.is_some() {
            let mut addresses = self.addresses.lock();
            addresses.release(ip.into(), |open| {
                *open -= 1;
                *open == 0
            });
        }
    }

    /// Logs a refused connection: at most one line each [`LOG_PERIOD`], with the number of them
    /// since the last line.
    pub(crate) fn log_refusal(&self, ip: IpAddr, reason: &str) {
        let mut refusals = self.refusals.lock();
        refusals.count += 1;
        let now = Instant::now();
        if refusals.logged.is_none_or(|logged| now >= logged + LOG_PERIOD) {
            refusals.logged = Some(now);
            let refused = mem::take(&mut refusals.count);
            warn!(%ip, reason, refused, "connections were turned away");
        }
    }
}

/// The right to hold a connection open; given back when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    /// The client, or a proxy that has not named its client yet.
    pub(crate) peer: SocketAddr,
    /// The connection counts among those of its source.
    counted: bool,
    connected: Connected,
}

impl Permit {
    /// A proxy has named its client. An error is the ERROR text for a client that has too many
    /// connections.
    pub(crate) fn identify(&mut self, client: SocketAddr) -> Result<(), &'static str> {
        self.admission.enter_address(client.ip())?;
        (self.peer, self.counted) = (client, true);
        Ok(())
    }

    /// Registers the connection as one that has not authenticated.
    pub(crate) fn pending(&self) -> PendingConnection {
        self.admission.pre_auth.register()
    }

    /// The connection has come to this phase.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.connected.enter(phase);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.leave(self.counted.then(|| self.peer.ip()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sources_are_counted_apart_and_forgotten() {
        let admission = Admission::new(4, NonZeroUsize::new(2));
        for text in ["1.2.3.4", "::ffff:1.2.3.4", "2001:db8::1"] {
            admission.enter(ip(text)).unwrap();
        }
        assert_eq!(admission.enter(ip("1.2.3.4")), Err("Too many connections from your address"));
        assert_eq!(admission.open(), 3);
        // One network of 64 bits is one source.
        admission.enter(ip("2001:db8::ffff:2")).unwrap();
        assert_eq!(admission.enter(ip("5.6.7.8")), Err("Too many connections"));
        admission.leave(Some(ip("1.2.3.4")));
        admission.enter(ip("1.2.3.4")).unwrap();
        for text in ["1.2.3.4", "1.2.3.4", "2001:db8::2", "2001:db8::2"] {
            admission.leave(Some(ip(text)));
        }
        assert_eq!((admission.open(), admission.addresses.lock().len()), (0, 0));
    }

    #[test]
    fn connection_over_the_limit_takes_the_place_of_an_unauthenticated_one() {
        let admission = Admission::new(0, NonZeroUsize::new(1));
        assert_eq!(admission.enter(ip("1.2.3.4")), Err(TOO_MANY));
        let _pending = admission.pre_auth.register();
        admission.enter(ip("1.2.3.4")).unwrap();
        assert_eq!(admission.open(), 1);
        let _another = admission.pre_auth.register();
        // A source that has too many evicts none.
        admission.enter(ip("1.2.3.4")).unwrap_err();
        admission.enter(ip("1.2.3.5")).unwrap();
        assert_eq!(admission.enter(ip("1.2.3.6")), Err(TOO_MANY));
    }

    #[test]
    fn sources_are_not_remembered_without_a_limit() {
        let admission = Admission::new(2, None);
        admission.enter(ip("1.2.3.4")).unwrap();
        assert_eq!(admission.addresses.lock().len(), 0);
        admission.leave(Some(ip("1.2.3.4")));
        assert_eq!(admission.open(), 0);
    }
}
