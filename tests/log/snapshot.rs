//! A log that is read beside the program that uses it.

use hpfeeds::log::{Damage, Disk as _, Finding, Lost, Record, Snapshot};
use hpfeeds::wire::extension::Position;

use crate::{
    sim_disk::SimDisk,
    support::{append, body, open, small},
};

/// Segments are named by numbers.
fn is_segment(name: &str) -> bool {
    name.starts_with('0')
}

fn findings(disk: &SimDisk) -> Vec<Finding> {
    Snapshot::take(disk).unwrap().findings().collect()
}

fn records(findings: &[Finding]) -> Vec<Record> {
    let record = |finding: &Finding| if let Finding::Record(record) = finding { Some(record.clone()) } else { None };
    findings.iter().filter_map(record).collect()
}

fn damage(findings: &[Finding]) -> Vec<Damage> {
    let damage = |finding: &Finding| if let Finding::Damage(damage) = finding { Some(damage.clone()) } else { None };
    findings.iter().filter_map(damage).collect()
}

#[test]
fn a_log_in_use_is_read_without_a_change() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.write().unwrap();
    log.consume(Position::new(1, 5)).unwrap();
    log.store_cursor().unwrap();
    let (files, operations) = (disk.files(), disk.operations());
    let snapshot = Snapshot::take(&disk).unwrap();
    assert_eq!((snapshot.cursor(), snapshot.dropped()), (Some(Position::new(1, 5)), 0));
    let lengths = disk.list().unwrap().into_iter().filter(|entry| is_segment(&entry.name));
    assert_eq!(snapshot.bytes(), lengths.map(|entry| entry.length).sum::<u64>());
    // A segment that goes meanwhile is read all the same.
    log.consume(Position::new(1, 40)).unwrap();
    let found: Vec<_> = snapshot.findings().collect();
    let got = records(&found);
    assert_eq!(got.iter().map(|record| record.skip).collect::<Vec<_>>()[..4], [2, 2, 1, 0]);
    assert_eq!(got.len(), 30);
    for record in &got {
        assert_eq!(record.body, body(record.first, 1000));
    }
    assert_eq!(damage(&found), []);
    assert_eq!(found.last(), Some(&Finding::Record(got[29].clone())));
    drop(snapshot);
    drop(log);
    assert!(disk.files().len() < files.len() && disk.operations() > operations);
}

#[test]
fn a_tail_that_was_torn_is_no_other_damage() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.write().unwrap();
    let mut files = disk.kill().files();
    let (name, newest) = files.iter_mut().rfind(|(name, _)| is_segment(name)).unwrap();
    let name = name.clone();
    newest.truncate(newest.len() - 7);
    let found = findings(&SimDisk::with(1, files.clone()));
    assert_eq!(records(&found).len(), 29);
    let torn = damage(&found);
    assert!(!torn.is_empty() && torn.iter().all(|damage| damage.is_tail && damage.file == name), "{torn:?}");
    // A record before it is damage, and so is the end of a segment that is followed by another.
    let newest = files.get_mut(&name).unwrap();
    newest[8192 + 100] ^= 1;
    let found = findings(&SimDisk::with(1, files.clone()));
    assert_eq!(damage(&found).iter().filter(|damage| !damage.is_tail).count(), 1);
    assert_eq!(found.iter().filter(|finding| matches!(finding, Finding::Lost(_))).count(), 1);
    let (first, bytes) = files.iter_mut().find(|(name, _)| is_segment(name)).unwrap();
    let first = first.clone();
    bytes.truncate(9000);
    let found = findings(&SimDisk::with(1, files));
    assert!(damage(&found).iter().any(|damage| damage.file == first && !damage.is_tail), "{found:?}");
}

#[test]
fn missing_and_copied_segments_are_told_once() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let mut files = disk.files();
    let names: Vec<_> = files.keys().filter(|name| is_segment(name)).cloned().collect();
    let copy = files[&names[0]].clone();
    files.insert("00000000000000000001-00000000000000000700.seg".to_owned(), copy);
    files.remove(&names[1]);
    let found = findings(&SimDisk::with(1, files));
    let numbers: Vec<_> = records(&found).iter().map(|record| record.first.number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let before = numbers.windows(2).find(|pair| pair[1] > pair[0] + 2).unwrap();
    let lost = Lost { after: Position::new(1, before[0] + 1), last: before[1] - 1, dropped: false };
    assert!(found.contains(&Finding::Lost(lost)), "{lost:?}");
    assert_eq!(damage(&found).len(), 1);
}

