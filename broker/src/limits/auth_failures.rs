//! Remembers who failed to authenticate: many clients come back at once, and do not stop.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::limits::source::network;
use tokio::time::Instant;

/// How many addresses are remembered.
const MAX: usize = 4096;

/// The addresses that failed lately.
#[derive(Debug)]
pub(crate) struct AuthFailureDelay {
    delay: Duration,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    /// When an address failed last.
    last: HashMap<IpAddr, Instant>,
    /// When those that need not wait any more were looked for: with a full table, not for each failure.
    swept: Option<Instant>,
}

impl AuthFailureDelay {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, failures: Mutex::default() }
    }

    /// Until when an address has to wait.
    pub(crate) fn until(&self, ip: IpAddr, now: Instant) -> Option<Instant> {
        let until = *self.lock().last.get(&network(ip))? + self.delay;
        (now < until).then_some(until)
    }

    /// Remembers a failure.
    pub(crate) fn failed(&self, ip: IpAddr, now: Instant) {
        let ip = network(ip);
        let failures = &mut *self.lock();
        if failures.last.len() >= MAX && !failures.last.contains_key(&ip) {
            if failures.swept.is_none_or(|swept| now >= swept + self.delay) {
                failures.swept = Some(now);
                failures.last.retain(|_, last| now < *last + self.delay);
            }
            if failures.last.len() >= MAX {
                // Whoever has that many addresses is not slowed down by any of them.
                let any = failures.last.keys().next().copied();
                any.map(|any| failures.last.remove(&any));
            }
        }
        failures.last.insert(ip, now);
    }

    fn lock(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (throttle, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        assert_eq!(throttle.until(ip("1.2.3.4"), start), None);
        throttle.failed(ip("1.2.3.4"), start);
        assert_eq!(throttle.until(ip("1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(throttle.until(ip("::ffff:1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(throttle.until(ip("1.2.3.5"), start), None);
        throttle.failed(ip("1.2.3.4"), start + DELAY / 2);
        assert_eq!(throttle.until(ip("1.2.3.4"), start + DELAY), Some(start + DELAY * 3 / 2));
        assert_eq!(throttle.until(ip("1.2.3.4"), start + DELAY * 3 / 2), None);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let (throttle, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        throttle.failed(ip("2001:db8::1"), start);
        assert!(throttle.until(ip("2001:db8::ffff:2"), start).is_some());
        assert!(throttle.until(ip("2001:db8:0:1::1"), start).is_none());
    }

    #[test]
    fn no_more_addresses_than_that_are_remembered() {
        let (throttle, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        for n in 0..MAX + 10 {
            let [.., a, b] = n.to_be_bytes();
            throttle.failed(IpAddr::from([1, 2, a, b]), start);
        }
        assert_eq!(throttle.lock().last.len(), MAX);
        throttle.failed(ip("255.0.0.1"), start + DELAY);
        assert_eq!(throttle.lock().last.len(), 1);
    }
}
