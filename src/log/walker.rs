//! The walker over the records of a segment: it reads them in windows, skips what is damaged, and
//! advances at each step.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    disk::File,
    layout::{
        header::Header,
        record::{Place, RECORD, RecordHeader, SYNC},
    },
};

/// So much is read at once, and more for a longer record.
pub(super) const WINDOW: u64 = 256 << 10;
/// The bytes that are passed over at once where the disk cannot read.
const BLOCK: u64 = 4096;

/// The next thing in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A whole record: its header and all its bytes.
    Record { offset: u64, header: RecordHeader, bytes: Bytes },
    /// A header that is good, of a record that is not, or that does not end inside the file.
    Damaged { offset: u64, header: RecordHeader },
    /// Bytes in which no record begins.
    Skipped { offset: u64, length: u64 },
    /// The end of the file, or the record that has the number of the bound.
    End,
}

/// Reads a segment from one offset to another.
#[derive(Debug)]
pub(super) struct Walker {
    file: Arc<dyn File>,
    header: Header,
    /// Where the next record is looked for.
    offset: u64,
    /// Where the file, or what is written of it, ends.
    pub(super) end: u64,
    /// No record has a lower number.
    expected: u64,
    /// Records from this number on are not read.
    pub(super) bound: u64,
    /// Bytes of the file, and where the first of them stands.
    window: Bytes,
    window_at: u64,
}

impl Walker {
    /// Reads from `offset`, where a record with the number `first` or a higher one stands, to
    /// `end`.
    pub(super) fn new(file: Arc<dyn File>, header: Header, offset: u64, first: u64, end: u64) -> Self {
        let window = Bytes::new();
        Self { file, header, offset, end, expected: first, bound: u64::MAX, window, window_at: 0 }
    }

    /// The segment's header.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next step. After an error of the disk the same step can be tried again, or
    /// [`pass`](Self::pass)ed.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let start = self.offset;
        loop {
            match self.header_at(self.offset)? {
                Some(header) if header.first >= self.bound && self.offset == start => return Ok(Step::End),
                // The skipped part is told first; the header is found again.
                Some(_) if self.offset > start => {
                    return Ok(Step::Skipped { offset: start, length: self.offset - start });
                }
                Some(header) => return self.record(header),
                None if self.offset >= self.end => {
                    let length = self.offset - start;
                    return Ok(if length > 0 { Step::Skipped { offset: start, length } } else { Step::End });
                }
                None => self.resync()?,
            }
        }
    }

    /// Passes over a block that cannot be read.
    pub(super) fn pass(&mut self) {
        let block = (self.offset / BLOCK + 1) * BLOCK;
        self.offset = block.min(self.end.max(self.offset));
    }

    fn record(&mut self, header: RecordHeader) -> io::Result<Step> {
        let offset = self.offset;
        let total = header.total();
        let bytes = if total <= self.end - offset { self.bytes(offset, total)? } else { None };
        self.expected = header.last() + 1;
        let Some(bytes) = bytes else {
            self.offset += RECORD as u64;
            return Ok(Step::Damaged { offset, header });
        };
        self.offset += total;
        Ok(if header.is_whole(&bytes) {
            Step::Record { offset, header, bytes }
        } else {
            Step::Damaged { offset, header }
        })
    }

    /// The header of a record at `offset`, if one stands there that follows those before.
    fn header_at(&mut self, offset: u64) -> io::Result<Option<RecordHeader>> {
        let place = Place { file: self.header.file, epoch: self.header.epoch, offset };
        let Some(bytes) = self.bytes(offset, RECORD as u64)? else { return Ok(None) };
        Ok(RecordHeader::parse(&bytes, &place).filter(|header| header.first >= self.expected))
    }

    /// Goes to the next sync word, or to the end.
    fn resync(&mut self) -> io::Result<()> {
        let mut from = self.offset + 1;
        while from + RECORD as u64 <= self.end {
            // An error of the disk does not bring back what is behind.
            self.offset = from;
            let Some(bytes) = self.bytes(from, RECORD as u64)? else { break };
            // All of the window from here.
            let start = usize::try_from(from - self.window_at).unwrap_or(usize::MAX);
            let window = self.window.get(start..).unwrap_or(&bytes);
            if let Some(found) = window.windows(SYNC.len()).position(|word| word == SYNC) {
                self.offset = from + found as u64;
                return Ok(());
            }
            from += (window.len() - (SYNC.len() - 1)) as u64;
        }
        self.offset = self.end;
        Ok(())
    }

    /// Bytes of the file; `None` where it ends before.
    fn bytes(&mut self, offset: u64, length: u64) -> io::Result<Option<Bytes>> {
        if offset.checked_add(length).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        let held = |window: &Bytes, at: u64| {
            let start = usize::try_from(offset.checked_sub(at)?).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= window.len()).then(|| window.slice(start..end))
        };
        if let Some(bytes) = held(&self.window, self.window_at) {
            return Ok(Some(bytes));
        }
        let wanted = length.max(WINDOW).min(self.end - offset);
        let mut window = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
        let read = match self.file.read_at(&mut window, offset) {
            // One block of many may be the bad one.
            Err(_) if wanted > length.max(BLOCK) => {
                let block = length.max((offset / BLOCK + 1) * BLOCK - offset);
                window.truncate(usize::try_from(block).map_err(io::Error::other)?);
                self.file.read_at(&mut window, offset)?
            }
            result => result?,
        };
        window.truncate(read);
        if (read as u64) < length {
            // Somebody has cut the file.
            self.end = offset + read as u64;
        }
        (self.window, self.window_at) = (window.into(), offset);
        Ok(held(&self.window, self.window_at))
    }
}
