//! When the system is out of something that accepting takes, such as file descriptors.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long to wait until the next attempt: twice as long each time.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How often the log says so. A broker at its limit accepts one connection for each that ends, and fails in between.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct AcceptBackoff {
    backoff: Duration,
    logged: Option<Instant>,
}

impl AcceptBackoff {
    /// Something was accepted.
    pub(crate) fn is_over(&mut self) {
        self.backoff = Duration::ZERO;
    }

    /// Whether to log that it lasts.
    pub(crate) fn is_news(&mut self) -> bool {
        let now = Instant::now();
        let news = self.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL);
        if news {
            self.logged = Some(now);
        }
        news
    }

    /// Waits until the next attempt.
    pub(crate) async fn wait(&mut self) {
        self.backoff = (2 * self.backoff).clamp(MIN_BACKOFF, MAX_BACKOFF);
        sleep(self.backoff).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also when something is accepted each time before it fails.
    #[tokio::test(start_paused = true)]
    async fn it_is_logged_once_a_second_at_most() {
        for over in [false, true] {
            let (mut shortage, mut attempts, mut news, start) = (AcceptBackoff::default(), 0, 0, Instant::now());
            while start.elapsed() < Duration::from_secs(100) {
                if over {
                    shortage.is_over();
                }
                attempts += 1;
                news += usize::from(shortage.is_news());
                shortage.wait().await;
            }
            assert!((50..=101).contains(&news), "{news} lines");
            assert!(if over { attempts > 5000 } else { attempts < 110 }, "{attempts} attempts");
        }
    }
}
