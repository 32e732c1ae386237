//! The streams of publishers as the journal knows them after a restart: for each the number up to
//! which it is durable, and which of these were refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Buf, BufMut, Bytes};
use hpfeeds::wire::extension::{Code, Position, RefusedRange, StreamId};

use super::{batch::Batch, table_log::TableLog};

/// The tables of ends and of refused ranges, and of how far the ends go.
pub(super) const ENDS: u8 = 2;
pub(super) const REFUSED: u8 = 3;
pub(super) const COVERED: u8 = 4;
/// Streams that are kept; of more, those go that were stored the longest time ago.
const MOST: usize = 65_536;
/// Refused ranges of one stream.
pub(super) const RANGES: usize = 64;

/// The name of a stream: the ident of its publisher, as ids are chosen by clients, and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamName {
    pub(crate) id: [u8; 16],
    pub(crate) ident: Box<str>,
}

impl StreamName {
    pub(crate) fn new(id: StreamId, ident: &str) -> Self {
        Self { id: *id.as_bytes(), ident: ident.into() }
    }

    /// Its key in a table: the id, then the ident.
    fn row(&self) -> Vec<u8> {
        [&self.id, self.ident.as_bytes()].concat()
    }

    fn from_row(row: &[u8]) -> Option<Self> {
        let (id, ident) = row.split_first_chunk()?;
        Some(Self { id: *id, ident: std::str::from_utf8(ident).ok()?.into() })
    }
}

/// A stream that the journal knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KnownStream {
    /// Everything up to this number is durable, refused, or was of no mailbox.
    pub(crate) decided: u64,
    pub(crate) refused: Vec<RefusedRange>,
}

/// The ends of streams, as the writer collects them.
#[derive(Debug, Default)]
pub(super) struct StreamEnds {
    /// The last number of each that is durable, and where it stands.
    ends: HashMap<StreamName, (u64, Position)>,
    /// Appended, and not known to be durable.
    coming: Vec<(StreamName, u64, Position)>,
    refused: HashMap<StreamName, Vec<RefusedRange>>,
    /// Streams whose refused ranges, and whose ends, are not in the table yet.
    changed: Vec<StreamName>,
    moved: HashSet<StreamName>,
    covered: Position,
}

impl StreamEnds {
    /// Reads what was stored.
    pub(super) fn load(table: &TableLog) -> Self {
        let mut ends = Self::default();
        for (row, value) in table.rows(ENDS) {
            if let (Some(name), Some(end)) = (StreamName::from_row(row), end(value)) {
                ends.ends.insert(name, end);
            }
        }
        for (row, value) in table.rows(REFUSED) {
            if let Some(name) = StreamName::from_row(row) {
                ends.refused.insert(name, ranges(value));
            }
        }
        let covered = table.rows(COVERED).next().and_then(|(_, value)| end(value));
        ends.covered = covered.map_or(Position::NONE, |(_, position)| position);
        ends
    }

    /// The position after which the journal must be read for streams.
    pub(super) fn covered(&self) -> Position {
        self.covered
    }

    /// A batch is appended.
    pub(super) fn appended(&mut self, batch: &Batch) {
        if let (Some(stream), Some(ident)) = (batch.stream, batch.ident()) {
            self.coming.push((StreamName { id: stream.id, ident: ident.into() }, stream.last, batch.last()));
        }
    }

    /// A range of a stream was refused, and is stored before anything behind it.
    pub(super) fn refused(&mut self, name: &StreamName, range: RefusedRange) {
        let ranges = self.refused.entry(name.clone()).or_default();
        if !ranges.last_mut().is_some_and(|last| lengthen(last, range)) {
            if ranges.len() == RANGES {
                ranges.remove(0);
            }
            ranges.push(range);
        }
        self.changed.push(name.clone());
    }

