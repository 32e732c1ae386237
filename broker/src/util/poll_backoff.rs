//! When to read a file again that could not be read.

/// The longest wait between two attempts, in looks.
const MAX_WAIT: u32 = 64;

/// Files are looked at about once a second, and read when they have changed. What fails then is tried again, each time after
/// twice as many looks: it may have been for want of descriptors, and the file need not change for that to pass.
#[derive(Debug, Default)]
pub(crate) struct PollBackoff {
    /// Looks until the next attempt, and those from that to the one after.
    left: u32,
    wait: u32,
    /// Why it failed the last time.
    cause: String,
}

impl PollBackoff {
    /// To be asked at each look: whether it is time for an attempt. The first is due at once.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        due
    }

    /// The attempt has failed. Returns whether that is news.
    pub(crate) fn failed(&mut self, cause: &str) -> bool {
        self.left = self.wait;
        self.wait = (2 * self.wait).clamp(1, MAX_WAIT);
        let news = self.cause != cause;
        cause.clone_into(&mut self.cause);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_ever_more_seldom_and_said_once() {
        let mut retry = PollBackoff::default();
        let (mut attempts, mut news) = (Vec::new(), 0);
        for look in 0..300 {
            if retry.is_due() {
                attempts.push(look);
                news += usize::from(retry.failed("no descriptors"));
            }
        }
        assert_eq!((&attempts[..8], news), (&[0, 1, 3, 6, 11, 20, 37, 70][..], 1));
        assert_eq!(attempts[9] - attempts[8], 1 + MAX_WAIT as usize);
        assert!(retry.failed("not JSON"));
    }
}
