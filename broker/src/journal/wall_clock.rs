//! The wall clock as far as it can be trusted: for ages of messages, by which some are dropped.

use std::time::Duration;

use super::options::Now;

/// 2026-11-01: a clock before the day on which this program was written is wrong.
const WRITTEN_MS: i64 = 1_793_491_200_000;
/// The time between two looks that must agree.
const APART: Duration = Duration::from_secs(60);
/// The clocks may differ by so much between two looks.
const TOLERANCE_MS: i64 = 5_000;

/// A clock that is trusted when two looks a minute apart agree with the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// The earlier look, and how far the two clocks were apart.
    look: Option<(Duration, i64)>,
    is_trusted: bool,
}

impl WallClock {
    /// Looks at the clock: the time in milliseconds since 1970, if it can be trusted.
    pub(super) fn look(&mut self, now: Now) -> Option<i64> {
        let since = i64::try_from(now.since.as_millis()).unwrap_or(i64::MAX);
        let apart = now.unix_ms.saturating_sub(since);
        if now.unix_ms < WRITTEN_MS {
            *self = Self::default();
            return None;
        }
        match self.look {
            Some((_, before)) if (apart - before).abs() > TOLERANCE_MS => {
                *self = Self { look: Some((now.since, apart)), is_trusted: false };
            }
            Some((at, _)) if now.since >= at + APART => {
                *self = Self { look: Some((now.since, apart)), is_trusted: true };
            }
            Some(_) => {}
            None => self.look = Some((now.since, apart)),
        }
        self.is_trusted.then_some(now.unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, unix_ms: i64) -> Now {
        Now { since: Duration::from_secs(seconds), unix_ms }
    }

    #[test]
    fn the_clock_is_trusted_when_two_looks_a_minute_apart_agree() {
        let mut clock = WallClock::default();
        let start = WRITTEN_MS + 1;
        assert_eq!(clock.look(at(10, start)), None);
        assert_eq!(clock.look(at(69, start + 59_000)), None);
        assert_eq!(clock.look(at(70, start + 60_000)), Some(start + 60_000));
        assert_eq!(clock.look(at(71, start + 61_000)), Some(start + 61_000), "and stays so");
    }

    #[test]
    fn a_clock_that_jumps_or_stands_before_the_program_was_written_is_not_trusted() {
        let mut clock = WallClock::default();
        let start = WRITTEN_MS + 1;
        let day = 86_400_000;
        clock.look(at(10, start));
        clock.look(at(70, start + 60_000));
        assert_eq!(clock.look(at(71, start + day)), None, "a jump forward");
        assert_eq!(clock.look(at(130, start + day + 59_000)), None);
        assert_eq!(clock.look(at(131, start + day + 60_000)), Some(start + day + 60_000), "a minute later");
        assert_eq!(clock.look(at(132, 1000)), None, "1970");
        assert_eq!(clock.look(at(1000, start)), None, "one look");
        assert_eq!(clock.look(at(1060, start)), None, "a clock that stands still");
    }
}
