//! Disks that fail, fill up and cannot be read.

use std::collections::BTreeMap;

use hpfeeds::log::{Extent, LogError, WhenFull};
use hpfeeds::wire::extension::Position;

use crate::{
    sim_disk::SimDisk,
    support::{append, open, read, records, shape, small},
};

#[test]
fn a_failed_sync_is_never_tried_again_on_its_file() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    append(&mut log, 2, 100).unwrap();
    log.sync().unwrap();
    append(&mut log, 2, 100).unwrap();
    append(&mut log, 1, 100).unwrap();
    let mut bold = log.reader(Position::NONE, Extent::Written);
    log.write().unwrap();
    assert_eq!(shape(&bold.read().unwrap()), [Ok(1), Ok(3), Ok(5)]);
    let next = disk.syncs() + 1;
    disk.faults(|faults| faults.fail_syncs.push(next));
    assert_eq!(log.sync().unwrap(), Position::new(1, 5));
    assert_eq!(disk.files().len(), 2, "a new segment has what was not durable");
    append(&mut log, 1, 100).unwrap();
    log.sync().unwrap();
    assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1), Ok(3), Ok(5), Ok(6)]);
    assert_eq!(shape(&bold.read().unwrap()), [Ok(6)], "what was read is not read again");
    for seed in 0..200 {
        let (log, _) = open(&disk.crash(seed), &small()).unwrap();
        assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1), Ok(3), Ok(5), Ok(6)], "seed {seed}");
    }
}

#[test]
fn the_first_sync_of_a_segment_may_fail_too() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    append(&mut log, 2, 100).unwrap();
    let next = disk.syncs() + 1;
    disk.faults(|faults| faults.fail_syncs.push(next));
    assert_eq!(log.sync().unwrap(), Position::new(1, 2));
    for seed in 0..200 {
        let (log, _) = open(&disk.crash(seed), &small()).unwrap();
        assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1)], "seed {seed}");
        assert_eq!(log.epoch(), 2, "seed {seed}");
    }
}

#[test]
fn a_log_has_failed_after_the_second_failure_in_a_row() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    append(&mut log, 2, 100).unwrap();
    log.sync().unwrap();
    // One failure, then good ones, then one more: it goes on.
    for _ in 0..2 {
        let next = disk.syncs() + 1;
        disk.faults(|faults| faults.fail_syncs.push(next));
        append(&mut log, 1, 100).unwrap();
        log.sync().unwrap();
    }
    append(&mut log, 1, 100).unwrap();
    let next = disk.syncs() + 1;
    disk.faults(|faults| faults.fail_syncs.extend([next, next + 1]));
    assert!(matches!(log.sync(), Err(LogError::Failed)));
    assert!(matches!(log.sync(), Err(LogError::Failed)));
    assert!(matches!(append(&mut log, 1, 100), Err(LogError::Failed)));
    assert_eq!(log.durable(), Position::new(1, 4));
    assert_eq!(records(&read(&log, Position::NONE, Extent::Durable)).len(), 3);
    drop(log);
    let (mut log, _) = open(&disk.kill(), &small()).unwrap();
    assert!(log.last().number >= 4);
    append(&mut log, 1, 100).unwrap();
    log.sync().unwrap();
}

#[test]
fn a_folder_whose_sync_fails_makes_no_promise() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    disk.faults(|faults| faults.fail_dir_syncs = vec![1]);
    assert!(matches!(append(&mut log, 1, 100), Err(LogError::Io(_))));
    append(&mut log, 1, 100).unwrap();
    assert_eq!(log.sync().unwrap(), Position::new(1, 1));
    for seed in 0..100 {
        let (log, _) = open(&disk.crash(seed), &small()).unwrap();
        assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1)], "seed {seed}");
    }
}

#[test]
fn a_bad_write_goes_to_a_new_segment() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    append(&mut log, 1, 100).unwrap();
    log.sync().unwrap();
    append(&mut log, 1, 100).unwrap();
    // Two headers are the first two writes, then the record before.
    disk.faults(|faults| faults.fail_writes = vec![4]);
    assert_eq!(log.sync().unwrap(), Position::new(1, 2));
    assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1), Ok(2)]);
}

