//! How much may pass in a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may pass at once after a pause, as a share of what may pass in a second: the whole of it.
const BURST: Duration = Duration::from_secs(1);

/// A second's worth passes in so many portions: who waits for one does not wait long.
const PORTIONS: u64 = 8;

/// Ten years: that can be added to any time.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The most that may pass in a second; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Rate {
    pub(crate) const UNLIMITED: Self = Self { messages: u64::MAX, bytes: u64::MAX };

    /// What keeps to it, if there is something to keep to.
    pub(crate) fn limiter(self, now: Instant) -> Option<Limiter> {
        (self != Self::UNLIMITED).then(|| Limiter { rate: self, full: Mutex::new([now; 2]) })
    }

    /// How many messages and bytes to reserve at once; one message at least, which may be longer than that.
    pub(crate) fn portion(self) -> (u64, u64) {
        let share = |rate: u64| rate.div_ceil(PORTIONS);
        (share(self.messages), share(self.bytes))
    }
}

/// Two buckets of tokens that hold as much as may pass in a second: one for messages and one for bytes.
///
/// Whoever reserves is served in turn, also when that makes debts: so nobody is passed over who needs more than others.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    /// When each bucket will be full, if nobody takes anything.
    full: Mutex<[Instant; 2]>,
}

impl Limiter {
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Reserves what is going to pass. Returns when it may: more than a bucket holds waits for a full one.
    pub(crate) fn reserve(&self, messages: u64, bytes: u64, now: Instant) -> Instant {
        let mut full = self.full.lock();
        let times = [(messages, self.rate.messages), (bytes, self.rate.bytes)].map(|(n, rate)| match rate {
            u64::MAX => None,
            rate => Some(time(n, rate)),
        });
        let mut when = now;
        for (full, time) in full.iter().zip(times) {
            if let Some(time) = time {
                when = when.max((*full).max(now) + time.min(BURST) - BURST);
            }
        }
        for (full, time) in full.iter_mut().zip(times) {
            // It leaves the bucket when it passes: what comes in while the other bucket is waited for runs over.
            if let Some(time) = time {
                *full = ((*full).max(when) + time).min(now + NEVER);
            }
        }
        when
    }

    /// Whether it has been left alone for so long that it might as well be forgotten.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full.lock().iter().all(|full| *full <= now)
    }
}

/// How long it takes until so many tokens have come in.
fn time(n: u64, rate: u64) -> Duration {
    let nanos = u128::from(n) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(NEVER)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    #[test]
    fn a_second_passes_at_once_and_then_one_after_the_other() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 10, bytes: u64::MAX }.limiter(start).unwrap();
        for _ in 0..10 {
            assert_eq!(limiter.reserve(1, 1 << 40, start), start);
        }
        for n in 1..=20 {
            assert_eq!(limiter.reserve(1, 0, start), start + seconds(f64::from(n) / 10.0));
        }
        // After a pause it is as at first, and not more.
        let later = start + seconds(100.0);
        assert!(limiter.is_full(later) && !limiter.is_full(start + seconds(2.9)));
        assert_eq!(limiter.reserve(10, 0, later), later);
        assert_eq!(limiter.reserve(1, 0, later), later + seconds(0.1));
    }

    #[test]
    fn a_long_message_waits_for_a_full_bucket_and_then_makes_debts() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: u64::MAX, bytes: 1000 }.limiter(start).unwrap();
        assert_eq!(limiter.reserve(1, 500, start), start);
        assert_eq!(limiter.reserve(1, 5000, start), start + seconds(0.5));
        assert_eq!(limiter.reserve(1, 1, start), start + seconds(4.501));
    }

    #[test]
    fn the_tighter_bound_counts() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 10, bytes: 1000 }.limiter(start).unwrap();
        assert_eq!(limiter.reserve(10, 0, start), start);
        assert_eq!(limiter.reserve(1, 1000, start), start + seconds(0.1));
        // It was full until those passed.
        assert_eq!(limiter.reserve(1, 500, start), start + seconds(0.6));
    }

    #[test]
    fn a_bucket_saves_nothing_up_while_the_other_is_waited_for() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 10, bytes: 1000 }.limiter(start).unwrap();
        assert_eq!(limiter.reserve(1, 61_000, start), start);
        // In debt for a minute: ten messages pass then, and not those of the minute.
        let later = start + seconds(60.0);
        for _ in 0..10 {
            assert_eq!(limiter.reserve(1, 0, start), later);
        }
        assert_eq!(limiter.reserve(1, 0, start), later + seconds(0.1));
    }

    #[test]
    fn nothing_overflows() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 1, bytes: 1 }.limiter(start).unwrap();
        for _ in 0..3 {
            assert!(limiter.reserve(u64::MAX - 1, u64::MAX - 1, start) <= start + NEVER);
        }
        assert!(Rate::UNLIMITED.limiter(start).is_none());
        assert_eq!(Rate { messages: 1, bytes: 80 }.portion(), (1, 10));
    }
}
