//! How often the log has a line about what strangers do: they can do it as often as they like.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::limits::source::network;

/// How long there is no second line about one address.
const PERIOD: Duration = Duration::from_secs(10);

/// How many addresses have a line in that time: who attacks from very many has as many lines as that.
const MAX_LINES: usize = 100;

/// Lines of one kind, such as "authentication failed".
#[derive(Debug, Default)]
pub(crate) struct LogSampler(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Those that had a line lately: no more than two periods of lines.
    addresses: HashMap<IpAddr, Reported>,
    /// When the period began, and how many lines there have been in it.
    begun: Option<Instant>,
    lines: usize,
    /// What had no line, of addresses that are not remembered.
    elsewhere: u64,
}

#[derive(Debug)]
struct Reported {
    at: Instant,
    unlogged: u64,
}

/// What a line says besides the event itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suppressed {
    /// How many events of this address had no line since its last.
    pub(crate) here: u64,
    /// The same for other addresses, if there are such.
    pub(crate) elsewhere: Option<u64>,
}

impl LogSampler {
    /// Something has happened. What to say about it, if there is to be a line at all.
    pub(crate) fn about(&self, ip: IpAddr, now: Instant) -> Option<Suppressed> {
        let ip = network(ip);
        let table = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut here = 0;
        if let Some(known) = table.addresses.get_mut(&ip) {
            if now < known.at + PERIOD {
                known.unlogged += 1;
                return None;
            }
            here = known.unlogged;
            table.addresses.remove(&ip);
        }
        if table.begun.is_none_or(|begun| now >= begun + PERIOD) {
            (table.begun, table.lines) = (Some(now), 0);
            let elsewhere = &mut table.elsewhere;
            table.addresses.retain(|_, known| {
                let keep = now < known.at + PERIOD;
                *elsewhere += if keep { 0 } else { known.unlogged };
                keep
            });
        }
        if table.lines >= MAX_LINES {
            table.elsewhere += here + 1;
            return None;
        }
        table.lines += 1;
        table.addresses.insert(ip, Reported { at: now, unlogged: 0 });
        let elsewhere = std::mem::take(&mut table.elsewhere);
        Some(Suppressed { here, elsewhere: (elsewhere > 0).then_some(elsewhere) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(n: usize) -> IpAddr {
        let [.., b, c, d] = n.to_be_bytes();
        IpAddr::from([10, b, c, d])
    }

    fn line(here: u64, elsewhere: Option<u64>) -> Suppressed {
        Suppressed { here, elsewhere }
    }

    #[test]
    fn an_address_has_a_line_now_and_then() {
        let (reports, start) = (LogSampler::default(), Instant::now());
        assert_eq!(reports.about(ip(1), start), Some(line(0, None)));
        assert_eq!(reports.about(ip(1), start + SECOND), None);
        assert_eq!(reports.about(ip(2), start + SECOND), Some(line(0, None)));
        assert_eq!(reports.about(ip(1), start + 2 * SECOND), None);
        assert_eq!(reports.about(ip(1), start + PERIOD), Some(line(2, None)));
        assert_eq!(reports.about(ip(1), start + 2 * PERIOD), Some(line(0, None)));
    }

    #[test]
    fn what_an_address_did_last_is_not_forgotten() {
        let (reports, start) = (LogSampler::default(), Instant::now());
        for _ in 0..6 {
            let _ = reports.about(ip(1), start);
        }
        assert_eq!(reports.about(ip(2), start + PERIOD), Some(line(0, Some(5))));
        assert_eq!(reports.about(ip(2), start + 2 * PERIOD), Some(line(0, None)));
    }

    #[test]
    fn very_many_addresses_have_no_more_lines_than_that_and_nothing_is_uncounted() {
        let (reports, start) = (LogSampler::default(), Instant::now());
        let (mut events, mut told) = (0, 0);
        let mut lines = |addresses: std::ops::Range<usize>, now| {
            let mut lines = 0;
            for n in addresses {
                events += 1;
                if let Some(Suppressed { here, elsewhere }) = reports.about(ip(n), now) {
                    lines += 1;
                    told += 1 + here + elsewhere.unwrap_or_default();
                }
            }
            lines
        };
        assert_eq!(lines(0..100_000, start), MAX_LINES);
        assert_eq!(lines(100_000..200_000, start + SECOND), 0);
        assert_eq!(lines(0..100_000, start + PERIOD * 11 / 10), MAX_LINES);
        assert!(reports.0.lock().unwrap().addresses.len() <= 2 * MAX_LINES);
        assert_eq!(lines(200_000..200_001, start + PERIOD * 3), 1);
        assert_eq!(told, events);
    }
}