#[test]
fn a_full_disk_drops_the_oldest_and_says_at_most_how_many() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..40 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.faults(|faults| faults.capacity = Some(used as u64 + 1000));
    for _ in 0..40 {
        append(&mut log, 2, 1000).unwrap();
        log.sync().unwrap();
    }
    let items = read(&log, Position::new(1, 1), Extent::Durable);
    let lost = log.oldest().number;
    assert_eq!(shape(&items)[0], Err((1, lost)));
    assert_eq!(records(&items).last().unwrap().last().number, 160);
    assert_eq!(log.lost(), lost);
}

#[test]
fn a_full_disk_is_an_error_for_a_log_that_drops_nothing_and_passes() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small().when_full(WhenFull::Refuse)).unwrap();
    append(&mut log, 2, 1000).unwrap();
    log.sync().unwrap();
    disk.faults(|faults| faults.capacity = Some(8192 + 1500));
    let last = append(&mut log, 2, 1000).unwrap();
    for _ in 0..3 {
        assert!(matches!(log.sync(), Err(LogError::NoSpace)));
    }
    assert_eq!(log.durable(), Position::new(1, 2));
    disk.faults(|faults| faults.capacity = None);
    assert_eq!(log.sync().unwrap(), last);
    assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1), Ok(3)]);
}

#[test]
fn a_disk_that_is_full_after_a_failed_sync_keeps_the_order() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small().when_full(WhenFull::Refuse)).unwrap();
    append(&mut log, 2, 1000).unwrap();
    log.sync().unwrap();
    append(&mut log, 2, 1000).unwrap();
    log.write().unwrap();
    let next = disk.syncs() + 1;
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.faults(|faults| {
        faults.fail_syncs.push(next);
        faults.capacity = Some(used as u64);
    });
    assert!(matches!(log.sync(), Err(LogError::NoSpace)));
    assert!(matches!(append(&mut log, 1, 10), Err(LogError::NoSpace)));
    disk.faults(|faults| faults.capacity = None);
    append(&mut log, 1, 10).unwrap();
    assert_eq!(log.sync().unwrap(), Position::new(1, 5));
    for seed in 0..50 {
        let (log, _) = open(&disk.crash(seed), &small()).unwrap();
        assert_eq!(shape(&read(&log, Position::NONE, Extent::Durable)), [Ok(1), Ok(3), Ok(5)], "seed {seed}");
    }
}

#[test]
fn the_limit_is_half_of_the_file_system() {
    let disk = SimDisk::new(1);
    disk.faults(|faults| faults.capacity = Some(100_000));
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..100 {
        append(&mut log, 2, 1000).unwrap();
        assert!(log.size() <= 50_000);
    }
}

#[test]
fn blocks_that_cannot_be_read_cost_what_is_in_them() {
    let disk = SimDisk::new(1);
    let options = small().segment_bytes(1 << 20).max_bytes(4 << 20);
    let (mut log, _) = open(&disk, &options).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    let mut reader = log.reader(Position::NONE, Extent::Durable);
    disk.faults(|faults| faults.unreadable = vec![4]);
    let mut items = Vec::new();
    loop {
        match reader.read() {
            Ok(more) if more.is_empty() => break,
            Ok(more) => items.extend(more),
            Err(error) => {
                assert_eq!(error.to_string(), "a bad block");
                reader.pass();
            }
        }
    }
    // The fifth block holds a part of each of six records, from the eighth one on.
    assert_eq!(shape(&items).iter().filter(|item| item.is_err()).count(), 1);
    assert!(records(&items).len() >= 30 - 6, "{:?}", shape(&items));
    drop(log);
    let image = disk.kill();
    image.faults(|faults| faults.unreadable = vec![0, 4]);
    let (log, report) = open(&image, &options).unwrap();
    assert_eq!((report.segments, report.bad.len()), (1, 0), "the second header can be read");
    assert_eq!(log.last().number, 60);
}

#[test]
fn opening_twice_after_a_disk_that_could_not_seal_is_the_same() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    append(&mut log, 2, 1000).unwrap();
    log.sync().unwrap();
    drop(log);
    let size = disk.files().values().map(Vec::len).sum::<usize>() as u64;
    disk.faults(|faults| faults.capacity = Some(size));
    let before: BTreeMap<_, _> = disk.files();
    for _ in 0..3 {
        let (log, report) = open(&disk, &small()).unwrap();
        assert_eq!((report.scanned, log.last().number), (1, 2));
    }
    assert_eq!(disk.files(), before);
}
