//! A disk that is full, that fails, or has failed.

use std::time::Duration;

use futures::FutureExt as _;
use hpfeeds::{log::LogError, wire::extension::Position};

use super::{
    super::{
        batch::Batch,
        handle::{AppendError, Entry, NotDurable},
        keeper::Keeper,
        options::{JournalFull, JournalOptions, Now},
        state::Health,
    },
    sim_disk::SimDisk,
    support::{Hand, draft, messages, parse, read, small},
};

/// Wants everything, and notes what it is told.
#[derive(Debug, Default)]
struct Wanting {
    lost: Vec<u64>,
    dropped: Position,
    stored: Position,
    fails: bool,
}

impl Keeper for Wanting {
    fn wants(&self, _: Position, last: Position) -> bool {
        last > self.dropped
    }

    fn lose(&mut self, batch: &Batch) {
        self.lost.extend(parse(&batch.frames).iter().map(|(_, number)| *number));
    }

    fn dropped(&mut self, last: Position) {
        self.dropped = self.dropped.max(last);
    }

    fn store(&mut self) -> Result<(), LogError> {
        if self.fails {
            return Err(LogError::NoSpace);
        }
        self.stored = self.dropped;
        Ok(())
    }

    fn turn(&mut self, _: Position, _: Now, _: Option<i64>) -> Result<(), LogError> {
        Ok(())
    }
}

/// Appends until the journal is not good any more, or so many are appended.
fn fill<K: Keeper>(hand: &mut Hand<K>, from: u64, most: u64) -> u64 {
    let mut number = from;
    while number < most && hand.journal.health() == Health::Good {
        if hand.journal.append(draft(&[("a", number)], 1000)).is_ok() {
            number += 1;
        }
        hand.turn_wanted();
    }
    number
}

#[test]
fn at_its_limit_the_oldest_segment_goes_after_it_is_counted_and_stored() {
    let disk = SimDisk::new(1);
    let options = JournalOptions { max_bytes: 60_000, ..small() };
    let mut hand = Hand::open_with(&disk, options, Wanting::default()).unwrap();
    assert_eq!(fill(&mut hand, 0, 100), 100);
    let lost = hand.engine.keeper.lost.clone();
    assert_eq!(lost, (0..lost.len() as u64).collect::<Vec<_>>());
    let left = messages(&read(&hand.journal, hand.engine.keeper.stored), hand.engine.keeper.stored);
    let left: Vec<_> = left.iter().map(|(_, text)| *text).collect();
    assert_eq!(left, (lost.len() as u64..100).collect::<Vec<_>>(), "lost and left are everything");
    assert!(lost.len() > 50, "{}", lost.len());
}

#[test]
fn a_segment_stays_when_the_cursors_cannot_be_stored() {
    let options = JournalOptions { max_bytes: 60_000, ..small() };
    let mut hand = Hand::open_with(&SimDisk::new(1), options, Wanting { fails: true, ..Wanting::default() }).unwrap();
    let appended = fill(&mut hand, 0, 1000);
    assert_eq!(hand.journal.health(), Health::Full);
    let found = messages(&read(&hand.journal, Position::NONE), Position::NONE);
    assert_eq!(found.len() as u64, appended, "nothing is gone");
    hand.engine.keeper.fails = false;
    hand.turn_after(Duration::from_secs(1));
    assert_eq!(hand.journal.health(), Health::Good);
}

#[test]
fn a_journal_that_waits_when_it_is_full_drops_nothing_and_goes_on_when_nobody_wants_it() {
    let options = JournalOptions { max_bytes: 60_000, when_full: JournalFull::Wait, ..small() };
    let mut hand = Hand::open_with(&SimDisk::new(1), options, Wanting::default()).unwrap();
    fill(&mut hand, 0, 1000);
    assert_eq!(hand.journal.health(), Health::Full);
    let mut queued = 0;
    while hand.journal.append(draft(&[("a", 0)], 1000)).is_ok() {
        queued += 1;
    }
    assert!(queued > 2, "the queue keeps {queued}");
    let last = hand.journal.last();
    assert_eq!(hand.journal.durable(last).now_or_never(), None);
    hand.turn_after(Duration::from_secs(1));
    assert_eq!((hand.journal.health(), &hand.engine.keeper.lost[..]), (Health::Full, &[][..]));
    hand.engine.keeper.dropped = last;
    hand.turn_wanted();
    assert_eq!(hand.journal.durable(last).now_or_never(), Some(Ok(())));
    assert_eq!(hand.journal.health(), Health::Good);
}

