//! Files that were damaged by others: flips and cuts of each byte, copies, payloads that look like
//! a log.

use std::collections::BTreeMap;

use hpfeeds::log::{Append, Extent, Item, LogError, LogOptions, verify};
use hpfeeds::wire::extension::Position;

use crate::{
    sim_disk::SimDisk,
    support::{append, body, open, read, records, shape, small},
};

/// Three records in each of three segments, all sealed, and a cursor.
fn files() -> BTreeMap<String, Vec<u8>> {
    let disk = SimDisk::new(1);
    let options = small().segment_bytes(8192 + 300);
    let (mut log, _) = open(&disk, &options).unwrap();
    for _ in 0..9 {
        append(&mut log, 2, 50).unwrap();
    }
    log.sync().unwrap();
    log.consume(Position::new(1, 1)).unwrap();
    log.store_cursor().unwrap();
    drop(log);
    drop(open(&disk, &options).unwrap());
    let files = disk.files();
    assert_eq!(files.len(), 4, "{:?}", files.keys());
    files
}

fn segment(first: u64) -> String {
    format!("{:020}-{first:020}.seg", 1)
}

/// Opens a log of these files and checks that each record is an original one, that numbers grow,
/// and that what is lost fills what is missing. Returns the shape.
fn check(files: &BTreeMap<String, Vec<u8>>, what: &str) -> Vec<Result<u64, (u64, u64)>> {
    let disk = SimDisk::with(3, files.clone());
    let (mut log, _) = open(&disk, &small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let items = read(&log, Position::NONE, Extent::Durable);
    let mut next = None;
    for item in &items {
        let (first, last) = match item {
            Item::Record(record) => {
                assert_eq!(record.body, body(record.first, 50), "{what}");
                assert_eq!((record.messages, record.skip), (2, 0), "{what}");
                (record.first.number, record.last().number)
            }
            Item::Lost(lost) => (lost.after.number + 1, lost.last),
        };
        assert!(next.is_none_or(|next| next == first), "{what}: {first} after {next:?}");
        next = Some(last + 1);
    }
    // It goes on.
    let last = append(&mut log, 1, 50).unwrap();
    assert!(last.number >= next.unwrap_or(1), "{what}: {last}");
    log.sync().unwrap();
    drop(log);
    let (log, report) = open(&disk, &small()).unwrap();
    assert_eq!(report.bad.len(), 0, "{what}: what is bad is set aside once");
    assert_eq!(records(&read(&log, Position::NONE, Extent::Durable)).last().unwrap().last(), last, "{what}");
    shape(&items)
}

/// The first numbers of the records that are there.
fn found(shape: &[Result<u64, (u64, u64)>]) -> Vec<u64> {
    shape.iter().filter_map(|item| item.ok()).collect()
}

#[test]
fn each_flipped_byte_costs_at_most_its_record() {
    let files = files();
    assert_eq!(found(&check(&files, "as it was")), [1, 3, 5, 7, 9, 11, 13, 15, 17]);
    let name = segment(7);
    let mut lost_records = 0;
    for at in 0..files[&name].len() {
        // Between the headers there is nothing, and there are many such bytes.
        if ((64..4096).contains(&at) || (4160..8192).contains(&at)) && at % 501 != 0 {
            continue;
        }
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = files.clone();
            damaged.get_mut(&name).unwrap()[at] ^= change;
            let found = found(&check(&damaged, &format!("byte {at} ^ {change:x}")));
            assert!(found.len() >= 8, "byte {at} ^ {change:x}: {found:?}");
            lost_records += 9 - found.len();
        }
    }
    assert!(lost_records > 200, "records were hit: {lost_records}");
}

#[test]
fn each_cut_costs_at_most_what_is_behind_it() {
    let files = files();
    let name = segment(7);
    for length in (0..files[&name].len()).filter(|length| *length >= 8192 || length % 501 == 0) {
        let mut damaged = files.clone();
        damaged.get_mut(&name).unwrap().truncate(length);
        let shape = check(&damaged, &format!("cut at {length}"));
        let found = found(&shape);
        assert!(found.starts_with(&[1, 3, 5]) && found.ends_with(&[13, 15, 17]), "cut at {length}: {found:?}");
        let lost: u64 = shape.iter().filter_map(|item| item.err()).map(|(after, last)| last - after).sum();
        assert_eq!(found.len() as u64 * 2 + lost, 18, "cut at {length}");
    }
}

#[test]
fn zeroed_doubled_and_removed_ranges_are_counted() {
    let files = files();
    let name = segment(7);
    for start in (0..files[&name].len()).step_by(37) {
        for length in [1, 40, 200, 9000] {
            let what = format!("{length} bytes at {start}");
            let end = (start + length).min(files[&name].len());
            let mut zeroed = files.clone();
            zeroed.get_mut(&name).unwrap()[start..end].fill(0);
            check(&zeroed, &format!("zeroed {what}"));
            let mut doubled = files.clone();
            let piece = doubled[&name][start..end].to_vec();
            doubled.get_mut(&name).unwrap().splice(start..start, piece);
            check(&doubled, &format!("doubled {what}"));
            let mut removed = files.clone();
            removed.get_mut(&name).unwrap().drain(start..end);
            check(&removed, &format!("removed {what}"));
        }
    }
}

#[test]
fn a_missing_segment_is_lost_with_its_exact_number() {
    let mut files = files();
    files.remove(&segment(7));
    let shape = check(&files, "without the second segment");
    assert_eq!(shape, [Ok(1), Ok(3), Ok(5), Err((6, 12)), Ok(13), Ok(15), Ok(17)]);
}

