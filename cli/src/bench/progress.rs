//! The progress bar of a run, on a terminal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it moves.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Steps of the bar.
const STEPS: u64 = 1000;

/// Counts something, towards a number, a time, or both. Clones count the same.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    done: Arc<AtomicU64>,
    bar: ProgressBar,
    started: Instant,
    expected: Option<u64>,
    duration: Option<Duration>,
}

impl Progress {
    pub(super) fn new(expected: Option<u64>, duration: Option<Duration>) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
        let bar = match ProgressStyle::with_template("{bar:30} {percent}% {msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { done: Arc::default(), bar, started: Instant::now(), expected, duration }
    }

    pub(super) fn add(&self, more: u64) {
        self.done.fetch_add(more, Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    pub(super) fn show(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let done = self.done();
        let counted = self.expected.map(|all| u128::from(done) * u128::from(STEPS) / u128::from(all.max(1)));
        let elapsed = self.started.elapsed();
        let timed = self.duration.map(|all| elapsed.as_millis() * u128::from(STEPS) / all.as_millis().max(1));
        let position = counted.max(timed).unwrap_or_default();
        self.bar.set_position(u64::try_from(position).unwrap_or(STEPS).min(STEPS));
        let rate = u128::from(done) * 1000 / elapsed.as_millis().max(1);
        let rate = HumanCount(u64::try_from(rate).unwrap_or(u64::MAX));
        self.bar.set_message(format!("{} done, {rate}/s", HumanCount(done)));
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
