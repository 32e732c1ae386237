//! Appending, reading, consuming and opening again, where nothing goes wrong.

use hpfeeds::log::{Append, Disk as _, Extent, Item, Log, LogError, LogOptions, Lost, WhenFull, verify};
use hpfeeds::wire::extension::Position;

use crate::{
    sim_disk::SimDisk,
    support::{append, body, open, read, records, shape, small},
};

fn filled(disk: &SimDisk, records: u32) -> Log {
    let (mut log, _) = open(disk, &small()).unwrap();
    for _ in 0..records {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    log
}

#[test]
fn records_are_read_as_they_were_appended() {
    let disk = SimDisk::new(1);
    let log = filled(&disk, 30);
    let found = records(&read(&log, Position::NONE, Extent::Durable));
    assert_eq!(found.len(), 30);
    for (at, record) in (0..).zip(&found) {
        let first = Position::new(1, at * 2 + 1);
        assert_eq!((record.first, record.messages, record.skip, record.kind), (first, 2, 0, 0));
        assert_eq!(record.unix_ms, i64::try_from(first.number).unwrap() * 1000);
        assert_eq!(record.stream.map(|stream| stream.last), first.number.is_multiple_of(3).then_some(first.number));
        assert_eq!(&record.body[..], body(first, 1000));
    }
    assert!(disk.files().len() > 3, "one segment holds less: {:?}", disk.files().keys());
    assert_eq!((log.durable(), log.last()), (Position::new(1, 60), Position::new(1, 60)));
}

#[test]
fn a_reader_begins_in_the_middle_of_a_record_and_goes_on_with_what_is_appended() {
    let disk = SimDisk::new(1);
    let mut log = filled(&disk, 20);
    let mut reader = log.reader(Position::new(1, 13), Extent::Durable);
    let found = records(&reader.read().unwrap());
    assert_eq!((found[0].first.number, found[0].skip, found[1].first.number, found[1].skip), (13, 1, 15, 0));
    assert_eq!(found.len(), 14);
    assert_eq!(reader.read().unwrap(), []);
    append(&mut log, 2, 10).unwrap();
    log.write().unwrap();
    assert_eq!(reader.read().unwrap(), [], "it is not durable");
    let mut bold = log.reader(Position::new(1, 40), Extent::Written);
    assert_eq!(shape(&bold.read().unwrap()), [Ok(41)]);
    log.sync().unwrap();
    assert_eq!(shape(&reader.read().unwrap()), [Ok(41)]);
    assert_eq!(reader.position(), Position::new(1, 42));
}

#[test]
fn records_longer_than_a_window_and_than_a_segment_are_read() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small().max_bytes(4 << 20)).unwrap();
    for length in [0, 300_000, 1, 700_000, 9_000] {
        append(&mut log, 1, length).unwrap();
    }
    log.sync().unwrap();
    let found = records(&read(&log, Position::NONE, Extent::Durable));
    assert_eq!(found.iter().map(|record| record.body.len()).collect::<Vec<_>>(), [0, 300_000, 1, 700_000, 9_000]);
    assert!((1..).zip(&found).all(|(at, record)| record.body == body(Position::new(1, at), record.body.len())));
}

#[test]
fn each_opening_that_appends_begins_a_new_epoch_and_numbers_go_on() {
    let disk = SimDisk::new(1);
    let before = disk.files();
    drop(open(&disk, &small()).unwrap());
    assert_eq!(disk.files(), before, "an opening alone writes nothing");
    for epoch in 1..5 {
        let (mut log, _) = open(&disk, &small()).unwrap();
        assert_eq!(log.epoch(), epoch);
        assert_eq!(append(&mut log, 3, 100).unwrap(), Position::new(epoch, 3 * epoch));
        log.sync().unwrap();
        drop(log);
        // Without a record there is no epoch.
        drop(open(&disk, &small()).unwrap());
    }
    let (log, report) = open(&disk, &small()).unwrap();
    assert_eq!((report.segments, report.scanned), (4, 0), "what was not sealed is, by the opening after");
    let found = records(&read(&log, Position::NONE, Extent::Durable));
    assert_eq!(
        found.iter().map(|record| record.first).collect::<Vec<_>>(),
        [Position::new(1, 1), Position::new(2, 4), Position::new(3, 7), Position::new(4, 10)]
    );
}

