//! Remembers who failed to authenticate: many clients come back at once, and do not stop.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many addresses are remembered.
const MAX: usize = 4096;

/// How often the failures of one address are logged.
const REPORT: Duration = Duration::from_secs(10);

/// The addresses that failed lately.
#[derive(Debug)]
pub(crate) struct Throttle {
    delay: Duration,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug)]
struct Failures {
    last: Instant,
    logged: Instant,
    unlogged: u64,
}

impl Throttle {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, failures: Mutex::default() }
    }

    /// Until when an address has to wait.
    pub(crate) fn until(&self, ip: IpAddr, now: Instant) -> Option<Instant> {
        let until = self.lock().get(&network(ip))?.last + self.delay;
        (now < until).then_some(until)
    }

    /// Remembers a failure. When it is one to be logged: how many were not since the last that was.
    pub(crate) fn failed(&self, ip: IpAddr, now: Instant) -> Option<u64> {
        let ip = network(ip);
        let mut failures = self.lock();
        if let Some(known) = failures.get_mut(&ip) {
            known.last = now;
            if now < known.logged + REPORT {
                known.unlogged += 1;
                return None;
            }
            known.logged = now;
            return Some(std::mem::take(&mut known.unlogged));
        }
        if failures.len() >= MAX {
            failures.retain(|_, old| now < old.last + self.delay || now < old.logged + REPORT);
        }
        if failures.len() >= MAX {
            // Whoever has that many addresses is not slowed down by any of them.
            let any = failures.keys().next().copied();
            any.map(|any| failures.remove(&any));
        }
        failures.insert(ip, Failures { last: now, logged: now, unlogged: 0 });
        Some(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one client may have: an IPv4 address, or an IPv6 network of 64 bits.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_from_its_last_failure_on() {
        let (throttle, start) = (Throttle::new(DELAY), Instant::now());
        assert_eq!(throttle.until(ip("1.2.3.4"), start), None);
        let _ = throttle.failed(ip("1.2.3.4"), start);
        assert_eq!(throttle.until(ip("1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(throttle.until(ip("::ffff:1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(throttle.until(ip("1.2.3.5"), start), None);
        let _ = throttle.failed(ip("1.2.3.4"), start + DELAY / 2);
        assert_eq!(throttle.until(ip("1.2.3.4"), start + DELAY), Some(start + DELAY * 3 / 2));
        assert_eq!(throttle.until(ip("1.2.3.4"), start + DELAY * 3 / 2), None);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let (throttle, start) = (Throttle::new(DELAY), Instant::now());
        let _ = throttle.failed(ip("2001:db8::1"), start);
        assert!(throttle.until(ip("2001:db8::ffff:2"), start).is_some());
        assert!(throttle.until(ip("2001:db8:0:1::1"), start).is_none());
    }

    #[test]
    fn failures_of_an_address_are_logged_now_and_then() {
        let (throttle, start) = (Throttle::new(DELAY), Instant::now());
        assert_eq!(throttle.failed(ip("1.2.3.4"), start), Some(0));
        assert_eq!(throttle.failed(ip("1.2.3.4"), start + DELAY), None);
        assert_eq!(throttle.failed(ip("1.2.3.4"), start + 2 * DELAY), None);
        assert_eq!(throttle.failed(ip("1.2.3.5"), start + 2 * DELAY), Some(0));
        assert_eq!(throttle.failed(ip("1.2.3.4"), start + REPORT), Some(2));
    }

    #[test]
    fn no_more_addresses_than_that_are_remembered() {
        let (throttle, start) = (Throttle::new(DELAY), Instant::now());
        for n in 0..MAX + 10 {
            let [.., a, b] = n.to_be_bytes();
            let _ = throttle.failed(IpAddr::from([1, 2, a, b]), start);
        }
        assert_eq!(throttle.lock().len(), MAX);
        let _ = throttle.failed(ip("255.0.0.1"), start + REPORT);
        assert_eq!(throttle.lock().len(), 1);
    }
}
