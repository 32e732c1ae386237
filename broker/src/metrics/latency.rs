//! A histogram of durations, in buckets from 0.1 ms to 5 s.

use std::time::{Duration, Instant};

use crate::metrics::counter::Counter;

/// Counts durations by bucket.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// One bucket for each bound, and one above all of them.
    counts: [Counter; BUCKETS],
    nanos: Counter,
}

const BUCKETS: usize = LatencyCounts::BOUNDS.len() + 1;

impl Latency {
    /// Observes the time until the guard is dropped.
    pub(crate) fn start(&self) -> Timing<'_> {
        Timing { latency: self, since: Instant::now() }
    }

    pub(crate) fn counts(&self) -> LatencyCounts {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].get());
        LatencyCounts { counts, nanos: self.nanos.get() }
    }

    fn observe(&self, time: Duration) {
        let bucket = LatencyCounts::BOUNDS.partition_point(|(bound, _)| *bound < time);
        self.counts[bucket].add(1);
        self.nanos.add(nanos(time));
    }
}

/// A guard that observes its own lifetime.
#[derive(Debug)]
pub(crate) struct Timing<'a> {
    latency: &'a Latency,
    since: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.latency.observe(self.since.elapsed());
    }
}

/// Durations by bucket and their sum, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LatencyCounts {
    pub(super) counts: [u64; BUCKETS],
    pub(super) nanos: u64,
}

impl LatencyCounts {
    /// The upper bound of each bucket but the last, and its label in seconds.
    pub(super) const BOUNDS: [(Duration, &str); 10] = [
        (Duration::from_micros(100), "0.0001"),
        (Duration::from_micros(500), "0.0005"),
        (Duration::from_millis(1), "0.001"),
        (Duration::from_millis(5), "0.005"),
        (Duration::from_millis(10), "0.01"),
        (Duration::from_millis(50), "0.05"),
        (Duration::from_millis(100), "0.1"),
        (Duration::from_millis(500), "0.5"),
        (Duration::from_secs(1), "1.0"),
        (Duration::from_secs(5), "5.0"),
    ];
}

/// A duration in nanoseconds; `u64::MAX` for one of more than 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let latency = Latency::default();
        for time in [Duration::ZERO, Duration::from_micros(100), Duration::from_micros(101), Duration::from_secs(9)] {
            latency.observe(time);
        }
        assert_eq!(latency.counts().counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for (bound, text) in LatencyCounts::BOUNDS {
            assert_eq!(text.parse(), Ok(bound.as_secs_f64()));
        }
    }
}
