//! The accept backoff: how an accept loop waits when the system is out of something that accepting
//! takes, such as file descriptors.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::util::backoff::Backoff;

/// The delays until the next attempt, in milliseconds.
const MIN_DELAY: u32 = 10;
const MAX_DELAY: u32 = 1000;

/// The shortest time between two log lines. A broker at its limit accepts one connection for each
/// that ends, and fails in between.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct AcceptBackoff {
    backoff: Backoff,
    logged: Option<Instant>,
}

impl Default for AcceptBackoff {
    fn default() -> Self {
        Self { backoff: Backoff::new(MIN_DELAY, MAX_DELAY), logged: None }
    }
}

impl AcceptBackoff {
    /// Begins anew: something was accepted.
    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Whether the failure that just happened is to be logged.
    pub(crate) fn should_log(&mut self) -> bool {
        let now = Instant::now();
        let due = self.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL);
        if due {
            self.logged = Some(now);
        }
        due
    }

    /// Waits until the next attempt.
    pub(crate) async fn wait(&mut self) {
        sleep(Duration::from_millis(self.backoff.next().into())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also when something is accepted each time before the next attempt fails.
    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_a_second_at_most() {
        for accepting in [false, true] {
            let (mut backoff, mut attempts, mut lines, start) = (AcceptBackoff::default(), 0, 0, Instant::now());
            while start.elapsed() < Duration::from_secs(100) {
                if accepting {
                    backoff.reset();
                }
                attempts += 1;
                lines += usize::from(backoff.should_log());
                backoff.wait().await;
            }
            assert!((50..=101).contains(&lines), "{lines} lines");
            assert!(if accepting { attempts > 5000 } else { attempts < 110 }, "{attempts} attempts");
        }
    }
}
