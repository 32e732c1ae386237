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

/// Idents and addresses of subscribers that took too little when their connection ended, or were disconnected for that.
#[derive(Debug, Default)]
pub(crate) struct Probation(Mutex<HashMap<(Ident, IpAddr), Past>>);

/// What somebody did lately.
#[derive(Debug)]
struct Past {
    /// For how long it held publishers up.
    held_up: Duration,
    last: Instant,
}

impl Past {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.last + KEEP
    }
}

impl Probation {
    /// Remembers somebody who held publishers up, once more. When there are too many, the one is forgotten whose time was
    /// longest ago.
    pub(crate) fn add(&self, ident: &Ident, ip: IpAddr, held_up: Duration, now: Instant) {
        let key = (ident.clone(), network(ip));
        let mut pasts = self.lock();
        if pasts.len() >= MAX && !pasts.contains_key(&key) {
            pasts.retain(|_, past| !past.is_over(now));
            if pasts.len() >= MAX {
                let oldest = pasts.iter().min_by_key(|(_, past)| past.last).map(|(key, _)| key.clone());
                oldest.map(|oldest| pasts.remove(&oldest));
            }
        }
        let past = pasts.entry(key).or_insert(Past { held_up: Duration::ZERO, last: now });
        let before = if past.is_over(now) { Duration::ZERO } else { past.held_up };
        *past = Past { held_up: before.saturating_add(held_up), last: now };
    }

    /// Whether somebody who connects now held publishers up so long lately.
    pub(crate) fn holds(&self, ident: &Ident, ip: IpAddr, long: Duration, now: Instant) -> bool {
        let mut pasts = self.lock();
        // As always, but after an incident.
        if pasts.is_empty() {
            return false;
        }
        let key = (ident.clone(), network(ip));
        if pasts.get(&key).is_some_and(|past| past.is_over(now)) {
            pasts.remove(&key);
        }
        pasts.get(&key).is_some_and(|past| past.held_up >= long)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Ident, IpAddr), Past>> {
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

    const LONG: Duration = Duration::from_secs(3);

    #[test]
    fn who_was_slow_is_remembered_for_a_while_by_ident_and_network() {
        let (probation, start) = (Probation::default(), Instant::now());
        probation.add(&ident("a"), ip("2001:db8::1"), LONG, start);
        assert!(probation.holds(&ident("a"), ip("2001:db8::ffff:2"), LONG, start));
        assert!(!probation.holds(&ident("a"), ip("2001:db8:0:1::1"), LONG, start));
        assert!(!probation.holds(&ident("b"), ip("2001:db8::1"), LONG, start));
        probation.add(&ident("a"), ip("2001:db8::3"), LONG, start + KEEP / 2);
        assert!(probation.holds(&ident("a"), ip("2001:db8::1"), LONG, start + KEEP));
        assert!(!probation.holds(&ident("a"), ip("2001:db8::1"), LONG, start + KEEP * 3 / 2));
        assert!(probation.lock().is_empty());
    }

    #[test]
    fn the_latest_are_remembered() {
        let (probation, start) = (Probation::default(), Instant::now());
        let name = |n: usize| ident(&n.to_string());
        let at = |n: usize| start + Duration::from_millis(u64::try_from(n).unwrap());
        for n in 0..MAX + 10 {
            probation.add(&name(n), ip("1.2.3.4"), LONG, at(n));
        }
        assert_eq!(probation.lock().len(), MAX);
        assert!(!probation.holds(&name(9), ip("1.2.3.4"), LONG, at(MAX)));
        assert!(probation.holds(&name(10), ip("1.2.3.4"), LONG, at(MAX)));
        // Whose time is over makes room first.
        probation.add(&name(0), ip("1.2.3.4"), LONG, at(MAX + 9) + KEEP);
        assert_eq!(probation.lock().len(), 1);
    }

    #[test]
    fn short_times_add_up_unless_they_are_long_ago() {
        let (probation, start) = (Probation::default(), Instant::now());
        let (who, from) = (ident("a"), ip("1.2.3.4"));
        for n in 1..=2 {
            probation.add(&who, from, LONG / 3, start);
            assert!(!probation.holds(&who, from, LONG, start), "{n}");
        }
        probation.add(&who, from, LONG / 3, start);
        assert!(probation.holds(&who, from, LONG, start));
        probation.add(&who, from, LONG / 3, start + KEEP);
        assert!(!probation.holds(&who, from, LONG, start + KEEP));
        probation.add(&who, from, Duration::MAX, start + KEEP);
        assert!(probation.holds(&who, from, LONG, start + KEEP));
    }
}
