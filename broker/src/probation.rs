//! Remembers who did not read: nobody waits for their next connections until these have shown that they do.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hpfeeds::wire::Ident;
use tokio::time::Instant;

use crate::throttle::network;

/// How many are remembered.
const MAX: usize = 1024;

/// For how long, after they were slow last.
const KEEP: Duration = Duration::from_secs(10 * 60);

/// Idents and addresses of subscribers that were slow when their connection ended, or were disconnected for that.
#[derive(Debug, Default)]
pub(crate) struct Probation(Mutex<HashMap<(Ident, IpAddr), Instant>>);

impl Probation {
    /// Remembers somebody who was slow. When there are too many, the one is forgotten whose time was longest ago.
    pub(crate) fn add(&self, ident: &Ident, ip: IpAddr, now: Instant) {
        let key = (ident.clone(), network(ip));
        let mut last = self.lock();
        if last.len() >= MAX && !last.contains_key(&key) {
            last.retain(|_, last| now < *last + KEEP);
            if last.len() >= MAX {
                let oldest = last.iter().min_by_key(|(_, last)| **last).map(|(key, _)| key.clone());
                oldest.map(|oldest| last.remove(&oldest));
            }
        }
        last.insert(key, now);
    }

    /// Whether somebody who connects now was slow lately.
    pub(crate) fn holds(&self, ident: &Ident, ip: IpAddr, now: Instant) -> bool {
        let mut last = self.lock();
        // As always, but after an incident.
        if last.is_empty() {
            return false;
        }
        let key = (ident.clone(), network(ip));
        let recent = last.get(&key).map(|last| now < *last + KEEP);
        if recent == Some(false) {
            last.remove(&key);
        }
        recent.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Ident, IpAddr), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn ident(text: &str) -> Ident {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_was_slow_is_remembered_for_a_while_by_ident_and_network() {
        let (probation, start) = (Probation::default(), Instant::now());
        probation.add(&ident("a"), ip("2001:db8::1"), start);
        assert!(probation.holds(&ident("a"), ip("2001:db8::ffff:2"), start));
        assert!(!probation.holds(&ident("a"), ip("2001:db8:0:1::1"), start));
        assert!(!probation.holds(&ident("b"), ip("2001:db8::1"), start));
        probation.add(&ident("a"), ip("2001:db8::3"), start + KEEP / 2);
        assert!(probation.holds(&ident("a"), ip("2001:db8::1"), start + KEEP));
        assert!(!probation.holds(&ident("a"), ip("2001:db8::1"), start + KEEP * 3 / 2));
        assert!(probation.lock().is_empty());
    }

    #[test]
    fn the_latest_are_remembered() {
        let (probation, start) = (Probation::default(), Instant::now());
        let name = |n: usize| ident(&n.to_string());
        let at = |n: usize| start + Duration::from_millis(u64::try_from(n).unwrap());
        for n in 0..MAX + 10 {
            probation.add(&name(n), ip("1.2.3.4"), at(n));
        }
        assert_eq!(probation.lock().len(), MAX);
        assert!(!probation.holds(&name(9), ip("1.2.3.4"), at(MAX)));
        assert!(probation.holds(&name(10), ip("1.2.3.4"), at(MAX)));
        // Whose time is over makes room first.
        probation.add(&name(0), ip("1.2.3.4"), at(MAX + 9) + KEEP);
        assert_eq!(probation.lock().len(), 1);
    }
}
