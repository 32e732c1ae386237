//! Times, counted in buckets whose width is less than 1 % of what is in them.

use std::time::Duration;

/// Buckets for each power of two.
const FINE: u32 = 7;

/// How often each time was seen, in nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; (64 - FINE as usize + 1) << FINE], count: 0, max: 0 }
    }

    pub(super) fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += more;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The time, in nanoseconds, that so many of a thousand do not exceed; at most 1 % too high.
    pub(super) fn per_mille(&self, part: u64) -> u64 {
        let rank = (self.count * part).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return upper(index).min(self.max);
            }
        }
        self.max
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }
}

/// Small numbers have a bucket each; above, the leading bits choose.
fn bucket(nanos: u64) -> usize {
    let bits = 64 - nanos.leading_zeros();
    let shift = bits.saturating_sub(FINE + 1);
    ((shift as usize) << FINE) + usize::try_from(nanos >> shift).unwrap_or_default()
}

/// The largest number in a bucket.
fn upper(index: usize) -> u64 {
    let shift = (index >> FINE).saturating_sub(1);
    let leading = (index - (shift << FINE)) as u64;
    ((leading + 1) << shift).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut numbers: Vec<u64> = (0..64).flat_map(|bit| [1 << bit, (1 << bit) + (1 << bit) / 3]).collect();
        numbers.extend([0, 127, 128, 255, 256, 257, u64::MAX]);
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            assert!(bucket(pair[0]) <= bucket(pair[1]), "{pair:?}");
        }
        for number in numbers {
            let upper = upper(bucket(number));
            assert!(upper >= number && upper - number <= number / 100, "{number}: {upper}");
        }
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.per_mille(500), histogram.max()), (0, 0));
        for nanos in 1..=100 {
            histogram.record(Duration::from_nanos(nanos));
        }
        let mut other = Histogram::new();
        other.record(Duration::from_secs(1));
        histogram.merge(&other);
        assert_eq!([500, 900, 990, 1000].map(|part| histogram.per_mille(part)), [51, 91, 100, 1_000_000_000]);
    }
}
