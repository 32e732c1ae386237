//! Latency histogram, in nanoseconds, with three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram as Buckets;

/// How often each time was seen.
#[derive(Debug, Clone)]
pub(super) struct Histogram(Buckets<u64>);

impl Histogram {
    pub(super) fn new() -> Self {
        // At least a second: what most runs need is allocated at once.
        let mut buckets = Buckets::new_with_max(1_000_000_000, 3).unwrap_or_else(|_| unreachable!("these bounds do"));
        buckets.auto(true);
        Self(buckets)
    }

    pub(super) fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // With auto-resize only a table that cannot be allocated is an error.
        self.0.record(nanos).unwrap_or_else(|_| self.0.saturating_record(nanos));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// The time, in nanoseconds, that `part` of a thousand do not exceed; at most 0.1 % too high.
    pub(super) fn per_mille(&self, part: u32) -> u64 {
        self.0.value_at_quantile(f64::from(part) / 1000.0)
    }

    /// The longest time, in nanoseconds; at most 0.1 % too high.
    pub(super) fn max(&self) -> u64 {
        self.0.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_merged_histograms_are_those_of_all_times() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.per_mille(500), histogram.max()), (0, 0));
        for nanos in 1..=100 {
            histogram.record(Duration::from_nanos(nanos));
        }
        let mut other = Histogram::new();
        other.record(Duration::from_secs(1));
        histogram.merge(&other);
        assert_eq!([500, 900, 990].map(|part| histogram.per_mille(part)), [51, 91, 100]);
        for longest in [histogram.per_mille(1000), histogram.max()] {
            assert!((1_000_000_000..1_001_000_000).contains(&longest), "{longest}");
        }
    }

    #[test]
    fn times_of_any_length_fit() {
        let mut histogram = Histogram::new();
        for time in [Duration::ZERO, Duration::from_secs(3600), Duration::MAX] {
            histogram.record(time);
        }
        assert_eq!(histogram.per_mille(1), 0);
        let hour = histogram.per_mille(500);
        assert!((3_600_000_000_000..3_604_000_000_000).contains(&hour), "{hour}");
    }
}