#[test]
fn what_is_consumed_is_removed_after_the_cursor_is_durable_and_a_drained_log_is_empty() {
    let disk = SimDisk::new(1);
    let mut log = filled(&disk, 30);
    log.consume(Position::new(1, 31)).unwrap();
    assert_eq!((log.cursor(), log.lost()), (Position::new(1, 31), 0));
    assert!(log.oldest().number <= 31 && log.oldest().number > 20, "{}", log.oldest());
    drop(log);
    let (mut log, report) = open(&disk, &small()).unwrap();
    assert!(!report.cursor_lost && log.cursor().number > 15 && log.cursor().number <= 31, "{}", log.cursor());
    let found = records(&read(&log, log.cursor(), Extent::Durable));
    assert_eq!(found.last().unwrap().last().number, 60);
    log.consume(found.last().unwrap().last()).unwrap();
    log.trim().unwrap();
    assert_eq!(disk.files().into_keys().collect::<Vec<_>>(), ["cursor"]);
    assert_eq!(append(&mut log, 1, 1).unwrap(), Position::new(2, 61));
    log.sync().unwrap();
    log.consume(log.last()).unwrap();
    log.trim().unwrap();
    assert_eq!(disk.files().into_keys().collect::<Vec<_>>(), ["cursor"]);
    drop(log);
    let (log, _) = open(&disk, &small()).unwrap();
    assert_eq!((log.epoch(), log.last().number, log.cursor()), (3, 61, Position::new(2, 61)));
}

#[test]
fn at_the_limit_the_oldest_go_and_are_counted() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small().max_bytes(60_000)).unwrap();
    for _ in 0..100 {
        append(&mut log, 2, 1000).unwrap();
        assert!(log.size() <= 60_000, "{}", log.size());
    }
    log.sync().unwrap();
    let items = read(&log, Position::new(1, 10), Extent::Durable);
    let oldest = log.oldest();
    assert_eq!(items[0], Item::Lost(Lost { after: Position::new(1, 10), last: oldest.number, dropped: true }));
    assert_eq!(records(&items).last().unwrap().last().number, 200);
    assert_eq!((log.lost(), log.cursor()), (oldest.number, oldest), "nothing was consumed");
    drop(log);
    let (log, _) = open(&disk, &small()).unwrap();
    assert_eq!((log.lost(), log.cursor()), (oldest.number, oldest));
}

#[test]
fn a_log_that_refuses_is_full_until_something_is_consumed() {
    let disk = SimDisk::new(1);
    let options = small().max_bytes(60_000).when_full(WhenFull::Refuse);
    let (mut log, _) = open(&disk, &options).unwrap();
    let error = loop {
        if let Err(error) = append(&mut log, 2, 1000) {
            break error;
        }
    };
    assert!(matches!(error, LogError::Full { limit: 60_000 }), "{error}");
    let last = log.sync().unwrap();
    assert_eq!(records(&read(&log, Position::NONE, Extent::Durable)).len() as u64 * 2, last.number);
    log.consume(Position::new(1, 20)).unwrap();
    append(&mut log, 2, 1000).unwrap();
    log.consume(log.last()).unwrap();
    assert!(matches!(append(&mut log, 1, 60_000), Err(LogError::Full { .. })), "it will never fit");
    assert_eq!(log.lost(), 0);
}

#[test]
fn a_journal_keeps_what_is_consumed_and_drops_by_age() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small().keep_consumed(true)).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    log.consume(Position::new(1, 40)).unwrap();
    assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable))[0], Ok(1));
    // The times are the first numbers, in seconds.
    log.drop_before(31_000).unwrap();
    let oldest = log.oldest().number;
    assert!(oldest < 31 && oldest > 15, "{oldest}");
    assert_eq!((log.lost(), log.cursor().number), (0, 40));
    log.drop_before(i64::MAX).unwrap();
    let left = log.oldest().number;
    assert_eq!(log.lost(), left - 40, "what is appended to stays");
}

