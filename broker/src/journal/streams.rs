//! The streams of publishers as the journal knows them after a restart: for each the number up to
//! which it is durable, and which of these were refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Buf, BufMut, Bytes};
use hpfeeds::wire::extension::{Code, Position, RefusedRange};

use super::{batch::Batch, table_log::TableLog};

/// The tables of ends and of refused ranges, and of how far the ends go.
pub(super) const ENDS: u8 = 2;
pub(super) const REFUSED: u8 = 3;
pub(super) const COVERED: u8 = 4;
/// Streams that are kept; of more, those go that were stored the longest time ago.
const MOST: usize = 65_536;
/// Refused ranges of one stream.
const RANGES: usize = 64;

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
    ends: HashMap<[u8; 16], (u64, Position)>,
    /// Appended, and not known to be durable.
    coming: Vec<([u8; 16], u64, Position)>,
    refused: HashMap<[u8; 16], Vec<RefusedRange>>,
    /// Streams whose refused ranges, and whose ends, are not in the table yet.
    changed: Vec<[u8; 16]>,
    moved: HashSet<[u8; 16]>,
    covered: Position,
}

impl StreamEnds {
    /// Reads what was stored.
    pub(super) fn load(table: &TableLog) -> Self {
        let mut ends = Self::default();
        for (id, value) in table.rows(ENDS) {
            if let (Ok(id), Some(end)) = (id.try_into(), end(value)) {
                ends.ends.insert(id, end);
            }
        }
        for (id, value) in table.rows(REFUSED) {
            if let Ok(id) = id.try_into() {
                ends.refused.insert(id, ranges(value));
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
        if let Some(stream) = batch.stream {
            self.coming.push((stream.id, stream.last, batch.last()));
        }
    }

    /// A range of a stream was refused, and is stored before anything behind it.
    pub(super) fn refused(&mut self, id: [u8; 16], range: RefusedRange) {
        let ranges = self.refused.entry(id).or_default();
        if ranges.len() == RANGES {
            ranges.remove(0);
        }
        ranges.push(range);
        self.changed.push(id);
    }

    /// Whether something was refused that is not in the table yet.
    pub(super) fn has_refused(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Everything up to here is durable.
    pub(super) fn durable(&mut self, position: Position) {
        self.covered = self.covered.max(position);
        let durable = self.coming.partition_point(|(.., at)| *at <= position);
        for (id, last, at) in self.coming.drain(..durable) {
            let end = self.ends.entry(id).or_default();
            *end = (end.0.max(last), at);
            self.moved.insert(id);
        }
        self.coming.shrink_to(1024);
    }

    /// Puts what has changed into the table.
    pub(super) fn store(&mut self, table: &mut TableLog) {
        for id in self.changed.drain(..) {
            let ranges = self.refused.get(&id).map(|ranges| {
                let mut value = Vec::with_capacity(ranges.len() * 13);
                for range in ranges {
                    value.put_u64(range.first);
                    value.put_u32(range.count);
                    value.put_u8(range.code.0);
                }
                value.into()
            });
            table.put(REFUSED, &id, ranges);
        }
        self.bound(table);
        for id in std::mem::take(&mut self.moved) {
            if let Some((last, at)) = self.ends.get(&id) {
                table.put(ENDS, &id, Some(put_end(*last, *at)));
            }
        }
        if !self.ends.is_empty() {
            table.put(COVERED, &[], Some(put_end(0, self.covered)));
        }
    }

    /// Forgets the streams that were stored the longest time ago.
    fn bound(&mut self, table: &mut TableLog) {
        if self.ends.len() <= MOST {
            return;
        }
        let mut order: BTreeMap<Position, [u8; 16]> = self.ends.iter().map(|(id, (_, at))| (*at, *id)).collect();
        // Some more than must, so that it is not done each time.
        for _ in 0..self.ends.len() - MOST + MOST / 16 {
            let Some((_, id)) = order.pop_first() else { return };
            self.ends.remove(&id);
            self.refused.remove(&id);
            table.put(ENDS, &id, None);
            table.put(REFUSED, &id, None);
        }
    }

    /// All that is known, for the table of streams of a broker that starts.
    pub(super) fn known(&self) -> HashMap<[u8; 16], KnownStream> {
        let mut known: HashMap<_, KnownStream> = HashMap::new();
        for (id, (decided, _)) in &self.ends {
            known.entry(*id).or_default().decided = *decided;
        }
        for (id, ranges) in &self.refused {
            known.entry(*id).or_default().refused.clone_from(ranges);
        }
        known
    }
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
