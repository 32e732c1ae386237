//! The pace of publishers while the journal's queue is full: each incident holds them up for at most
//! 30 s, and then their messages are live only, counted.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest that publishers wait for the disk in one incident.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The incident of a full queue, if there is one, and what was not stored.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    is_behind: AtomicBool,
    since: Mutex<Option<Instant>>,
    /// Messages that a mailbox or their publisher wants stored, whatever becomes of them.
    pub(crate) wanted: AtomicU64,
    /// Messages that a mailbox wants and that are not stored, as the disk did not follow.
    pub(crate) behind: AtomicU64,
    /// The same, as the journal has failed.
    pub(crate) failed: AtomicU64,
}

impl Pace {
    /// The queue is full: until when publishers wait, which is past once the incident has taken too
    /// long.
    pub(crate) fn fall_behind(&self, now: Instant) -> Instant {
        self.is_behind.store(true, Relaxed);
        *self.since.lock().get_or_insert(now) + PATIENCE
    }

    /// Something was appended: the incident is over.
    pub(crate) fn move_on(&self) {
        if self.is_behind.load(Relaxed) {
            *self.since.lock() = None;
            self.is_behind.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_incident_holds_all_publishers_up_for_thirty_seconds_together() {
        let (pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.fall_behind(start), start + PATIENCE);
        let later = start + Duration::from_secs(20);
        assert_eq!(pace.fall_behind(later), start + PATIENCE, "it is the same one");
        pace.move_on();
        assert_eq!(pace.fall_behind(later), later + PATIENCE);
    }
}
