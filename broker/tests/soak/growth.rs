//! Growth: memory, descriptors and tasks of the silent process, from round to round.
//!
//! The rounds are all alike, so after the first quarter, the warm-up, nothing has a reason to grow:
//!
//! - the fewest **descriptors** and **tasks** of the last quarter are no more than the fewest of the second (a file may be
//!   being read at any one moment, but not at all of them);
//! - there are never more **threads** than [`THREADS`]: those that do what blocks end after ten seconds without work, which
//!   they hardly ever are, so there come to be as many as have ever been busy at once;
//! - no **series** is new in the second half;
//! - the median of the **resident memory** in the last quarter is at most [`SLACK`] above that in the second. It can fail
//!   without a leak when the allocator uses its pages ever less well; and a leak below this is not seen: the report says how
//!   many bytes for each connection and message that is.
//!
//! The last two take [`JUDGED`] rounds.

use std::{collections::BTreeSet, fmt};

use crate::ledger::Counted;

const SLACK: u64 = 1 << 20;

const JUDGED: usize = 16;

/// The broker's own, the log's and the one that watches the keys; and for what blocks: two answers to scrapes, a look at the
/// certificates, a reload. The runtime takes another one while one that is done has not got round to waiting: twice as many.
const THREADS: u64 = 3 + 2 * 4;

#[derive(Default)]
pub(crate) struct Growth {
    rounds: Vec<Sample>,
}

struct Sample {
    counted: Counted,
    threads: u64,
}

impl Growth {
    pub(crate) fn note(&mut self, counted: &Counted, threads: u64) {
        self.rounds.push(Sample { counted: counted.clone(), threads });
    }

    /// The second quarter of the rounds, and the last.
    fn quarters(&self) -> (&[Sample], &[Sample]) {
        let count = self.rounds.len();
        let quarter = (count / 4).max(1);
        (&self.rounds[quarter..2 * quarter], &self.rounds[count - quarter..])
    }

    /// There are three rounds or more.
    pub(crate) fn check(&self) {
        let (early, late) = self.quarters();
        for (name, value) in [("descriptors", fds as fn(&Sample) -> u64), ("tasks", tasks)] {
            let fewest = |rounds: &[Sample]| rounds.iter().map(value).min();
            assert!(fewest(late) <= fewest(early), "{name}: {:?} have become {:?}", fewest(early), fewest(late));
        }
        let most = self.rounds.iter().map(|sample| sample.threads).max();
        assert!(most <= Some(THREADS), "{most:?} threads");
        if self.rounds.len() < JUDGED {
            return;
        }
        let (first, second) = self.rounds.split_at(self.rounds.len() / 2);
        let names = |rounds: &[Sample]| -> BTreeSet<String> {
            rounds.iter().flat_map(|sample| sample.counted.series.iter().cloned()).collect()
        };
        let (known, later) = (names(first), names(second));
        let new: Vec<_> = later.difference(&known).collect();
        assert!(new.is_empty(), "new series: {new:?}");
        let (before, after) = (median(early), median(late));
        assert!(after <= before + SLACK, "resident memory has grown from {before} to {after} bytes");
    }

    pub(crate) fn report(&self) -> String {
        let (early, late) = self.quarters();
        let (first, last) = (&early.last().unwrap().counted, late.last().unwrap());
        let Sample { counted: last, threads } = last;
        let connections = (last.accepted - first.accepted).max(1);
        let messages = (last.received - first.received).max(1);
        let judged = if self.rounds.len() < JUDGED { ", too short to judge" } else { "" };
        format!(
            "resident memory {} kB after the warm-up, {} kB at the end{judged} (a leak of {} bytes for each connection or {} for each \
             message would show); {} descriptors, {} tasks, {threads} threads, {} series",
            median(early) / 1024,
            median(late) / 1024,
            SLACK / connections,
            SLACK / messages,
            last.descriptors,
            last.tasks,
            last.series.len(),
        )
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.rounds.last() else { return Ok(()) };
        let Sample { counted: Counted { memory, descriptors, tasks, series, .. }, threads } = last;
        let (memory, series) = (memory / 1024, series.len());
        write!(f, "{memory} kB, {descriptors} descriptors, {tasks} tasks, {threads} threads, {series} series")
    }
}

fn fds(sample: &Sample) -> u64 {
    sample.counted.descriptors
}

fn tasks(sample: &Sample) -> u64 {
    sample.counted.tasks
}

fn median(rounds: &[Sample]) -> u64 {
    let mut all: Vec<_> = rounds.iter().map(|sample| sample.counted.memory).collect();
    all.sort_unstable();
    all[all.len() / 2]
}
