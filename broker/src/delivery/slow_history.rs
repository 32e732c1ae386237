//! The slow-consumer history: for how long subscribers that did not read have held publishers up
//! lately.

use std::{net::IpAddr, ops::Range, time::Duration};

use hpfeeds::wire::Ident;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::source::{Source, SourceTable};

/// How many idents and sources are remembered.
const MAX: usize = 1024;

/// For how long they are remembered, after they held publishers up last.
const KEEP: Duration = Duration::from_secs(10 * 60);

/// The time in which publishers have waited in vain lately, by ident and source, of all connections
/// together.
#[derive(Debug)]
pub(crate) struct SlowConsumerHistory(Mutex<SourceTable<Past, (Ident, Source)>>);

/// The history of one ident and source.
#[derive(Debug)]
struct Past {
    /// For how long they held publishers up.
    used: Duration,
    /// The time that was charged last: time that two connections are charged with counts once.
    charged: Range<Instant>,
}

impl Default for SlowConsumerHistory {
    fn default() -> Self {
        Self(Mutex::new(SourceTable::new(KEEP, MAX)))
    }
}

impl SlowConsumerHistory {
    /// Charges a time that ends now, in which publishers have waited in vain.
    pub(crate) fn charge(&self, ident: &Ident, ip: IpAddr, time: Range<Instant>) {
        self.change(ident, ip, time.end, |past| {
            let charged = &mut past.charged;
            let more = if time.start > charged.end {
                *charged = time.clone();
                time.end - time.start
            } else {
                let before = charged.start.saturating_duration_since(time.start);
                let after = time.end.saturating_duration_since(charged.end);
                *charged = charged.start.min(time.start)..charged.end.max(time.end);
                before + after
            };
            past.used = past.used.saturating_add(more);
        });
    }

    /// The allowance is used up, from now on again: a connection does not read, although publishers
    /// do not wait for it.
    pub(crate) fn exhaust(&self, ident: &Ident, ip: IpAddr, allowance: Duration, now: Instant) {
        self.change(ident, ip, now, |past| past.used = past.used.max(allowance));
    }

    fn change(&self, ident: &Ident, ip: IpAddr, now: Instant, change: impl FnOnce(&mut Past)) {
        let key = (ident.clone(), Source::from(ip));
        change(self.0.lock().refresh(key, now, || Past { used: Duration::ZERO, charged: now..now }));
    }

    /// For how long the connections of an ident and source have held publishers up lately.
    pub(crate) fn used(&self, ident: &Ident, ip: IpAddr, now: Instant) -> Duration {
        let mut pasts = self.0.lock();
        pasts.expire(now).for_each(drop);
        // As always, but after an incident.
        if pasts.is_empty() {
            return Duration::ZERO;
        }
        pasts.get_mut(&(ident.clone(), Source::from(ip)), now).map_or(Duration::ZERO, |past| past.used)
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
    fn a_time_is_remembered_for_a_while_by_ident_and_network() {
        let (slow_history, start) = (SlowConsumerHistory::default(), Instant::now());
        let used = |name, from, now| slow_history.used(&ident(name), ip(from), now);
        slow_history.charge(&ident("a"), ip("2001:db8::1"), start..start + LONG);
        let end = start + LONG;
        assert_eq!(used("a", "2001:db8::ffff:2", end), LONG);
        assert_eq!(used("a", "2001:db8:0:1::1", end), Duration::ZERO);
        assert_eq!(used("b", "2001:db8::1", end), Duration::ZERO);
        slow_history.exhaust(&ident("a"), ip("2001:db8::3"), LONG / 2, end + KEEP / 2);
        assert_eq!(used("a", "2001:db8::1", end + KEEP), LONG);
        assert_eq!(used("a", "2001:db8::1", end + KEEP * 3 / 2), Duration::ZERO);
        assert!(slow_history.0.lock().is_empty());
    }

    #[test]
    fn the_latest_entries_are_remembered() {
        let (slow_history, start) = (SlowConsumerHistory::default(), Instant::now());
        let name = |n: usize| ident(&n.to_string());
        let at = |n: usize| start + Duration::from_millis(u64::try_from(n).unwrap());
        for n in 0..MAX + 10 {
            slow_history.exhaust(&name(n), ip("1.2.3.4"), LONG, at(n));
        }
        assert_eq!(slow_history.0.lock().len(), MAX);
        assert_eq!(slow_history.used(&name(9), ip("1.2.3.4"), at(MAX)), Duration::ZERO);
        assert_eq!(slow_history.used(&name(10), ip("1.2.3.4"), at(MAX)), LONG);
        // Entries that are over make room first.
        slow_history.exhaust(&name(0), ip("1.2.3.4"), LONG, at(MAX + 9) + KEEP);
        assert_eq!(slow_history.0.lock().len(), 1);
    }

    #[test]
    fn time_charged_to_several_connections_counts_once() {
        // From when to when publishers waited, in seconds, and how long that has been in all.
        for times in [
            &[(0, 2, 2), (0, 2, 2), (1, 3, 3), (5, 6, 4)][..],
            // One that ends first and begins last.
            &[(5, 6, 1), (0, 7, 7), (7, 8, 8)],
            &[(5, 6, 1), (3, 6, 3), (6, 6, 3)],
        ] {
            let (slow_history, start) = (SlowConsumerHistory::default(), Instant::now());
            let at = |seconds| start + Duration::from_secs(seconds);
            for &(from, to, used) in times {
                slow_history.charge(&ident("a"), ip("1.2.3.4"), at(from)..at(to));
                assert_eq!(slow_history.used(&ident("a"), ip("1.2.3.4"), at(to)).as_secs(), used, "{times:?}");
            }
        }
    }

    #[test]
    fn short_times_add_up_unless_they_are_long_ago() {
        let (slow_history, start) = (SlowConsumerHistory::default(), Instant::now());
        let (who, from) = (ident("a"), ip("1.2.3.4"));
        for n in 1..=3 {
            slow_history.charge(&who, from, start + n * LONG..start + n * LONG + LONG / 3);
            assert_eq!(slow_history.used(&who, from, start + n * LONG), n * LONG / 3);
        }
        let later = start + 3 * LONG + LONG / 3 + KEEP;
        slow_history.charge(&who, from, later - LONG / 3..later);
        assert_eq!(slow_history.used(&who, from, later), LONG / 3);
        slow_history.exhaust(&who, from, LONG, later);
        assert_eq!(slow_history.used(&who, from, later), LONG);
    }
}
