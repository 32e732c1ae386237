//! Appending, syncing in groups, and reading, where nothing goes wrong.

use std::time::Duration;

use futures::FutureExt as _;
use hpfeeds::{log::StreamEnd, wire::extension::Position};

use super::{
    super::{
        batch::Draft,
        handle::{AppendError, Entry, Found},
        options::JournalOptions,
        state::Health,
    },
    sim_disk::SimDisk,
    support::{Hand, draft, frame, messages, parse, read, small},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_batch_is_cut_at_its_channels_and_anywhere_in_between() {
    let frames: Vec<_> =
        [("a", 1), ("a", 2), ("b", 3), ("a", 4)].map(|(channel, number)| frame(channel, number, 3)).concat();
    let stream = StreamEnd { id: [7; 16], last: 54 };
    let batch = Draft::new(frames.into(), 0, Some(stream)).unwrap().at(Position::new(3, 11));
    let runs: Vec<_> = batch.runs().map(|(run, number, _)| (run.channel.to_string(), run.messages, number)).collect();
    assert_eq!(runs, [("a".to_owned(), 2, 11), ("b".to_owned(), 1, 13), ("a".to_owned(), 1, 14)]);
    let cut = |at: usize, from, most, bytes| {
        let part = batch.part(batch.runs().nth(at).unwrap(), from, most, bytes);
        let numbers: Vec<_> = parse(&part.frames).into_iter().map(|(_, number)| number).collect();
        (part.first.number, part.messages, part.source.unwrap().last, numbers)
    };
    assert_eq!(cut(0, 11, 9, 1000), (11, 2, 51, vec![1, 2]));
    assert_eq!(cut(0, 11, 1, 1000), (11, 1, 51, vec![1]));
    assert_eq!(cut(0, 12, 9, 1000), (12, 1, 52, vec![2]));
    assert_eq!(cut(0, 11, 9, 1), (11, 1, 51, vec![1]), "the first whatever its length");
    assert_eq!(cut(1, 13, 9, 1000), (13, 1, 53, vec![3]));
    assert_eq!(cut(2, 14, 9, 1000), (14, 1, 54, vec![4]));
}

#[test]
fn only_whole_frames_are_a_batch() {
    let whole = frame("a", 1, 0);
    for bytes in [&[][..], &whole[..whole.len() - 1], &[&whole[..], &[0, 0]].concat(), b"\0\0\0\x05\x01"] {
        assert!(Draft::new(bytes.to_vec().into(), 0, None).is_none(), "{bytes:?}");
    }
}

#[test]
fn a_batch_has_its_position_at_once_and_is_read_as_soon_as_its_epoch_is_on_disk() {
    let mut hand = Hand::open(&SimDisk::new(1), small()).unwrap();
    let journal = hand.journal.clone();
    assert_eq!(journal.append(draft(&[("a", 1), ("b", 2)], 0)), Ok(Position::new(1, 2)));
    assert!(read(&journal, Position::NONE).is_empty(), "the epoch may come again");
    let readable = journal.readable();
    hand.turn();
    assert_eq!(*readable.borrow(), Position::new(1, 2));
    assert_eq!(journal.append(draft(&[("a", 3)], 0)), Ok(Position::new(1, 3)));
    assert_eq!(*readable.borrow(), Position::new(1, 3), "without a turn");
    let found = messages(&read(&journal, Position::NONE), Position::NONE);
    assert_eq!(found, [(Position::new(1, 1), 1), (Position::new(1, 2), 2), (Position::new(1, 3), 3)]);
}

#[test]
fn appends_of_which_nobody_waits_are_synced_together_within_a_second() {
    let disk = SimDisk::new(1);
    let mut hand = Hand::open(&disk, small()).unwrap();
    hand.journal.append(draft(&[("a", 0)], 0)).unwrap();
    let due = hand.turn();
    let begun = disk.syncs();
    assert_eq!(due, SECOND);
    for number in 1..10 {
        hand.journal.append(draft(&[("a", number)], 0)).unwrap();
        hand.turn_after(Duration::from_millis(50));
    }
    assert_eq!((disk.syncs(), hand.journal.durable_position().number), (begun, 0));
    assert_eq!(hand.turn_after(Duration::from_millis(540)), Duration::from_millis(10));
    hand.turn_after(Duration::from_millis(10));
    assert_eq!((disk.syncs(), hand.journal.durable_position().number), (begun + 1, 10));
    assert_eq!(hand.turn_after(SECOND), SECOND);
    assert_eq!(disk.syncs(), begun + 1, "nothing is to be synced");
}

#[test]
fn those_who_wait_have_one_sync_for_all() {
    let disk = SimDisk::new(1);
    let mut hand = Hand::open(&disk, small()).unwrap();
    hand.journal.append(draft(&[("a", 0)], 0)).unwrap();
    hand.turn_wanted();
    let begun = disk.syncs();
    let positions: Vec<_> = (1..6).map(|number| hand.journal.append(draft(&[("a", number)], 0)).unwrap()).collect();
    let mut waits: Vec<_> = positions.iter().map(|position| Box::pin(hand.journal.durable(*position))).collect();
    assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()), "nothing is durable");
    // One that has given up costs the others nothing.
    drop(waits.remove(2));
    let journal = hand.journal.clone();
    let turn = hand.engine.turn(hand.now);
    assert_eq!((turn, disk.syncs()), (SECOND, begun + 1));
    assert!(positions.iter().all(|position| journal.durable(*position).now_or_never() == Some(Ok(()))));
}

