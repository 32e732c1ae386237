//! The delay after failed authentication: many clients come back at once, and do not stop.

use std::{net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::source::{Source, SourceTable};

/// The most sources that are remembered.
const MAX: usize = 4096;

/// The sources that failed to authenticate less than a delay ago: their next attempt waits.
#[derive(Debug)]
pub(crate) struct AuthFailureDelay(Mutex<SourceTable<()>>);

impl AuthFailureDelay {
    pub(crate) fn new(delay: Duration) -> Self {
        Self(Mutex::new(SourceTable::new(delay, MAX)))
    }

    /// The end of the delay of an address, if it has to wait.
    pub(crate) fn until(&self, ip: IpAddr, now: Instant) -> Option<Instant> {
        self.0.lock().expiry(&ip.into(), now)
    }

    /// Begins the delay of an address anew.
    pub(crate) fn failed(&self, ip: IpAddr, now: Instant) {
        self.0.lock().refresh(Source::from(ip), now, || ());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(500);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_waits_from_its_last_failure_on() {
        let (delay, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        assert_eq!(delay.until(ip("1.2.3.4"), start), None);
        delay.failed(ip("1.2.3.4"), start);
        assert_eq!(delay.until(ip("1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(delay.until(ip("::ffff:1.2.3.4"), start), Some(start + DELAY));
        assert_eq!(delay.until(ip("1.2.3.5"), start), None);
        delay.failed(ip("1.2.3.4"), start + DELAY / 2);
        assert_eq!(delay.until(ip("1.2.3.4"), start + DELAY), Some(start + DELAY * 3 / 2));
        assert_eq!(delay.until(ip("1.2.3.4"), start + DELAY * 3 / 2), None);
    }

    #[test]
    fn ipv6_network_counts_as_one_address() {
        let (delay, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        delay.failed(ip("2001:db8::1"), start);
        assert!(delay.until(ip("2001:db8::ffff:2"), start).is_some());
        assert!(delay.until(ip("2001:db8:0:1::1"), start).is_none());
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let (delay, start) = (AuthFailureDelay::new(DELAY), Instant::now());
        for n in 0..MAX + 10 {
            let [.., a, b] = n.to_be_bytes();
            delay.failed(IpAddr::from([1, 2, a, b]), start);
        }
        assert_eq!(delay.0.lock().len(), MAX);
        delay.failed(ip("255.0.0.1"), start + DELAY);
        assert_eq!(delay.0.lock().len(), 1);
    }
}
