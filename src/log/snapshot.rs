//! A snapshot of a log: its records as they are at this moment, read beside the program that uses
//! it, without its lock and without a change.

use std::io;

use super::{
    cursor::Stored,
    disk::Disk,
    error::LogError,
    layout::{
        header::{DATA, Header},
        name::CURSOR,
    },
    open::{Candidate, Folder, look},
    reader::{Lost, Record},
    recovery,
    walker::{Step, Walker},
};
use crate::wire::extension::Position;

/// How often the folder is looked at again when a file of it goes meanwhile.
const TRIES: u32 = 10;

/// The files of a log, held open: what is removed from the folder meanwhile can still be read.
#[derive(Debug)]
pub struct Snapshot(Folder);

/// An item of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The beginning of a segment; whether it has a footer that fits. The last one has none while it
    /// is written to, or when its program was killed.
    Segment {
        /// Whether nothing will be appended.
        is_sealed: bool,
    },
    /// A record, with messages that the cursor is past in its `skip`.
    Record(Record),
    /// Messages that are not there, between two records.
    Lost(Lost),
    /// Bytes that are no records.
    Damage(Damage),
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The offset in it.
    pub offset: u64,
    /// The bytes that cannot be read as records.
    pub length: u64,
    /// Whether it is the end of the segment that was written to last: a record that is being
    /// written, or was when its program was killed or the power failed. Nothing in it was durable.
    pub is_tail: bool,
}

impl Snapshot {
    /// Looks at a folder.
    pub fn take(disk: &dyn Disk) -> Result<Self, LogError> {
        let mut tries = 0;
        loop {
            match look(disk) {
                // A segment was released between the list and its opening.
                Err(LogError::Io(error)) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                folder => return Ok(Self(folder?)),
            }
        }
    }

    /// The position up to which everything is consumed, as it was last stored: a program that runs
    /// may be further.
    #[must_use]
    pub fn cursor(&self) -> Option<Position> {
        match self.0.cursor {
            Stored::Slot(slot) => Some(Position::new(slot.epoch, slot.number)),
            Stored::None | Stored::Lost | Stored::Newer(_) => None,
        }
    }

    /// At most so many messages were dropped for room and not consumed, ever.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        if let Stored::Slot(slot) = self.0.cursor { slot.lost } else { 0 }
    }

    /// The bytes of segments, and of files that were set aside.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let segments = self.0.segments.iter().map(|(_, candidate)| candidate.length);
        let headless = self.0.headless.iter().map(|candidate| candidate.length);
        segments.chain(headless).chain(self.0.bad.iter().map(|bad| bad.length)).sum()
    }

    /// Everything that is found, in order; damage that has no place among the records comes first.
    pub fn findings(&self) -> impl Iterator<Item = Finding> {
        let folder = &self.0;
        let cursor_file = matches!(folder.cursor, Stored::Lost).then(|| damage(CURSOR, 0, 0));
        let headless = folder.headless.iter().filter(|file| file.length > DATA);
        let headless = headless.map(|file| damage(&file.name, 0, file.length));
        let bad = folder.bad.iter().map(|bad| damage(&bad.name, 0, bad.length));
        let mut previous = None;
        let cursor = self.cursor().unwrap_or(Position::NONE);
        let segments = (0..folder.segments.len()).flat_map(move |at| {
            let header = |at: usize| (folder.segments[at].0.epoch, folder.segments[at].0.first);
            let is_copy = at > 0 && header(at) == header(at - 1);
            let walk = (!is_copy).then(|| Walk::new(&folder.segments[at..], cursor));
            let copy = is_copy.then(|| &folder.segments[at].1).map(|copy| damage(&copy.name, 0, copy.length));
            copy.map(Finding::Damage).into_iter().chain(walk.into_iter().flatten())
        });
        let segments = segments.flat_map(move |finding| {
            let gap = finding.gap_after(&mut previous).map(Finding::Lost);
            gap.into_iter().chain([finding])
        });
        cursor_file.into_iter().chain(headless).chain(bad).map(Finding::Damage).chain(segments)
    }
}

fn damage(file: &str, offset: u64, length: u64) -> Damage {
    Damage { file: file.to_owned(), offset, length, is_tail: false }
}

impl Finding {
    /// The messages that are missing before this record, whose predecessor is `last`.
    fn gap_after(&self, last: &mut Option<u64>) -> Option<Lost> {
        let Self::Record(record) = self else { return None };
        let before = last.replace(record.last().number)?;
        let after = Position::new(record.first.epoch, before);
        (record.first.number - 1 > before).then_some(Lost { after, last: record.first.number - 1, dropped: false })
    }
}

/// The walk over one segment.
struct Walk<'a> {
    candidate: &'a Candidate,
    header: Header,
    walker: Walker,
    cursor: Position,
    end: u64,
    /// Whether it is the last segment and has no footer.
    may_have_tail: bool,
    /// Where the next record, or damage, begins.
    from: u64,
    /// Not told yet.
    segment: Option<Finding>,
    is_over: bool,
}

impl<'a> Walk<'a> {
    /// Of the first of these segments.
    fn new(segments: &'a [(Header, Candidate)], cursor: Position) -> Self {
        let (header, candidate) = &segments[0];
        let footer = recovery::footer(&*candidate.file, header, candidate.length);
        let is_sealed = footer.is_some();
        let end = footer.map_or(candidate.length, |(_, start)| start);
        let mut walker = Walker::new(candidate.file.clone(), *header, DATA, header.first, end);
        // A copy of this one bounds nothing.
        let next = segments.iter().map(|(next, _)| next).find(|next| next.first != header.first);
        let next = next.filter(|next| next.epoch == header.epoch);
        walker.bound = next.map_or(u64::MAX, |next| next.first);
        Self {
            candidate,
            header: *header,
            walker,
            cursor,
            end,
            may_have_tail: !is_sealed && segments.len() == 1,
            from: DATA,
            segment: Some(Finding::Segment { is_sealed }),
            is_over: false,
        }
    }

    fn damage(&self, offset: u64, length: u64) -> Finding {
        let is_tail = self.may_have_tail && offset + length >= self.end;
        Finding::Damage(Damage { is_tail, ..damage(&self.candidate.name, offset, length) })
    }
}

impl Iterator for Walk<'_> {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        if let Some(segment) = self.segment.take() {
            return Some(segment);
        }
        if self.is_over {
            return None;
        }
        match self.walker.step() {
            Ok(Step::Record { offset, header, bytes }) => {
                self.from = offset + header.total();
                let first = Position::new(self.header.epoch, header.first);
                // Positions of older epochs have lower numbers, too.
                let consumed = self.cursor.number.saturating_sub(header.first - 1);
                Some(Finding::Record(Record {
                    first,
                    messages: header.messages,
                    skip: u32::try_from(consumed).unwrap_or(u32::MAX).min(header.messages),
                    unix_ms: header.unix_ms,
                    kind: header.kind,
                    stream: header.stream(&bytes),
                    body: bytes.slice(header.body_range()),
                }))
            }
            Ok(Step::Damaged { offset, header }) => {
                self.from = self.end.min(offset + header.total());
                Some(self.damage(offset, self.from - offset))
            }
            Ok(Step::Skipped { offset, length }) => {
                self.from = offset + length;
                Some(self.damage(offset, length))
            }
            Ok(Step::End) => {
                self.is_over = true;
                None
            }
            Err(_) => {
                self.walker.pass();
                Some(self.damage(self.from, 0))
            }
        }
    }
}