#[test]
fn a_full_queue_says_so_and_takes_again_after_a_turn() {
    let mut hand = Hand::open(&SimDisk::new(1), small()).unwrap();
    let mut number = 0;
    let error = loop {
        match hand.journal.append(draft(&[("a", number)], 500)) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error, number), (AppendError::QueueFull, 10));
    assert!(!hand.journal.has_room(500) && hand.journal.room(500).now_or_never().is_none());
    let journal = hand.journal.clone();
    let mut room = Box::pin(journal.room(500));
    assert!(room.as_mut().now_or_never().is_none());
    hand.turn();
    assert_eq!(room.now_or_never(), Some(()));
    assert_eq!(hand.journal.append(draft(&[("a", number)], 500)), Ok(Position::new(1, number + 1)));
    // A batch that is longer than the queue has it for itself.
    hand.turn();
    assert!(hand.journal.append(draft(&[("a", 99)], 50_000)).is_ok());
    assert_eq!(hand.journal.append(draft(&[("a", 100)], 0)), Err(AppendError::QueueFull));
}

#[test]
fn older_messages_are_read_from_the_file_and_newer_ones_from_memory() {
    let mut hand = Hand::open(&SimDisk::new(1), small()).unwrap();
    for number in 0..100 {
        hand.journal.append(draft(&[("a", 2 * number), ("b", 2 * number + 1)], 200)).unwrap();
        hand.turn();
    }
    assert!(matches!(hand.journal.after(Position::NONE, 1000), Found::Older));
    assert!(matches!(hand.journal.after(Position::new(1, 190), 1000), Found::Batches(_)));
    let all = read(&hand.journal, Position::NONE);
    let expected: Vec<_> = (0..200).map(|number| (Position::new(1, number + 1), number)).collect();
    assert_eq!(messages(&all, Position::NONE), expected);
    for after in 0..200 {
        let after = Position::new(1, after);
        let found = messages(&read(&hand.journal, after), after);
        assert_eq!(found, expected[usize::try_from(after.number).unwrap()..], "after {after}");
    }
}

#[test]
fn numbers_go_on_in_the_next_epoch_and_both_are_read_one_after_the_other() {
    let disk = SimDisk::new(1);
    let mut hand = Hand::open(&disk, small()).unwrap();
    for number in 0..5 {
        hand.journal.append(draft(&[("a", number)], 0)).unwrap();
    }
    hand.turn();
    assert!(hand.engine.close(hand.now));
    assert_eq!(hand.journal.health(), Health::Closed);
    assert_eq!(hand.journal.append(draft(&[("a", 9)], 0)), Err(AppendError::Closed));
    drop(hand);
    let mut hand = Hand::open(&disk, small()).unwrap();
    // A mailbox that is at the end of the old epoch, or beyond what was durable of it.
    for after in [Position::new(1, 5), Position::new(1, 900)] {
        assert!(read(&hand.journal, after).is_empty());
    }
    hand.journal.append(draft(&[("a", 5)], 0)).unwrap();
    assert!(read(&hand.journal, Position::new(1, 5)).is_empty(), "not before the epoch is on disk");
    hand.turn();
    for after in [Position::new(1, 5), Position::new(1, 900)] {
        assert_eq!(messages(&read(&hand.journal, after), after), [(Position::new(2, 6), 5)]);
    }
    let all = messages(&read(&hand.journal, Position::NONE), Position::NONE);
    assert_eq!(all.iter().map(|(_, text)| *text).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn pages_are_read_on_other_threads_and_end_where_the_ring_begins() {
    let mut hand =
        Hand::open(&SimDisk::new(1), JournalOptions { max_bytes: 4 << 20, segment_bytes: 1 << 20, ..small() }).unwrap();
    for number in 0..200 {
        hand.journal.append(draft(&[("a", number)], 4000)).unwrap();
        hand.turn();
    }
    let (mut at, mut reader, mut numbers) = (Position::NONE, None, Vec::new());
    while let Found::Older = hand.journal.after(at, 1000) {
        let page = hand.journal.page(at, reader).await.unwrap();
        assert!(page.end > at);
        numbers.extend(messages(&page.entries, at).iter().map(|(_, text)| *text));
        assert!(page.entries.iter().all(|entry| matches!(entry, Entry::Batch(_))));
        (at, reader) = (page.end, Some(page.reader));
    }
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(numbers.len() > 150, "{}", numbers.len());
    // Sixteen that read and are dropped at once hold up nobody.
    for _ in 0..40 {
        let _ = hand.journal.page(Position::NONE, None).now_or_never();
    }
    let found = hand.journal.page(Position::NONE, None).await.unwrap();
    assert!(!found.entries.is_empty());
    let all = hand.journal.shared.permits.acquire_many(16).await;
    assert!(all.is_ok(), "all are given back");
}