#[cfg(unix)]
#[test]
fn copies_of_a_log_that_is_written_and_dropped_meanwhile_are_whole_and_hold_what_was_durable() {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        },
        thread,
    };

    use hpfeeds::log::{Log, RealDisk, copy, verify};

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (mut log, _) = Log::open(Arc::new(RealDisk::open(path("log")).unwrap()), &small()).unwrap();
    let (durable, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (told, over) = (durable.clone(), is_over.clone());
    let writing = thread::spawn(move || {
        while !over.load(SeqCst) {
            for _ in 0..10 {
                append(&mut log, 2, 1000).unwrap();
            }
            let last = log.sync().unwrap();
            told.store(last.number, SeqCst);
            // Some segments stay.
            let consumed = last.number.saturating_sub(150);
            if consumed > 0 {
                log.consume(Position::new(1, consumed)).unwrap();
            }
        }
        log.last().number
    });
    while durable.load(SeqCst) == 0 {
        thread::yield_now();
    }
    for round in 0..40 {
        let before = durable.load(SeqCst);
        let target = path(&round.to_string());
        let copied = copy(&RealDisk::open(path("log")).unwrap(), &RealDisk::open(&target).unwrap()).unwrap();
        let verified = verify(&RealDisk::open(&target).unwrap()).unwrap();
        assert!(verified.lost == 0 && verified.damage.iter().all(|place| place.is_tail), "{verified:?}");
        let last = verified.range.map_or(0, |(_, last)| last.number);
        assert!(last >= before && copied > 0, "{last} of {before}");
        let (log, report) = Log::open(Arc::new(RealDisk::open(&target).unwrap()), &small()).unwrap();
        assert!(report.bad.is_empty() && log.last().number >= before, "{report:?}");
        // Nothing behind the cursor is missing.
        let first = verified.range.map_or(1, |(first, _)| first.number);
        assert!(first <= verified.cursor.map_or(1, |cursor| cursor.number + 1), "{verified:?}");
        let again = copy(&RealDisk::open(path("log")).unwrap(), &RealDisk::open(&target).unwrap()).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    }
    is_over.store(true, SeqCst);
    assert!(writing.join().unwrap() > 0);
}

/// A disk whose log lets segments go while somebody looks at the folder: after the first list, and before
/// the second.
#[derive(Debug)]
struct Moving {
    disk: SimDisk,
    log: std::sync::Mutex<hpfeeds::log::Log>,
    lists: std::sync::atomic::AtomicU64,
}

impl Moving {
    fn consume(&self, number: u64) {
        self.log.lock().unwrap().consume(Position::new(1, number)).unwrap();
    }
}

impl hpfeeds::log::Disk for Moving {
    fn list(&self) -> std::io::Result<Vec<hpfeeds::log::Entry>> {
        let turn = self.lists.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if turn == 1 {
            self.consume(60);
        }
        let list = self.disk.list();
        if turn == 0 {
            self.consume(30);
        }
        list
    }

    fn create(&self, name: &str) -> std::io::Result<Box<dyn hpfeeds::log::File>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> std::io::Result<Box<dyn hpfeeds::log::File>> {
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, name: &str) -> std::io::Result<()> {
        self.disk.unlink(name)
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.disk.sync_dir()
    }

    fn lock(&self) -> Result<hpfeeds::log::Guard, hpfeeds::log::LockError> {
        self.disk.lock()
    }

    fn space(&self) -> std::io::Result<hpfeeds::log::Space> {
        self.disk.space()
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

#[test]
fn a_copy_has_the_cursor_of_its_segments_whatever_goes_while_they_are_opened() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, &small()).unwrap();
    for _ in 0..60 {
        append(&mut log, 2, 1000).unwrap();
    }
    log.sync().unwrap();
    let moving = Moving { disk, log: log.into(), lists: 0.into() };
    let copied = SimDisk::new(2);
    hpfeeds::log::copy(&moving, &copied).unwrap();
    assert_eq!(moving.lists.into_inner(), 3, "one look for each change, and one without");
    let verified = hpfeeds::log::verify(&copied).unwrap();
    assert_eq!((verified.lost, verified.cursor), (0, Some(Position::new(1, 60))));
    let (first, last) = verified.range.unwrap();
    assert!((2..=61).contains(&first.number) && last.number == 120, "{verified:?}");
}