#[test]
fn a_full_file_system_costs_the_oldest_or_waits_for_room() {
    for when_full in [JournalFull::DropOldest, JournalFull::Wait] {
        let disk = SimDisk::new(1);
        let options = JournalOptions { when_full, ..small() };
        let mut hand = Hand::open_with(&disk, options, Wanting::default()).unwrap();
        disk.faults(|faults| faults.capacity = Some(80_000));
        let appended = fill(&mut hand, 0, 200);
        let is_waiting = when_full == JournalFull::Wait;
        let expected = if is_waiting { Health::NoSpace } else { Health::Good };
        assert_eq!((hand.journal.health(), is_waiting), (expected, appended < 200));
        assert_eq!(hand.engine.keeper.lost.is_empty(), is_waiting);
        let last = hand.journal.last();
        disk.faults(|faults| faults.capacity = None);
        hand.turn_after(Duration::from_secs(1));
        hand.turn_wanted();
        assert_eq!(hand.journal.durable(last).now_or_never(), Some(Ok(())));
        let found = messages(&read(&hand.journal, hand.engine.keeper.dropped), hand.engine.keeper.dropped);
        assert_eq!(found.len() + hand.engine.keeper.lost.len(), usize::try_from(appended).unwrap());
    }
}

#[test]
fn one_failed_sync_costs_nothing_and_two_end_the_journal() {
    for failures in [1, 2] {
        let disk = SimDisk::new(1);
        let mut hand = Hand::open(&disk, small()).unwrap();
        fill(&mut hand, 0, 3);
        let next = disk.syncs() + 1;
        disk.faults(|faults| faults.fail_syncs = (next..next + failures).collect());
        let position = hand.journal.append(draft(&[("a", 3)], 0)).unwrap();
        let journal = hand.journal.clone();
        let mut wait = Box::pin(journal.durable(position));
        assert_eq!(wait.as_mut().now_or_never(), None);
        hand.turn();
        if failures == 1 {
            assert_eq!(wait.now_or_never(), Some(Ok(())));
            assert_eq!(hand.journal.health(), Health::Good);
        } else {
            assert_eq!(wait.now_or_never(), Some(Err(NotDurable)));
            assert_eq!(hand.journal.health(), Health::Failed);
            assert_eq!(hand.journal.append(draft(&[("a", 9)], 0)), Err(AppendError::Failed));
            assert_eq!(hand.journal.durable(Position::new(1, 3)).now_or_never(), Some(Ok(())), "what is, stays");
        }
        let found = messages(&read(&hand.journal, Position::NONE), Position::NONE);
        assert_eq!(found.iter().map(|(_, text)| *text).collect::<Vec<_>>(), [0, 1, 2, 3], "memory has them still");
    }
}

#[test]
fn old_segments_go_by_a_clock_that_is_trusted() {
    let disk = SimDisk::new(1);
    let options = JournalOptions { max_age: Some(Duration::from_secs(3600)), ..small() };
    let mut hand = Hand::open_with(&disk, options, Wanting::default()).unwrap();
    fill(&mut hand, 0, 40);
    for _ in 0..59 {
        hand.turn_after(Duration::from_secs(60));
    }
    assert!(hand.engine.keeper.lost.is_empty());
    for _ in 0..10 {
        hand.turn_after(Duration::from_secs(60));
    }
    // The one that is appended to stays.
    assert!((20..40).contains(&hand.engine.keeper.lost.len()), "{:?}", hand.engine.keeper.lost);
}

#[test]
fn a_damaged_record_is_told_with_its_numbers_and_the_others_are_read() {
    let disk = SimDisk::new(1);
    let mut hand = Hand::open(&disk, small()).unwrap();
    fill(&mut hand, 0, 30);
    assert!(hand.engine.close(hand.now));
    drop(hand);
    let mut files = disk.files();
    let (_, first) = files.iter_mut().find(|(name, _)| name.ends_with("00000001.seg")).unwrap();
    // In the second record.
    first[8192 + 1100] ^= 1;
    let disk = SimDisk::with(1, files);
    let hand = Hand::open(&disk, small()).unwrap();
    let entries = read(&hand.journal, Position::NONE);
    let found: Vec<_> = messages(&entries, Position::NONE).iter().map(|(_, text)| *text).collect();
    assert_eq!(found, [0].into_iter().chain(2..30).collect::<Vec<_>>());
    let lost: Vec<_> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Lost(lost) => Some((lost.after.number, lost.last, lost.dropped)),
            Entry::Batch(_) => None,
        })
        .collect();
    assert_eq!(lost, [(1, 2, false)]);
}
