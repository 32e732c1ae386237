//! The pace of `publish --ndjson --speed`: when a recorded message is due, by the times of lines
//! and the monotonic clock.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// How fast a recording is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// As fast as the broker takes it.
    Max,
    /// So many times as fast as it was recorded.
    Times(f64),
}

/// Reads a speed: `max`, or a number such as `1` or `0.5`.
pub(crate) fn speed(text: &str) -> Result<Speed, &'static str> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let times: f64 = text.parse().map_err(|_| "neither max nor a number such as 1, 10 or 0.5")?;
    if times.is_finite() && times > 0.0 {
        Ok(Speed::Times(times))
    } else {
        Err("not above zero: 1 is as fast as it was")
    }
}

/// A schedule: each message is due as long after the first as it was then, divided by the speed.
///
/// It never runs backwards: a line whose time is before that of an earlier one is due at once. A
/// late line is due at once, too, and the next ones catch up.
#[derive(Debug)]
pub(crate) struct Pace {
    times: f64,
    longest: Duration,
    last: Option<(Instant, Timestamp)>,
}

/// When a message is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Instant,
    /// The wait that the times ask for, where it is more than the longest one.
    pub(crate) cut: Option<Duration>,
}

impl Pace {
    /// `longest`: no message is waited for longer than that after the one before it.
    pub(crate) fn new(times: f64, longest: Duration) -> Self {
        Self { times, longest, last: None }
    }

    /// When the next message is due, which was recorded at `time`.
    pub(crate) fn due(&mut self, time: Timestamp, now: Instant) -> Due {
        let Some((at, last)) = self.last else {
            self.last = Some((now, time));
            return Due { at: now, cut: None };
        };
        // None for a time that goes back.
        let gap = Duration::try_from(time.duration_since(last)).unwrap_or_default();
        let asked = Duration::try_from_secs_f64(gap.as_secs_f64() / self.times).unwrap_or(Duration::MAX);
        let wait = asked.min(self.longest);
        let at = at.checked_add(wait).unwrap_or(at);
        self.last = Some((at, last.max(time)));
        Due { at, cut: (wait < asked).then_some(asked) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Seconds after the first message, and what was cut, for messages recorded at these seconds.
    fn played(times: f64, recorded: &[f64]) -> Vec<(f64, Option<f64>)> {
        let (mut pace, start) = (Pace::new(times, HOUR), Instant::now());
        let first: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        recorded
            .iter()
            .map(|seconds| {
                let time = first + jiff::SignedDuration::from_secs_f64(*seconds);
                let due = pace.due(time, start);
                ((due.at - start).as_secs_f64(), due.cut.map(|cut| cut.as_secs_f64()))
            })
            .collect()
    }

    #[test]
    fn messages_are_due_as_far_apart_as_they_were() {
        assert_eq!(played(1.0, &[0.0, 0.5, 0.5, 4.0]), [(0.0, None), (0.5, None), (0.5, None), (4.0, None)]);
        assert_eq!(played(10.0, &[0.0, 5.0, 20.0]), [(0.0, None), (0.5, None), (2.0, None)]);
        assert_eq!(played(0.5, &[0.0, 5.0]), [(0.0, None), (10.0, None)]);
    }

    #[test]
    fn times_that_go_back_do_not_hold_up_what_follows() {
        // The clock was set back by 100 seconds, and is right again.
        assert_eq!(played(1.0, &[0.0, 10.0, -90.0, 12.0]), [(0.0, None), (10.0, None), (10.0, None), (12.0, None)]);
    }

    #[test]
    fn a_long_gap_is_cut_and_told() {
        let year = 365.0 * 86400.0;
        assert_eq!(played(1.0, &[0.0, year, year + 2.0]), [(0.0, None), (3600.0, Some(year)), (3602.0, None)]);
        assert_eq!(played(86400.0, &[0.0, year]), [(0.0, None), (365.0, None)]);
        // Longer than any time: the wait that is told has a bound, too.
        let slowest = Duration::MAX.as_secs_f64();
        assert_eq!(played(1e-300, &[0.0, 1.0]), [(0.0, None), (3600.0, Some(slowest))]);
    }

    #[test]
    fn a_speed_is_max_or_a_number_above_zero() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("0.5"), Ok(Speed::Times(0.5)));
        for wrong in ["", "fast", "0", "-1", "inf", "NaN"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
