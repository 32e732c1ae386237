//! The sweep of heartbeats: once a second, for all connections that speak the extension.
//!
//! A sweep compares what a connection has written and read with what it had at the sweep before.
//! Where nothing was written for as long as the client wants to wait, it gets a HEARTBEAT; where
//! nothing was read for longer than `--client-timeout`, though the broker would have read it, the
//! client counts as gone. Both are counted in sweeps, however late they come: a machine that was
//! asleep finds nobody gone.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{MissedTickBehavior, interval},
};

use crate::link::Link;

/// The time between two sweeps.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// How many connections are looked at before other tasks run.
const PORTION: usize = 512;

/// The connections that a sweep looks at.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    links: Mutex<Vec<Weak<Link>>>,
    /// There is a connection to look at.
    added: Notify,
}

impl Pulse {
    /// Adds a connection, until it ends.
    pub(crate) fn add(&self, link: &Arc<Link>) {
        self.links.lock().push(Arc::downgrade(link));
        self.added.notify_one();
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.links.lock().iter().filter(|link| link.strong_count() > 0).count()
    }

    /// Tells each connection that what it publishes cannot be stored any more.
    pub(crate) fn fail(&self) {
        self.links.lock().iter().filter_map(Weak::upgrade).for_each(|link| link.fail());
    }

    /// Tells each connection that the path which HELLO has told is not true any more.
    #[cfg(feature = "cli")]
    pub(crate) fn move_away(&self) {
        self.links.lock().iter().filter_map(Weak::upgrade).for_each(|link| link.move_away());
    }

    /// Sweeps once a second, for as long as there are connections.
    pub(crate) async fn run(&self) {
        loop {
            self.added.notified().await;
            let mut ticks = interval(SWEEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            while !self.links.lock().is_empty() {
                ticks.tick().await;
                self.sweep().await;
            }
        }
    }

    async fn sweep(&self) {
        let mut at = 0;
        while let Some(next) = self.sweep_portion(at) {
            at = next;
            yield_now().await;
        }
    }

    /// Sweeps a portion from an index on, and returns where the next one begins; `None` at the end.
    fn sweep_portion(&self, mut at: usize) -> Option<usize> {
        let mut links = self.links.lock();
        for _ in 0..PORTION {
            let Some(link) = links.get(at) else {
                if links.len() < links.capacity() / 8 {
                    links.shrink_to_fit();
                }
                return None;
            };
            match link.upgrade() {
                Some(link) => {
                    link.sweep();
                    at += 1;
                }
                // The last one takes its place, and is looked at next.
                None => _ = links.swap_remove(at),
            }
        }
        Some(at)
    }
}
