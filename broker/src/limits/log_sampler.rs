//! Log sampling: strangers can make an event happen as often as they like, and the log has few of
//! them.

use std::{net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::source::{Source, SourceTable};

/// The shortest time between two lines about one source.
const PERIOD: Duration = Duration::from_secs(10);

/// The most lines in that time: an attack from very many addresses has as many as that.
const MAX_LINES: usize = 100;

/// The sampler of one kind of lines, such as "authentication failed".
#[derive(Debug)]
pub(crate) struct LogSampler(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How many events had no line, for each source that had one less than a period ago. The lines
    /// of two periods have room.
    logged: SourceTable<u64>,
    /// When the period began, and how many lines there have been in it.
    begun: Option<Instant>,
    lines: usize,
    /// How many events had no line, of sources that are not in the table.
    elsewhere: u64,
}

/// The events without a line that the next line tells of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suppressed {
    /// How many events of this source had no line since its last.
    pub(crate) here: u64,
    /// The same for other sources, if there are such events.
    pub(crate) elsewhere: Option<u64>,
}

impl Default for LogSampler {
    fn default() -> Self {
        let logged = SourceTable::new(PERIOD, 2 * MAX_LINES);
        Self(Mutex::new(State { logged, begun: None, lines: 0, elsewhere: 0 }))
    }
}

impl LogSampler {
    /// Counts an event. Returns what its line says besides, or `None` if it has no line.
    pub(crate) fn sample(&self, ip: IpAddr, now: Instant) -> Option<Suppressed> {
        let source = Source::from(ip);
        let state = &mut *self.0.lock();
        if let Some(suppressed) = state.logged.get_mut(&source, now) {
            *suppressed += 1;
            return None;
        }
        let here = state.logged.remove(&source).unwrap_or_default();
        if state.begun.is_none_or(|begun| now >= begun + PERIOD) {
            (state.begun, state.lines) = (Some(now), 0);
            state.elsewhere += state.logged.expire(now).sum::<u64>();
        }
        if state.lines >= MAX_LINES {
            state.elsewhere += here + 1;
            return None;
        }
        state.lines += 1;
        state.logged.refresh(source, now, || 0);
        let elsewhere = std::mem::take(&mut state.elsewhere);
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
    fn address_has_a_line_once_a_period() {
        let (sampler, start) = (LogSampler::default(), Instant::now());
        assert_eq!(sampler.sample(ip(1), start), Some(line(0, None)));
        assert_eq!(sampler.sample(ip(1), start + SECOND), None);
        assert_eq!(sampler.sample(ip(2), start + SECOND), Some(line(0, None)));
        assert_eq!(sampler.sample(ip(1), start + 2 * SECOND), None);
        assert_eq!(sampler.sample(ip(1), start + PERIOD), Some(line(2, None)));
        assert_eq!(sampler.sample(ip(1), start + 2 * PERIOD), Some(line(0, None)));
    }

    #[test]
    fn events_since_the_last_line_of_an_address_are_counted() {
        let (sampler, start) = (LogSampler::default(), Instant::now());
        for _ in 0..6 {
            let _ = sampler.sample(ip(1), start);
        }
        assert_eq!(sampler.sample(ip(2), start + PERIOD), Some(line(0, Some(5))));
        assert_eq!(sampler.sample(ip(2), start + 2 * PERIOD), Some(line(0, None)));
    }

    #[test]
    fn lines_are_bounded_and_every_event_is_counted() {
        let (sampler, start) = (LogSampler::default(), Instant::now());
        let (mut events, mut counted) = (0, 0);
        let mut lines = |addresses: std::ops::Range<usize>, now| {
            let mut lines = 0;
            for n in addresses {
                events += 1;
                if let Some(Suppressed { here, elsewhere }) = sampler.sample(ip(n), now) {
                    lines += 1;
                    counted += 1 + here + elsewhere.unwrap_or_default();
                }
            }
            lines
        };
        assert_eq!(lines(0..100_000, start), MAX_LINES);
        assert_eq!(lines(100_000..200_000, start + SECOND), 0);
        assert_eq!(lines(0..100_000, start + PERIOD * 11 / 10), MAX_LINES);
        assert!(sampler.0.lock().logged.len() <= 2 * MAX_LINES);
        assert_eq!(lines(200_000..200_001, start + PERIOD * 3), 1);
        assert_eq!(counted, events);
    }
}
