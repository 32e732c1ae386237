//! A histogram of the payload sizes of one batch, filled while the batch is scanned.

/// The upper bounds of the buckets are 1024·2ⁿ bytes of payload, as in the Python broker. The last
/// bucket has none.
pub(super) const BUCKETS: usize = 14;
const FIRST: usize = 1024;

/// The least payload of each bucket in bytes, and how much larger the largest is.
const RANGES: [(usize, usize); BUCKETS] = {
    let mut ranges = [(0, FIRST); BUCKETS];
    let mut bucket = 1;
    while bucket < BUCKETS {
        let below = FIRST << (bucket - 1);
        ranges[bucket] = (below + 1, if bucket < BUCKETS - 1 { below - 1 } else { u32::MAX as usize });
        bucket += 1;
    }
    ranges
};

/// Counts the messages of one batch by bucket.
///
/// Consecutive messages are mostly alike: a message costs one comparison, and more only when its
/// bucket is another than that of the message before.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// Bytes of a frame besides its payload.
    overhead: usize,
    /// The bucket of the last message. Its frames have `low` to `low + span` bytes.
    bucket: usize,
    low: usize,
    span: usize,
    /// Messages since the bucket last changed.
    count: u32,
    /// Messages before that, by bucket. All zero unless `mixed`.
    earlier: [u32; BUCKETS],
    mixed: bool,
}

impl Sizes {
    pub(crate) fn new(overhead: usize) -> Self {
        let mut sizes = Self { overhead, low: 0, span: 0, bucket: 0, count: 0, earlier: [0; BUCKETS], mixed: false };
        sizes.choose(0);
        sizes
    }

    /// Adds `count` frames of `length` bytes each, with their headers.
    pub(crate) fn add(&mut self, length: usize, count: u32) {
        if length.wrapping_sub(self.low) > self.span {
            self.change(length);
        }
        self.count += count;
    }

    /// Calls `each` with the bucket and number of messages, for each bucket that has some.
    pub(super) fn each(&self, mut each: impl FnMut(usize, u32)) {
        if self.mixed {
            for (bucket, count) in self.earlier.iter().enumerate() {
                if *count > 0 {
                    each(bucket, *count);
                }
            }
        }
        each(self.bucket, self.count);
    }

    #[inline(never)]
    fn change(&mut self, length: usize) {
        if self.count > 0 {
            self.earlier[self.bucket] += std::mem::take(&mut self.count);
            self.mixed = true;
        }
        self.choose(bucket(length.saturating_sub(self.overhead)));
    }

    fn choose(&mut self, bucket: usize) {
        self.bucket = bucket;
        let (low, span) = RANGES[bucket];
        self.low = self.overhead + low;
        self.span = span;
    }
}

/// The first bucket whose bound is not below `payload` bytes.
fn bucket(payload: usize) -> usize {
    // How many times the first bound has to be doubled.
    let doublings = usize::BITS - (payload.saturating_sub(1) / FIRST).leading_zeros();
    (doublings as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sizes: &Sizes) -> [u32; BUCKETS] {
        let mut counts = [0; BUCKETS];
        sizes.each(|bucket, count| counts[bucket] += count);
        counts
    }

    #[test]
    fn bounds_belong_to_their_bucket() {
        let cases = [(0, 0), (1, 0), (1024, 0), (1025, 1), (2048, 1), (2049, 2), (4 << 20, 12), ((4 << 20) + 1, 13)];
        for (payload, expected) in cases {
            assert_eq!(bucket(payload), expected, "{payload}");
            let mut sizes = Sizes::new(20);
            sizes.add(20 + payload, 1);
            let mut counts_expected = [0; BUCKETS];
            counts_expected[expected] = 1;
            assert_eq!(counts(&sizes), counts_expected, "{payload}");
        }
        assert_eq!(bucket(u32::MAX as usize), BUCKETS - 1);
    }

    #[test]
    fn a_mixed_batch_counts_as_its_messages_one_by_one() {
        let mut sizes = Sizes::new(7);
        let mut expected = [0; BUCKETS];
        for n in 0..5000_usize {
            // Stretches of one length, and jumps to and fro.
            let payload = (n / 3 * 7919) % 9000 * (1 + 600 * usize::from(n.is_multiple_of(11)));
            let count = 1 + u32::from(n.is_multiple_of(5));
            sizes.add(7 + payload, count);
            expected[bucket(payload)] += count;
        }
        assert_eq!(counts(&sizes), expected);
        assert!(expected.iter().filter(|count| **count > 0).count() > 5);
    }
}
