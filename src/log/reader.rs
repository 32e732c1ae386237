//! The reader of a log: from a position on, records as they are, and how many messages are lost
//! between them.

use std::{io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    disk::Disk,
    layout::{header::Header, record::StreamEnd},
    segment::{Segment, Shared},
    walker::{Step, WINDOW, Walker},
    writer::Log,
};
use crate::wire::extension::Position;

/// How far a reader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To what is durable: a power cut takes nothing back that was read.
    Durable,
    /// To what is written: it may vanish in a power cut, and comes back under no position with
    /// other contents.
    Written,
}

/// An item that a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record(Record),
    /// Messages that are not there.
    Lost(Lost),
}

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The position of its first message.
    pub first: Position,
    /// Its messages.
    pub messages: u32,
    /// How many of them, at its front, are not wanted: the reader was set into the middle of the
    /// record.
    pub skip: u32,
    /// The time, in milliseconds since 1970.
    pub unix_ms: i64,
    /// The kind of the body; 0: PUBLISH frames.
    pub kind: u16,
    /// The stream that its messages belong to.
    pub stream: Option<StreamEnd>,
    /// The body, a part of what was read at once.
    pub body: Bytes,
}

impl Record {
    /// The position of its last message.
    #[must_use]
    pub fn last(&self) -> Position {
        Position::new(self.first.epoch, self.first.number + u64::from(self.messages) - 1)
    }
}

/// Messages that nobody can read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The position before them.
    pub after: Position,
    /// The number of the last of them.
    pub last: u64,
    /// Whether they were dropped at the limit or as too old; otherwise they are damaged.
    pub dropped: bool,
}

impl Lost {
    /// How many there are.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.last - self.after.number
    }
}

/// A reading half of a log. There may be any number, on other threads, too; each holds at most one
/// open file and 256 KiB, or one longer record.
#[derive(Debug)]
pub struct Reader {
    disk: Arc<dyn Disk>,
    shared: Arc<Mutex<Shared>>,
    extent: Extent,
    /// The last message that was read, or is lost.
    at: Position,
    /// Whether messages before the oldest are lost, or were never asked for.
    is_set: bool,
    walker: Option<Walker>,
    /// Its segment may have been named otherwise by hand: it cannot be opened, and is passed over.
    gone: Option<[u8; 16]>,
}

/// A handle that makes readers on other threads than the log's.
#[derive(Debug, Clone)]
pub struct ReaderSource {
    disk: Arc<dyn Disk>,
    shared: Arc<Mutex<Shared>>,
}

impl ReaderSource {
    /// As [`Log::reader`]; what is not written yet does not exist here.
    #[must_use]
    pub fn reader(&self, after: Position, extent: Extent) -> Reader {
        let shared = self.shared.lock();
        let last = Position::new(shared.epoch, shared.written);
        drop(shared);
        Reader {
            disk: Arc::clone(&self.disk),
            shared: Arc::clone(&self.shared),
            extent,
            at: after.min(last),
            is_set: after != Position::NONE,
            walker: None,
            gone: None,
        }
    }
}

impl Log {
    /// The source of readers for other threads.
    #[must_use]
    pub fn readers(&self) -> ReaderSource {
        ReaderSource { disk: Arc::clone(&self.disk), shared: Arc::clone(&self.shared) }
    }

    /// A reader of what comes after a position, which is clamped into what exists. From
    /// [`Position::NONE`] it begins with the oldest; from any other one, what is not there any
    /// more is told as lost.
    #[must_use]
    pub fn reader(&self, after: Position, extent: Extent) -> Reader {
        Reader {
            disk: Arc::clone(&self.disk),
            shared: Arc::clone(&self.shared),
            extent,
            at: after.min(self.last()),
            is_set: after != Position::NONE,
            walker: None,
            gone: None,
        }
    }
}

/// A segment as it is at this moment, for a reader.
struct View {
    segment: Segment,
    /// Records from this number on are another segment's, or not there yet.
    bound: u64,
    /// The header of the segment behind it.
    next: Option<Header>,
    is_oldest: bool,
    is_open: bool,
}