    /// Whether something was refused that is not in the table yet.
    pub(super) fn has_refused(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Everything up to here is durable.
    pub(super) fn durable(&mut self, position: Position) {
        self.covered = self.covered.max(position);
        let durable = self.coming.partition_point(|(.., at)| *at <= position);
        for (name, last, at) in self.coming.drain(..durable) {
            let end = self.ends.entry(name.clone()).or_default();
            *end = (end.0.max(last), at);
            self.moved.insert(name);
        }
        self.coming.shrink_to(1024);
    }

    /// Puts what has changed into the table.
    pub(super) fn store(&mut self, table: &mut TableLog) {
        for name in self.changed.drain(..) {
            let ranges = self.refused.get(&name).map(|ranges| {
                let mut value = Vec::with_capacity(ranges.len() * 13);
                for range in ranges {
                    value.put_u64(range.first);
                    value.put_u32(range.count);
                    value.put_u8(range.code.0);
                }
                value.into()
            });
            table.put(REFUSED, &name.row(), ranges);
        }
        self.bound(table);
        for name in std::mem::take(&mut self.moved) {
            if let Some((last, at)) = self.ends.get(&name) {
                table.put(ENDS, &name.row(), Some(put_end(*last, *at)));
            }
        }
        if !self.ends.is_empty() {
            table.put(COVERED, &[], Some(put_end(0, self.covered)));
        }
    }

    /// Forgets the streams that were stored the longest time ago.
    fn bound(&mut self, table: &mut TableLog) {
        if self.refused.len() > MOST {
            // Of these nothing was ever stored.
            let ends = &self.ends;
            let gone = self.refused.extract_if(|name, _| !ends.contains_key(name));
            gone.for_each(|(name, _)| table.put(REFUSED, &name.row(), None));
        }
        if self.ends.len() <= MOST {
            return;
        }
        let mut order: BTreeMap<Position, StreamName> =
            self.ends.iter().map(|(name, (_, at))| (*at, name.clone())).collect();
        // Some more than must, so that it is not done each time.
        for _ in 0..self.ends.len() - MOST + MOST / 16 {
            let Some((_, name)) = order.pop_first() else { return };
            self.ends.remove(&name);
            self.refused.remove(&name);
            table.put(ENDS, &name.row(), None);
            table.put(REFUSED, &name.row(), None);
        }
    }

    /// All that is known, for the table of streams of a broker that starts.
    pub(super) fn known(&self) -> HashMap<StreamName, KnownStream> {
        let mut known: HashMap<_, KnownStream> = HashMap::new();
        for (name, (decided, _)) in &self.ends {
            known.entry(name.clone()).or_default().decided = *decided;
        }
        for (name, ranges) in &self.refused {
            known.entry(name.clone()).or_default().refused.clone_from(ranges);
        }
        known
    }
}

/// Lengthens a range by another that follows it for the same reason. `false` if it does not.
pub(super) fn lengthen(last: &mut RefusedRange, range: RefusedRange) -> bool {
    let follows = last.first.checked_add(last.count.into()) == Some(range.first) && last.code == range.code;
    let count = last.count.checked_add(range.count).filter(|_| follows);
    last.count = count.unwrap_or(last.count);
    count.is_some()
}

fn put_end(last: u64, at: Position) -> Bytes {
    let mut value = Vec::with_capacity(24);
    for number in [last, at.epoch, at.number] {
        value.put_u64(number);
    }
    value.into()
}

fn end(mut value: &[u8]) -> Option<(u64, Position)> {
    let last = value.try_get_u64().ok()?;
    let epoch = value.try_get_u64().ok()?;
    Some((last, Position::new(epoch, value.try_get_u64().ok()?)))
}

fn ranges(mut value: &[u8]) -> Vec<RefusedRange> {
    let mut ranges = Vec::new();
    while let (Ok(first), Ok(count), Ok(code)) = (value.try_get_u64(), value.try_get_u32(), value.try_get_u8()) {
        ranges.push(RefusedRange { first, count, code: Code(code) });
    }
    ranges
}
