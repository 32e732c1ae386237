//! The poll backoff: when to read a file again that could not be read.

use crate::util::backoff::Backoff;

/// The longest wait between two attempts, in looks.
const MAX_WAIT: u32 = 64;

/// Files are looked at about once a second, and read when they have changed. A failed read is tried
/// again, each time after twice as many looks: it may have failed for want of descriptors, and the
/// file need not change for that to pass.
#[derive(Debug)]
pub(crate) struct PollBackoff {
    /// Looks until the next attempt, and from that to the one after.
    left: u32,
    wait: u32,
    backoff: Backoff,
    /// The cause of the last failure.
    cause: String,
}

impl Default for PollBackoff {
    fn default() -> Self {
        Self { left: 0, wait: 0, backoff: Backoff::new(1, MAX_WAIT), cause: String::new() }
    }
}

impl PollBackoff {
    /// Whether it is time for an attempt; to be asked at each look. The first is due at once.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        due
    }

    /// Puts the next attempt off. Returns whether the attempt before failed for another cause.
    pub(crate) fn failed(&mut self, cause: &str) -> bool {
        self.left = std::mem::replace(&mut self.wait, self.backoff.next());
        let news = self.cause != cause;
        cause.clone_into(&mut self.cause);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_ever_rarer_and_a_cause_is_news_once() {
        let mut backoff = PollBackoff::default();
        let (mut attempts, mut news) = (Vec::new(), 0);
        for look in 0..300 {
            if backoff.is_due() {
                attempts.push(look);
                news += usize::from(backoff.failed("no descriptors"));
            }
        }
        assert_eq!((&attempts[..8], news), (&[0, 1, 3, 6, 11, 20, 37, 70][..], 1));
        assert_eq!(attempts[9] - attempts[8], 1 + MAX_WAIT as usize);
        assert!(backoff.failed("not JSON"));
    }
}