impl Reader {
    /// The position up to which it has read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next items, about 256 KiB of them; none when there are none at the moment.
    ///
    /// An error is one of the disk: the same can be read again, or [`pass`](Self::pass)ed over.
    pub fn read(&mut self) -> io::Result<Vec<Item>> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while bytes < WINDOW {
            let Some(view) = self.view() else { break };
            if !self.enter(&view, &mut items)? {
                continue;
            }
            match self.walk(&view, &mut items, &mut bytes) {
                Ok(true) => {}
                Err(error) if items.is_empty() => return Err(error),
                // Items that were read before an error are not read again.
                Ok(false) | Err(_) => break,
            }
        }
        Ok(items)
    }

    /// Passes over the 4 KiB that cannot be read; what was there is told as lost.
    pub fn pass(&mut self) {
        if let Some(walker) = &mut self.walker {
            walker.pass();
        }
    }

    /// The segment that is being read, if it is still there, or else the one with what comes next.
    fn view(&mut self) -> Option<View> {
        let shared = self.shared.lock();
        let list = &shared.list;
        let file = self.walker.as_ref().map(|walker| walker.header().file);
        let open = file.and_then(|file| list.iter().position(|segment| segment.header.file == file));
        if open.is_none() {
            self.walker = None;
        }
        let is_next = |segment: &Segment| segment.last() > self.at && Some(segment.header.file) != self.gone;
        let index = open.or_else(|| list.iter().position(is_next))?;
        let segment = list[index].clone();
        let next = list.get(index + 1).map(|next| next.header);
        let of_epoch = next.filter(|next| next.epoch == segment.header.epoch);
        let mut bound = of_epoch.map_or(u64::MAX, |next| next.first);
        if segment.header.epoch == shared.epoch {
            let limit = match self.extent {
                Extent::Durable => shared.durable,
                Extent::Written => shared.written,
            };
            bound = bound.min(limit + 1);
        }
        let is_open = shared.is_open && index + 1 == list.len();
        Some(View { segment, bound, next, is_oldest: index == 0, is_open })
    }

    /// Opens the segment, and counts what is missing before it. Returns whether it can be read.
    fn enter(&mut self, view: &View, items: &mut Vec<Item>) -> io::Result<bool> {
        let header = &view.segment.header;
        if let Some(walker) = &mut self.walker {
            walker.end = view.segment.end;
            walker.bound = view.bound;
            return Ok(true);
        }
        if !self.is_set || (self.at.epoch < header.epoch && self.at.number >= header.first) {
            // The rest of an older epoch vanished with it.
            self.at = Position::new(header.epoch, header.first - 1);
        }
        self.is_set = true;
        let before = Position::new(header.epoch, header.first - 1);
        self.lose(before, view.is_oldest, items);
        let file = match self.disk.open(&view.segment.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Dropped at this moment, or by somebody else.
                self.gone = Some(header.file);
                return Ok(false);
            }
            file => file?,
        };
        let (offset, first) = view.segment.seek(self.at.number + 1);
        let mut walker = Walker::new(file.into(), *header, offset, first, view.segment.end);
        walker.bound = view.bound;
        self.walker = Some(walker);
        Ok(true)
    }

    /// Reads until the window is full, or the segment ends. Returns whether another segment
    /// follows.
    fn walk(&mut self, view: &View, items: &mut Vec<Item>, bytes: &mut u64) -> io::Result<bool> {
        while *bytes < WINDOW {
            let Some(walker) = &mut self.walker else { return Ok(true) };
            match walker.step()? {
                Step::Record { header, .. } if header.last() <= self.at.number => {}
                Step::Record { header, bytes: record, .. } => {
                    let epoch = view.segment.header.epoch;
                    let before = Position::new(epoch, header.first - 1);
                    self.lose(before, false, items);
                    let skip = u32::try_from(self.at.number - before.number.min(self.at.number)).unwrap_or(u32::MAX);
                    self.at = Position::new(epoch, header.last());
                    *bytes += header.total();
                    items.push(Item::Record(Record {
                        first: Position::new(epoch, header.first),
                        messages: header.messages,
                        skip,
                        unix_ms: header.unix_ms,
                        kind: header.kind,
                        stream: header.stream(&record),
                        body: record.slice(header.body_range()),
                    }));
                }
                Step::Damaged { .. } | Step::Skipped { .. } => {}
                Step::End => return Ok(self.leave(view, items)),
            }
        }
        Ok(true)
    }

    /// At the end of a segment: what is missing there is counted when it is known. Returns whether
    /// another follows.
    fn leave(&mut self, view: &View, items: &mut Vec<Item>) -> bool {
        if view.is_open {
            return false;
        }
        let Segment { header, last, .. } = &view.segment;
        let last = view.next.filter(|next| next.epoch == header.epoch).map_or(*last, |next| next.first - 1);
        self.lose(Position::new(header.epoch, last), false, items);
        if view.next.is_none() {
            return false;
        }
        self.walker = None;
        true
    }

    /// Goes to a position, and tells what was not read before it.
    fn lose(&mut self, to: Position, dropped: bool, items: &mut Vec<Item>) {
        if to.number > self.at.number {
            items.push(Item::Lost(Lost { after: self.at, last: to.number, dropped }));
            self.at = to;
        } else if to.epoch > self.at.epoch {
            self.at.epoch = to.epoch;
        }
    }
}
