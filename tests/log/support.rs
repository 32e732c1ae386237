//! The shared parts of the tests of the log: records whose contents follow from their position, and all that
//! a log holds.

use std::sync::Arc;

use hpfeeds::log::{Append, Disk, Extent, FRAMES, Item, Log, LogError, LogOptions, OpenReport, Record, StreamEnd};
use hpfeeds::wire::extension::Position;

use crate::sim_disk::{Random, SimDisk};

/// Small segments, so that a few records fill one.
pub(crate) fn small() -> LogOptions {
    LogOptions::default().segment_bytes(14_000).max_bytes(400_000)
}

pub(crate) fn open(disk: &SimDisk, options: &LogOptions) -> Result<(Log, OpenReport), LogError> {
    Log::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options)
}

/// The body of the record whose first message has this position: no two are the same.
pub(crate) fn body(first: Position, length: usize) -> Vec<u8> {
    let mut random = Random(first.epoch << 32 ^ first.number);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_be_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Appends messages whose body follows from where they will stand and from the length.
pub(crate) fn append(log: &mut Log, messages: u32, length: usize) -> Result<Position, LogError> {
    let first = Position::new(log.epoch(), log.last().number + 1);
    let stream = (first.number % 3 == 0).then_some(StreamEnd { id: [7; 16], last: first.number });
    let unix_ms = i64::try_from(first.number).unwrap() * 1000;
    let body = body(first, length);
    log.append(&Append { kind: FRAMES, unix_ms, messages, stream, channels: &[("a", 1)], body: &body })
}

/// Reads to the end.
pub(crate) fn read(log: &Log, after: Position, extent: Extent) -> Vec<Item> {
    let (mut reader, mut items) = (log.reader(after, extent), Vec::new());
    loop {
        let more = reader.read().unwrap();
        if more.is_empty() {
            return items;
        }
        items.extend(more);
        assert!(items.len() < 100_000, "reading has no end");
    }
}

/// The records among them.
pub(crate) fn records(items: &[Item]) -> Vec<Record> {
    let record = |item: &Item| match item {
        Item::Record(record) => Some(record.clone()),
        Item::Lost(_) => None,
    };
    items.iter().filter_map(record).collect()
}

/// The numbers of the first messages of records, and as `(after, last)` of what is lost.
pub(crate) fn shape(items: &[Item]) -> Vec<Result<u64, (u64, u64)>> {
    let shape = |item: &Item| match item {
        Item::Record(record) => Ok(record.first.number),
        Item::Lost(lost) => Err((lost.after.number, lost.last)),
    };
    items.iter().map(shape).collect()
}
