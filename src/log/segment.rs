//! The segments of a log as writer and readers share them, and the sums of one that is being
//! written or scanned.

use std::collections::VecDeque;

use super::layout::{
    footer::{Footer, IndexEntry},
    header::{DATA, Header},
    record::RecordHeader,
};
use crate::wire::extension::Position;

/// The index has an entry for each MiB.
const STRIDE: u64 = 1 << 20;

/// A segment that can be read.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) header: Header,
    /// Where its records end.
    pub(super) end: u64,
    /// The length of the file.
    pub(super) size: u64,
    /// The highest number that was given to a message of it, one below the first when there is
    /// none.
    pub(super) last: u64,
    /// The newest time of a record, `i64::MIN` without one.
    pub(super) newest: i64,
    /// Offset and first number of one record in each MiB.
    pub(super) index: Vec<(u64, u64)>,
}

impl Segment {
    /// The position of its last message.
    pub(super) fn last(&self) -> Position {
        Position::new(self.header.epoch, self.last)
    }

    /// Where to look for the message with a number: an offset, and a number that the record there
    /// has at least.
    pub(super) fn seek(&self, number: u64) -> (u64, u64) {
        let after = self.index.partition_point(|&(_, first)| first <= number);
        after.checked_sub(1).map_or((DATA, self.header.first), |at| self.index[at])
    }
}

/// The state that writer and readers share.
#[derive(Debug)]
pub(super) struct Shared {
    /// In the order of their positions.
    pub(super) list: VecDeque<Segment>,
    /// Whether the last one is still written to.
    pub(super) is_open: bool,
    /// The epoch of what is appended.
    pub(super) epoch: u64,
    /// The number of the last message of this epoch that is durable, and of the last that is
    /// written.
    pub(super) durable: u64,
    pub(super) written: u64,
}

impl Shared {
    /// The files' lengths together.
    pub(super) fn size(&self) -> u64 {
        self.list.iter().map(|segment| segment.size).sum()
    }

    /// The segments that are not written to any more.
    pub(super) fn sealed(&self) -> usize {
        self.list.len() - usize::from(self.is_open)
    }
}

/// The sums of a segment, from which its footer is made.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    pub(super) last: u64,
    messages: u64,
    last_record: u64,
    newest: i64,
    index: Vec<IndexEntry>,
}

impl Sums {
    pub(super) fn new(first: u64) -> Self {
        Self { last: first - 1, messages: 0, last_record: 0, newest: i64::MIN, index: Vec::new() }
    }

    /// Adds a record whose messages are of these channels, or of some that are not known.
    pub(super) fn add<'a>(
        &mut self,
        offset: u64,
        header: &RecordHeader,
        channels: impl IntoIterator<Item = (&'a str, u32)>,
    ) {
        self.last = header.last();
        self.messages += u64::from(header.messages);
        self.last_record = offset;
        self.newest = self.newest.max(header.unix_ms);
        let is_new = self.index.last().is_none_or(|entry| offset - entry.offset >= STRIDE);
        if is_new {
            self.index.push(IndexEntry { offset, first: header.first, ..IndexEntry::default() });
        }
        let Some(entry) = self.index.last_mut() else { return };
        let mut rest = u64::from(header.messages);
        for (channel, messages) in channels {
            let messages = u64::from(messages).min(rest);
            rest -= messages;
            entry.count(channel, messages);
        }
        entry.others += rest;
    }

    /// Knows of a record that cannot be read: its numbers are used up.
    pub(super) fn add_damaged(&mut self, header: &RecordHeader) {
        self.last = self.last.max(header.last());
    }

    /// Brings what readers know of the segment up to date.
    pub(super) fn update(&self, segment: &mut Segment) {
        segment.last = self.last;
        segment.newest = self.newest;
        let known = segment.index.len();
        segment.index.extend(self.index.iter().skip(known).map(|entry| (entry.offset, entry.first)));
    }

    pub(super) fn into_footer(self, header: Header) -> Footer {
        Footer {
            header,
            last: self.last,
            messages: self.messages,
            last_record: self.last_record,
            newest: self.newest,
            index: self.index,
        }
    }
}

/// The segment that a footer is about.
pub(super) fn segment(name: String, footer: &Footer, end: u64, size: u64) -> Segment {
    Segment {
        name,
        header: footer.header,
        end,
        size,
        last: footer.last,
        newest: footer.newest,
        index: footer.index.iter().map(|entry| (entry.offset, entry.first)).collect(),
    }
}