#[test]
fn appends_that_do_not_wait_are_bounded_in_memory() {
    let disk = SimDisk::new(1);
    let options = LogOptions::default().max_unsynced(50_000);
    let (mut log, _) = open(&disk, &options).unwrap();
    let before = disk.syncs();
    for _ in 0..100 {
        append(&mut log, 1, 2000).unwrap();
    }
    assert_eq!(disk.syncs() - before, 4 + 1, "one for the epoch, one for each 50,000 bytes");
    assert!(log.durable().number >= 75, "{}", log.durable());
}

#[test]
fn unfit_records_are_refused() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    let record = Append { kind: 0, unix_ms: 0, messages: 0, stream: None, channels: &[], body: b"" };
    assert!(matches!(log.append(&record), Err(LogError::Unfit)));
    assert_eq!(log.append(&Append { messages: u32::MAX, ..record }).unwrap().number, u64::from(u32::MAX));
}

#[test]
fn a_log_is_used_once() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk, &small()).unwrap();
    let error = open(&disk, &small()).unwrap_err();
    assert_eq!(error.to_string(), "the simulated disk is used by process 1");
    drop(log);
    open(&disk, &small()).unwrap();
}

#[test]
fn what_a_killed_process_has_written_is_read_and_made_durable() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..20 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.write().unwrap();
    let killed = disk.kill();
    let (log, report) = open(&killed, &small()).unwrap();
    assert_eq!((report.scanned, report.bad.len()), (1, 0));
    assert_eq!(records(&read(&log, Position::NONE, Extent::Durable)).len(), 20);
    drop(log);
    for seed in 0..50 {
        let (log, _) = open(&killed.crash(seed), &small()).unwrap();
        assert_eq!(records(&read(&log, Position::NONE, Extent::Durable)).len(), 20, "seed {seed}");
    }
}

#[test]
fn a_check_counts_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let mut log = filled(&disk, 30);
    log.consume(Position::new(1, 1)).unwrap();
    log.store_cursor().unwrap();
    drop(log);
    let (files, operations) = (disk.files(), disk.operations());
    let found = verify(&disk).unwrap();
    assert_eq!((found.records, found.messages, found.lost, found.unsealed), (30, 60, 0, 1));
    assert_eq!(found.range, Some((Position::new(1, 1), Position::new(1, 60))));
    assert_eq!((found.cursor, found.damage.len()), (Some(Position::new(1, 1)), 0));
    assert_eq!(found.segments, disk.list().unwrap().len() as u64 - 1);
    assert_eq!((disk.files(), disk.operations()), (files, operations));
}

#[test]
fn a_program_counts_the_oldest_segment_before_it_drops_it() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk, &small().max_bytes(60_000).when_full(WhenFull::Refuse).keep_consumed(true)).unwrap();
    assert_eq!(log.front(), None);
    assert!(!log.drop_front().unwrap(), "there is nothing to drop");
    let mut appended = 0;
    let full = loop {
        match append(&mut log, 2, 3000) {
            Ok(last) => appended = last.number,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::Full { .. }), "{full}");
    let front = log.front().unwrap();
    assert_eq!((front.after, front.last), (Position::new(1, 0), Position::new(1, 2)));
    assert_eq!((front.newest_ms, front.bytes > 3000), (1000, true));
    let source = log.readers();
    let other = std::thread::spawn(move || {
        let mut reader = source.reader(front.after, Extent::Written);
        records(&reader.read().unwrap()).first().map(|record| (record.first, record.last()))
    });
    assert_eq!(other.join().unwrap(), Some((Position::new(1, 1), Position::new(1, 2))));
    assert!(log.drop_front().unwrap());
    assert_eq!(log.front().unwrap().after, front.last);
    append(&mut log, 2, 3000).unwrap();
    assert_eq!(shape(&read(&log, front.after, Extent::Written))[0], Err((0, 2)), "{appended}");
}
