//! Properties of the rate limit: no more passes than may, in turn, and without needless waits.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::{limits::rate::Rate, util::property::cases};

const SECOND: Duration = Duration::from_secs(1);

/// Messages, bytes, and how many milliseconds later than the one before.
fn reservation() -> impl Strategy<Value = (u64, u64, u64)> {
    (0..20u64, 0..3000u64, prop_oneof![3 => Just(0u64), 2 => 0..300u64, 1 => 0..20_000u64])
}

fn times(n: u64, rate: u64) -> Duration {
    if rate == u64::MAX { Duration::ZERO } else { Duration::from_nanos(n * 1_000_000_000 / rate) }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn no_more_passes_than_may(
        messages in prop_oneof![1..100u64, Just(u64::MAX)],
        bytes in 1..5000u64,
        reservations in prop::collection::vec(reservation(), 1..40),
    ) {
        let start = Instant::now() + SECOND;
        let limiter = Rate { messages, bytes }.limiter(start).unwrap();
        let mut now = start;
        // When each may pass, and how long the two buckets take to get what it costs.
        let mut passed: Vec<(Instant, [Duration; 2])> = Vec::new();
        for (n, size, later) in reservations {
            now += Duration::from_millis(later);
            let full = limiter.is_full(now);
            let when = limiter.reserve(n, size, now);
            let costs = [times(n, messages), times(size, bytes)];
            prop_assert!(when >= now);
            // Reservations are served in turn.
            prop_assert!(passed.last().is_none_or(|(before, _)| *before <= when));
            if full {
                prop_assert_eq!(when, now, "after a pause even the longest passes at once");
            }
            passed.push((when, costs));
            let (when, _) = passed[passed.len() - 1];
            for bucket in 0..2 {
                // Between any two moments, what may pass in that time, and a second's worth that
                // had been saved up.
                let mut sum = Duration::ZERO;
                for (earlier, costs) in passed[..passed.len() - 1].iter().rev() {
                    sum += costs[bucket];
                    prop_assert!(sum <= when - *earlier + SECOND, "{:?} within {:?}", sum, when - *earlier);
                }
            }
        }
        // No reservation waits longer than those before it take to be paid for.
        let (last, _) = passed[passed.len() - 1];
        let owed: Duration = passed.iter().map(|(_, costs)| costs[0].max(costs[1])).sum();
        prop_assert!(last <= now + owed);
        prop_assert!(limiter.is_full(now + owed + SECOND));
    }
}