#[test]
fn a_segment_without_a_header_is_set_aside_and_counted() {
    let mut files = files();
    let bytes = files.get_mut(&segment(7)).unwrap();
    bytes[..64].fill(1);
    bytes[4096..4160].fill(1);
    assert_eq!(found(&check(&files, "the footer has one")).len(), 9);
    let bytes = files.get_mut(&segment(7)).unwrap();
    bytes.pop();
    let disk = SimDisk::with(3, files.clone());
    let (log, report) = open(&disk, &small()).unwrap();
    assert_eq!(report.bad, [format!("{}.bad", segment(7))]);
    let shape = shape(&read(&log, Position::NONE, Extent::Durable));
    assert_eq!(shape, [Ok(1), Ok(3), Ok(5), Err((6, 12)), Ok(13), Ok(15), Ok(17)]);
    drop(log);
    assert_eq!(open(&disk, &small()).unwrap().1.bad, [""; 0]);
    assert_eq!(verify(&disk).unwrap().damage.len(), 1);
}

#[test]
fn a_copy_of_a_segment_under_another_name_is_read_once() {
    let mut files = files();
    let copy = files[&segment(7)].clone();
    files.insert(segment(700), copy.clone());
    files.insert("copy.seg".to_owned(), copy);
    let disk = SimDisk::with(3, files);
    let (log, report) = open(&disk, &small()).unwrap();
    assert_eq!((report.bad, report.foreign), (vec![format!("{}.bad", segment(700))], 1));
    assert_eq!(found(&shape(&read(&log, Position::NONE, Extent::Durable))), [1, 3, 5, 7, 9, 11, 13, 15, 17]);
}

#[test]
fn a_lost_cursor_means_everything_again_and_one_slot_is_enough() {
    let files = files();
    for at in [0, 4096] {
        let mut damaged = files.clone();
        let cursor = damaged.get_mut("cursor").unwrap();
        if let Some(byte) = cursor.get_mut(at + 20) {
            *byte ^= 1;
        }
        let (log, report) = open(&SimDisk::with(3, damaged), &small()).unwrap();
        assert!(log.cursor() == Position::new(1, 1) || report.cursor_lost, "{at}: {}", log.cursor());
    }
    let mut damaged = files;
    damaged.insert("cursor".to_owned(), vec![7; 5000]);
    let (log, report) = open(&SimDisk::with(3, damaged), &small()).unwrap();
    assert!(report.cursor_lost);
    assert_eq!(found(&shape(&read(&log, log.cursor(), Extent::Durable))).len(), 9);
}

#[test]
fn a_newer_version_is_refused_named_and_not_touched() {
    let files = files();
    let newer = |bytes: &mut Vec<u8>, at: usize| {
        bytes[at + 9] = 2;
        let checksum = crc32fast::hash(&bytes[at..at + 60]).to_be_bytes();
        bytes[at + 60..at + 64].copy_from_slice(&checksum);
    };
    for (name, at) in [(segment(13), 0), (segment(7), 4096), ("cursor".to_owned(), 4096)] {
        let mut changed = files.clone();
        let bytes = changed.get_mut(&name).unwrap();
        if at == 4096 && name != "cursor" {
            bytes[..64].fill(0);
        }
        newer(bytes, at);
        let disk = SimDisk::with(3, changed.clone());
        let error = open(&disk, &small()).unwrap_err();
        assert!(matches!(&error, LogError::Newer { name: found, version: 2 } if *found == name), "{error}");
        assert_eq!(disk.files(), changed);
    }
}

#[test]
fn payloads_that_hold_a_copy_of_our_own_segment_are_payloads() {
    let disk = SimDisk::new(1);
    let options = LogOptions::default();
    let (mut log, _) = open(&disk, &options).unwrap();
    append(&mut log, 2, 50).unwrap();
    log.sync().unwrap();
    let append_copy = |log: &mut hpfeeds::log::Log| {
        let copy = disk.files().remove(&segment(1)).unwrap();
        let record = Append { kind: 0, unix_ms: 0, messages: 1, stream: None, channels: &[], body: &copy };
        log.append(&record).unwrap();
        log.sync().unwrap();
    };
    for _ in 0..4 {
        append_copy(&mut log);
    }
    append(&mut log, 2, 50).unwrap();
    log.sync().unwrap();
    drop(log);
    let whole = disk.files();
    let expected = [1, 3, 4, 5, 6, 7];
    let found_in = |files: &BTreeMap<String, Vec<u8>>| {
        let (log, _) = open(&SimDisk::with(3, files.clone()), &options).unwrap();
        shape(&read(&log, Position::NONE, Extent::Durable))
    };
    assert_eq!(found(&found_in(&whole)), expected);
    // With the header of each record destroyed, its payload is searched for records.
    let bytes = &whole[&segment(1)];
    let starts: Vec<usize> =
        (8192..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(&[0xd8, 0x1f, 0xa3, 0x0c])).collect();
    assert!(starts.len() > 10, "the copies hold records, too");
    for start in starts {
        let mut damaged = whole.clone();
        damaged.get_mut(&segment(1)).unwrap()[start + 5] ^= 0x40;
        let shape = found_in(&damaged);
        let found = found(&shape);
        assert!(found.len() >= 5 && found.iter().all(|number| expected.contains(number)), "{start}: {shape:?}");
    }
}
