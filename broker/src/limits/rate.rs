//! The rate limit: how many messages and bytes may pass in a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The burst that may pass at once after a pause: as much as in a second.
const BURST: Duration = Duration::from_secs(1);

/// The portions of a second's worth: the wait for one is short.
const PORTIONS: u64 = 8;

/// Ten years: a time that can be added to any other.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The most that may pass in a second; `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Rate {
    pub(crate) const UNLIMITED: Self = Self { messages: u64::MAX, bytes: u64::MAX };

    /// A limiter of this rate, unless there is no limit.
    pub(crate) fn limiter(self, now: Instant) -> Option<Limiter> {
        (self != Self::UNLIMITED).then(|| Limiter { rate: self, full: Mutex::new([now; 2]) })
    }

    /// The messages and bytes to reserve at once: at least one message, which may have more bytes.
    pub(crate) fn portion(self) -> (u64, u64) {
        let share = |rate: u64| rate.div_ceil(PORTIONS);
        (share(self.messages), share(self.bytes))
    }
}

/// Two token buckets that hold as much as may pass in a second: one for messages and one for bytes.
///
/// Reservations are served in turn, also when that makes debts: a large one is not passed over.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    /// When each bucket will be full, without further reservations.
    full: Mutex<[Instant; 2]>,
}

impl Limiter {
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Reserves messages and bytes. Returns when they may pass: more than a bucket holds waits for
    /// a full bucket.
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
            // Tokens leave the bucket at that time: those that come in until then run over.
            if let Some(time) = time {
                *full = ((*full).max(when) + time).min(now + NEVER);
            }
        }
        when
    }

    /// Whether both buckets are full: a new limiter would be the same.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full.lock().iter().all(|full| *full <= now)
    }
}

/// The time in which so many tokens come in.
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
    fn one_second_of_messages_passes_at_once_and_the_rest_in_turn() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 10, bytes: u64::MAX }.limiter(start).unwrap();
        for _ in 0..10 {
            assert_eq!(limiter.reserve(1, 1 << 40, start), start);
        }
        for n in 1..=20 {
            assert_eq!(limiter.reserve(1, 0, start), start + seconds(f64::from(n) / 10.0));
        }
        // After a pause the burst is as at first, and not larger.
        let later = start + seconds(100.0);
        assert!(limiter.is_full(later) && !limiter.is_full(start + seconds(2.9)));
        assert_eq!(limiter.reserve(10, 0, later), later);
        assert_eq!(limiter.reserve(1, 0, later), later + seconds(0.1));
    }

    #[test]
    fn long_message_waits_for_a_full_bucket_and_then_makes_debts() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: u64::MAX, bytes: 1000 }.limiter(start).unwrap();
        assert_eq!(limiter.reserve(1, 500, start), start);
        assert_eq!(limiter.reserve(1, 5000, start), start + seconds(0.5));
        assert_eq!(limiter.reserve(1, 1, start), start + seconds(4.501));
    }

    #[test]
    fn tighter_bound_counts() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 10, bytes: 1000 }.limiter(start).unwrap();
        assert_eq!(limiter.reserve(10, 0, start), start);
        assert_eq!(limiter.reserve(1, 1000, start), start + seconds(0.1));
        // It was full until those passed.
        assert_eq!(limiter.reserve(1, 500, start), start + seconds(0.6));
    }

    #[test]
    fn bucket_saves_nothing_up_while_the_other_is_waited_for() {
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
    fn limiter_never_overflows() {
        let start = Instant::now() + BURST;
        let limiter = Rate { messages: 1, bytes: 1 }.limiter(start).unwrap();
        for _ in 0..3 {
            assert!(limiter.reserve(u64::MAX - 1, u64::MAX - 1, start) <= start + NEVER);
        }
        assert!(Rate::UNLIMITED.limiter(start).is_none());
        assert_eq!(Rate { messages: 1, bytes: 80 }.portion(), (1, 10));
    }
}
