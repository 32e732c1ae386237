//! The exponential backoff under [`AcceptBackoff`](super::accept_backoff::AcceptBackoff) and
//! [`PollBackoff`](super::poll_backoff::PollBackoff).

/// A delay that doubles with each failure, from `min` to `max` of any unit.
///
/// Not the client's [`hpfeeds::Backoff`], which is for a fleet that dials one broker: its delays
/// are drawn at random and last at least 50 ms.
#[derive(Debug)]
pub(super) struct Backoff {
    min: u32,
    max: u32,
    /// The delay that was given last, or 0.
    last: u32,
}

impl Backoff {
    pub(super) const fn new(min: u32, max: u32) -> Self {
        Self { min, max, last: 0 }
    }

    /// The delay after one more failure.
    pub(super) fn next(&mut self) -> u32 {
        self.last = self.last.saturating_mul(2).clamp(self.min, self.max);
        self.last
    }

    /// Has the next delay be `min` again.
    pub(super) fn reset(&mut self) {
        self.last = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_maximum_and_begins_anew_after_a_reset() {
        let mut backoff = Backoff::new(10, 50);
        assert_eq!([(); 5].map(|()| backoff.next()), [10, 20, 40, 50, 50]);
        backoff.reset();
        assert_eq!(backoff.next(), 10);
        let mut backoff = Backoff::new(1, u32::MAX);
        assert_eq!((0..40).map(|_| backoff.next()).last(), Some(u32::MAX));
    }
}
