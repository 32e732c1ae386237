//! The table on disk: rows of keys and values in a small log, of which the last record of each key
//! counts. Cursors, streams and last values stand in such tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes};
use hpfeeds::{
    log::{Append, Disk, Extent, Item, Log, LogError, LogOptions, Record, WhenFull},
    wire::extension::Position,
};

/// The kinds of records: a row, and the end of one.
const PUT: u16 = 16;
const REMOVE: u16 = 17;
/// A table is written anew when its log has grown by so much, and to twice its rows.
const GARBAGE: u64 = 4 << 20;
/// Bytes of a row in the log besides key and value, at most.
const OVERHEAD: u64 = 64;

/// The key of a row: which table it is of, and its name there.
pub(crate) type Key = (u8, Box<[u8]>);

/// The rows, in memory and on disk.
#[derive(Debug)]
pub(crate) struct TableLog {
    log: Log,
    rows: BTreeMap<Key, Bytes>,
    /// Keys whose rows have changed since the last commit.
    changed: BTreeSet<Key>,
    /// Bytes of all rows in the log.
    live: u64,
}

/// The result of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableReport {
    /// There was no log.
    pub(crate) is_new: bool,
    /// Records that cannot be read: rows may be older than they were.
    pub(crate) lost: u64,
}

impl TableLog {
    /// Opens the table of a folder. Damage costs the rows that it has touched their newest values.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<(Self, TableReport), LogError> {
        let options = LogOptions::default().segment_bytes(1 << 20).max_bytes(8 << 30).when_full(WhenFull::Refuse);
        let (log, opened) = Log::open(disk, &options)?;
        let is_new = opened.segments == 0 && opened.bad.is_empty();
        let mut table = Self { log, rows: BTreeMap::new(), changed: BTreeSet::new(), live: 0 };
        let mut report = TableReport { is_new, lost: opened.bad.len() as u64 };
        let mut reader = table.log.reader(Position::NONE, Extent::Durable);
        loop {
            match reader.read() {
                Ok(items) if items.is_empty() => break,
                Ok(items) => {
                    for item in items {
                        match item {
                            Item::Record(record) if table.replay(&record) => {}
                            Item::Record(_) => report.lost += 1,
                            Item::Lost(lost) => report.lost += lost.messages(),
                        }
                    }
                }
                Err(_) => reader.pass(),
            }
        }
        Ok((table, report))
    }

    fn replay(&mut self, record: &Record) -> bool {
        let mut body = record.body.clone();
        let Some(key) = key(&mut body) else { return false };
        match record.kind {
            PUT => self.set(&key, Some(Bytes::copy_from_slice(&body))),
            REMOVE => self.set(&key, None),
            _ => return false,
        }
        true
    }

    fn set(&mut self, key: &Key, value: Option<Bytes>) {
        let length = |key: &Key, value: &Bytes| (key.1.len() + value.len()) as u64 + OVERHEAD;
        self.live += value.as_ref().map_or(0, |value| length(key, value));
        let old = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            None => self.rows.remove(key),
        };
        self.live -= old.map_or(0, |old| length(key, &old));
    }

    /// The rows of one table.
    pub(crate) fn rows(&self, table: u8) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.rows
            .range((table, Box::default())..)
            .take_while(move |((own, _), _)| *own == table)
            .map(|((_, name), value)| (&**name, value))
    }

    /// Sets a row, or with `None` removes it; not durable before [`commit`](Self::commit).
    pub(crate) fn put(&mut self, table: u8, name: &[u8], value: Option<Bytes>) {
        let key = (table, Box::from(name));
        if self.rows.get(&key) != value.as_ref() {
            self.set(&key, value);
            self.changed.insert(key);
        }
    }

    /// Makes all changes durable, with one sync. After an error they stay to be committed.
    pub(crate) fn commit(&mut self) -> Result<(), LogError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let before = self.log.last();
        for key in &self.changed {
            append(&mut self.log, key, self.rows.get(key))?;
        }
        self.log.sync()?;
        self.changed.clear();
        if self.log.size() > 2 * self.live + GARBAGE {
            self.rewrite(before)?;
        }
        Ok(())
    }

    /// Writes all rows anew, and lets go what stands before them.
    fn rewrite(&mut self, before: Position) -> Result<(), LogError> {
        let last = self.log.last().max(before);
        for (key, value) in &self.rows {
            append(&mut self.log, key, Some(value))?;
        }
        self.log.sync()?;
        self.log.consume(last)
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> u64 {
        self.log.size()
    }
}

fn append(log: &mut Log, (table, name): &Key, value: Option<&Bytes>) -> Result<(), LogError> {
    let mut body = vec![*table];
    body.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
    body.extend_from_slice(name);
    body.extend_from_slice(value.map_or(&[], |value| value));
    let kind = if value.is_some() { PUT } else { REMOVE };
    log.append(&Append { kind, unix_ms: 0, messages: 1, stream: None, channels: &[], body: &body })?;
    Ok(())
}

fn key(body: &mut Bytes) -> Option<Key> {
    let table = body.try_get_u8().ok()?;
    let length = usize::from(body.try_get_u16().ok()?);
    if body.len() < length {
        return None;
    }
    Some((table, Box::from(&body.split_to(length)[..])))
}
