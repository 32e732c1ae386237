//! How many connections there may be: in all, and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    broker::Shared,
    metrics::{Connected, Entrance, Phase},
    throttle::network,
};

/// How often refusals are logged.
const REPORT: Duration = Duration::from_secs(10);

/// Counts the connections that are open.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    max: usize,
    max_per_address: usize,
    /// Empty when there is no limit for each.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    report: Mutex<Report>,
}

#[derive(Debug, Default)]
struct Report {
    last: Option<Instant>,
    refused: u64,
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Self {
        let (open, addresses, report) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { open, max, max_per_address, addresses, report }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    fn enter(&self, ip: IpAddr) -> Result<(), &'static str> {
        let more = |open: usize| (open < self.max).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).map_err(|_| "Too many connections")?;
        if self.max_per_address != usize::MAX {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let open = addresses.entry(network(ip)).or_default();
            if *open >= self.max_per_address {
                self.open.fetch_sub(1, Relaxed);
                return Err("Too many connections from your address");
            }
            *open += 1;
        }
        Ok(())
    }

    fn leave(&self, ip: IpAddr) {
        self.open.fetch_sub(1, Relaxed);
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
            let refused = std::mem::take(&mut report.refused);
            warn!(%ip, reason, refused, "connections were turned away");
        }
    }
}

/// The right to hold a connection open; given back when dropped.
pub(crate) struct Permit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: SocketAddr,
    connected: Connected,
}

impl Permit {
    /// Or what to tell a client for whom there is no room.
    pub(crate) fn take(shared: &Arc<Shared>, peer: SocketAddr, entrance: &Entrance) -> Result<Self, &'static str> {
        shared.admission.enter(peer.ip())?;
        Ok(Self { shared: shared.clone(), peer, connected: entrance.connection() })
    }

    /// The connection has come this far.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.connected.enter(phase);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.admission.leave(self.peer.ip());
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
        admission.leave(ip("1.2.3.4"));
        admission.enter(ip("1.2.3.4")).unwrap();
        for text in ["1.2.3.4", "1.2.3.4", "2001:db8::2", "2001:db8::2"] {
            admission.leave(ip(text));
        }
        assert_eq!((admission.open(), admission.addresses.lock().unwrap().len()), (0, 0));
    }

    #[test]
    fn without_a_limit_addresses_are_not_remembered() {
        let admission = Admission::new(2, usize::MAX);
        admission.enter(ip("1.2.3.4")).unwrap();
        assert!(admission.addresses.lock().unwrap().is_empty());
        admission.leave(ip("1.2.3.4"));
        assert_eq!(admission.open(), 0);
    }
}
