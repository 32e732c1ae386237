//! The folder of a log, with anything in its files: opening it fails for a newer version alone,
//! reading it has an end and goes forward, and what is appended then is there at the next opening.
//!
//! Input: changes to the files of a log of three segments, each a byte that says which change, and
//! its values. Some are given the checksum that makes them fit, so that what stands behind it is
//! reached.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use hpfeeds::log::{Append, Disk, Extent, FRAMES, Item, Log, LogError, LogOptions, verify};
use hpfeeds::wire::extension::Position;

use crate::{alloc, input::Input, sim_disk::SimDisk};

type Files = BTreeMap<String, Vec<u8>>;

/// The bytes of all files together, above which no more is inserted.
const MOST: usize = 256 << 10;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut files = base();
    while !input.is_empty() {
        change(&mut files, &mut input);
    }
    let held: usize = files.values().map(Vec::len).sum();
    let disk = SimDisk::with(7, files.clone());
    let checked = verify(&disk);
    let (first, used) = alloc::measured(|| look(&disk));
    assert!(used < 16 * held + (8 << 20), "{used} bytes are allocated for {held}");
    let Ok((last, report)) = first else {
        assert!(checked.is_err(), "a check and an opening agree on what is newer");
        assert_eq!(disk.files(), files, "nothing is touched");
        return;
    };
    assert!(checked.is_ok());
    let (again, _) = look(&disk).expect("what was opened can be opened again");
    let Some(last) = last else { return };
    assert!(again.is_none_or(|again| again > last), "numbers go on: {last}, {again:?}, {report:?}");
}

/// Opens, reads, appends and reads that again. Returns the position of what was appended, unless
/// numbers or epochs are used up.
fn look(disk: &SimDisk) -> Result<(Option<Position>, String), LogError> {
    let options = LogOptions::default().segment_bytes(10_000).max_bytes(4 << 20);
    let (mut log, report) = match Log::open(Arc::new(disk.clone()) as Arc<dyn Disk>, &options) {
        Ok(opened) => opened,
        Err(error @ LogError::Newer { .. }) => return Err(error),
        Err(error) => panic!("{error}"),
    };
    read(&log, Position::NONE);
    read(&log, log.cursor());
    let record = Append { kind: FRAMES, unix_ms: 1, messages: 2, stream: None, channels: &[], body: b"new" };
    let last = match log.append(&record) {
        Ok(last) => last,
        Err(LogError::Unfit) => return Ok((None, String::new())),
        Err(error) => panic!("{error}"),
    };
    log.sync().expect("the disk is good");
    assert_eq!(read(&log, Position::NONE), Some(last), "{report:?}");
    drop(log);
    Ok((Some(last), format!("{report:?}")))
}

/// Reads to the end, and returns the last position.
fn read(log: &Log, after: Position) -> Option<Position> {
    let (mut reader, mut last) = (log.reader(after, Extent::Written), None);
    let mut at: Option<Position> = None;
    loop {
        let items = reader.read().expect("the disk is good");
        if items.is_empty() {
            return last;
        }
        for item in items {
            let (from, to) = match item {
                Item::Record(record) => {
                    assert!(record.skip < record.messages);
                    last = Some(record.last());
                    (record.first.number, record.last())
                }
                Item::Lost(lost) => {
                    assert!(lost.messages() > 0);
                    (lost.after.number + 1, Position::new(lost.after.epoch, lost.last))
                }
            };
            if let Some(at) = at {
                assert!(to.epoch > at.epoch || from == at.number + 1 && to.epoch == at.epoch, "{from} after {at}");
            }
            at = Some(to);
        }
    }
}

/// A log of three segments, the last of which is not sealed.
fn base() -> Files {
    static BASE: OnceLock<Files> = OnceLock::new();
    let build = || {
        let disk = SimDisk::new(7);
        let options = LogOptions::default().segment_bytes(8500).max_bytes(1 << 20);
        let (mut log, _) = Log::open(Arc::new(disk.clone()) as Arc<dyn Disk>, &options).expect("it is new");
        for at in 0..6 {
            let body = [at; 60];
            let record = Append {
                kind: FRAMES,
                unix_ms: at.into(),
                messages: 2,
                stream: None,
                channels: &[("a", 1)],
                body: &body[..],
            };
            log.append(&record).expect("there is room");
        }
        log.sync().expect("the disk is good");
        log.consume(Position::new(1, 1)).expect("the disk is good");
        log.store_cursor().expect("the disk is good");
        drop(log);
        disk.files()
    };
    BASE.get_or_init(build).clone()
}

fn change(files: &mut Files, input: &mut Input<'_>) {
    let kind = input.byte();
    let names: Vec<String> = files.keys().cloned().collect();
    let Some(name) = names.get(usize::from(input.byte()) % names.len().max(1)).cloned() else { return };
    let held: usize = files.values().map(Vec::len).sum();
    let Some(bytes) = files.get_mut(&name) else { return };
    let at = usize::from(input.number()).min(bytes.len());
    match kind % 10 {
        0 => over(bytes, at, input.short()),
        1 => bytes.truncate(at),
        2 if held < MOST => {
            bytes.splice(at..at, input.short().iter().copied());
        }
        3 => {
            let end = (at + usize::from(input.number())).min(bytes.len());
            bytes.drain(at..end);
        }
        4 if held < MOST => {
            // A part of it once more.
            let end = (at + usize::from(input.number())).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.extend(piece);
        }
        5 => {
            files.remove(&name);
        }
        6 => {
            let bytes = files.remove(&name).unwrap_or_default();
            files.insert(format!("{:020}-{:020}.seg", input.number(), input.number()), bytes);
        }
        7 => sum(bytes, at, 64),
        8 => {
            // A record's header at its own place, in the file as its first header has it.
            over(bytes, at, b"\xd8\x1f\xa3\x0c");
            over(bytes, at + 4, input.take(28));
            bind(bytes, at);
        }
        9 => {
            // The footer, whose checksum stands before the tail.
            if let Some(end) = bytes.len().checked_sub(16) {
                let length = bytes[end..].first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
                if let Some(start) = end.checked_sub(length) {
                    over(bytes, start + at % length.max(1), input.short());
                    sum(bytes, start, length);
                }
            }
        }
        _ => {}
    }
}

fn over(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(new) {
        *byte = *new;
    }
}

/// Puts the checksum of `length - 4` bytes behind them.
fn sum(bytes: &mut [u8], at: usize, length: usize) {
    let Some((content, checksum)) = bytes.get_mut(at..at + length).and_then(|bytes| {
        let middle = bytes.len().checked_sub(4)?;
        Some(bytes.split_at_mut(middle))
    }) else {
        return;
    };
    checksum.copy_from_slice(&crc32fast::hash(content).to_be_bytes());
}

fn bind(bytes: &mut [u8], at: usize) {
    let (Some(head), Some(fields)) = (bytes.get(16..40), bytes.get(at..at + 32)) else { return };
    let bound = [fields, head, &(at as u64).to_be_bytes()].concat();
    over(bytes, at + 32, &crc32fast::hash(&bound).to_be_bytes());
}
