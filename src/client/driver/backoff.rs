//! The delay before a session dials again.

use std::time::Duration;

/// How long a session waits before it dials again: exponential, with full jitter, so that a fleet
/// whose broker restarts does not come back all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// No delay is shorter, however the dice fall: a broker that drops us at once is never dialled
    /// in a hot loop.
    pub const FLOOR: Duration = Duration::from_millis(50);

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Delays of at most `initial` after the first failure, twice that after the second, and so on
    /// up to `max`. Both bounds are kept between [`Backoff::FLOOR`] and a day.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        let initial = initial.clamp(Self::FLOOR, Self::DAY);
        Self { initial, max: max.clamp(initial, Self::DAY) }
    }

    /// The delay after so many failures in a row (0: none yet), for a `jitter` from 0 to 1.
    #[must_use]
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let ceiling = self.initial.saturating_mul(2u32.saturating_pow(failures)).min(self.max);
        let spread = ceiling.saturating_sub(Self::FLOOR);
        Self::FLOOR + spread.mul_f64(if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) })
    }
}

impl Default for Backoff {
    /// 0.25 s to 30 s: a restarted broker is found again within a second, and one that is down for
    /// a day sees two attempts a minute from each client.
    fn default() -> Self {
        Self::new(Duration::from_millis(250), Duration::from_secs(30))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let backoff = Backoff::new(MS(100), MS(1000));
        let ceilings: Vec<_> = (0..6).map(|failures| backoff.delay(failures, 1.0)).collect();
        assert_eq!(ceilings, [MS(100), MS(200), MS(400), MS(800), MS(1000), MS(1000)]);
        assert_eq!(backoff.delay(u32::MAX, 1.0), MS(1000));
    }

    #[test]
    fn jitter_covers_the_whole_range_above_the_floor() {
        let backoff = Backoff::new(MS(150), MS(1000));
        assert_eq!(backoff.delay(0, 0.0), Backoff::FLOOR);
        assert_eq!(backoff.delay(0, 0.5), MS(100));
        assert_eq!(backoff.delay(5, 0.0), Backoff::FLOOR);
        assert_eq!(backoff.delay(0, -3.0), Backoff::FLOOR);
        assert_eq!(backoff.delay(0, 7.0), MS(150));
        assert_eq!(backoff.delay(0, f64::NAN), Backoff::FLOOR);
    }

    #[test]
    fn bounds_are_put_in_order() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(backoff.delay(9, 1.0), Backoff::FLOOR);
        assert_eq!(Backoff::new(MS(900), MS(100)).delay(3, 1.0), MS(900));
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).delay(9, 1.0), Backoff::DAY);
    }
}
