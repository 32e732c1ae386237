//! The writer of a log: appends records, makes them durable in groups, and survives a sync that
//! fails.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    cursor::Cursor,
    disk::{Disk, Entry, File, Guard},
    error::{LogError, is_full},
    layout::{
        LIMIT,
        header::{DATA, Header},
        record::{MAX_BODY, Place, RECORD, RecordHeader, StreamEnd, encode},
    },
    segment::{Shared, Sums},
};
use crate::wire::extension::Position;

/// So much is appended in memory before it is written.
const WRITE: usize = 256 << 10;

/// The policy of a log that holds as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segments go, consumed or not; what was not is counted.
    DropOldest,
    /// Appending is an error.
    Refuse,
}

/// The settings of a log.
#[derive(Debug, Clone)]
#[must_use]
pub struct LogOptions {
    pub(super) segment: u64,
    pub(super) limit: u64,
    pub(super) unsynced: usize,
    pub(super) when_full: WhenFull,
    pub(super) keep_consumed: bool,
}

impl Default for LogOptions {
    /// Segments of 16 MiB, 256 MiB in all, of which the oldest go; at most 8 MiB that are not
    /// durable.
    fn default() -> Self {
        Self {
            segment: 16 << 20,
            limit: 256 << 20,
            unsynced: 8 << 20,
            when_full: WhenFull::DropOldest,
            keep_consumed: false,
        }
    }
}

impl LogOptions {
    /// The size in bytes at which a new segment is begun; a quarter of the limit at most.
    pub fn segment_bytes(self, segment: u64) -> Self {
        Self { segment, ..self }
    }

    /// All files together, in bytes; half of the file system at most.
    pub fn max_bytes(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// The records that are kept in memory as they are not durable, in bytes: when there is more, appending
    /// syncs.
    pub fn max_unsynced(self, unsynced: usize) -> Self {
        Self { unsynced, ..self }
    }

    /// The policy at the limit.
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Self { when_full, ..self }
    }

    /// Keep what is consumed until the limit: for a journal, whose cursors may go back.
    pub fn keep_consumed(self, keep_consumed: bool) -> Self {
        Self { keep_consumed, ..self }
    }
}

/// A record to append.
#[derive(Debug, Clone, Copy)]
pub struct Append<'a> {
    /// The kind of the body; 0: PUBLISH frames.
    pub kind: u16,
    /// The time, in milliseconds since 1970.
    pub unix_ms: i64,
    /// The messages in the body, at least one.
    pub messages: u32,
    /// The stream that they belong to.
    pub stream: Option<StreamEnd>,
    /// How many of them are of which channel, for the index; may be left empty.
    pub channels: &'a [(&'a str, u32)],
    /// The body, at most 1 GiB.
    pub body: &'a [u8],
}

/// The kind of records whose bodies are PUBLISH frames.
pub const FRAMES: u16 = 0;

/// The writing half of a log, of which there is one; it holds the lock of the folder.
///
/// All calls block. Appended records stand in memory until 256 KiB are there or
/// [`write`](Self::write) or [`sync`](Self::sync) is called, and is kept there until it is durable.
/// Dropping it writes nothing.
#[derive(Debug)]
pub struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) _guard: Guard,
    pub(super) options: LogOptions,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) cursor: Cursor,
    /// Files whose content cannot be told; the first to go.
    pub(super) bad: Vec<Entry>,
    pub(super) epoch: u64,
    /// The number of the next message.
    pub(super) next: u64,
    pub(super) current: Option<Current>,
    /// Records that are not durable, as they stand at the end of the current segment.
    pub(super) kept: Vec<u8>,
    /// How many bytes of them are written.
    pub(super) written: usize,
    /// Writes and syncs that have failed since the last good one.
    pub(super) failures: u32,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    /// Where `kept` begins.
    pub(super) offset: u64,
    /// Whether its name is durable.
    pub(super) is_named: bool,
    pub(super) sums: Sums,
}

impl Current {
    pub(super) fn place(&self, offset: u64) -> Place {
        Place { file: self.header.file, epoch: self.header.epoch, offset }
    }
}

impl Log {
    /// Appends a record and returns the position of its last message, which is not durable before
    /// [`sync`](Self::sync) says so.
    ///
    /// After an error the record is not appended; calling again may work, unless it is
    /// [`LogError::Failed`].
    pub fn append(&mut self, record: &Append<'_>) -> Result<Position, LogError> {
        let last = self.next.checked_add(u64::from(record.messages)).filter(|&next| next < LIMIT);
        let (Some(next), Ok(length)) = (last, u32::try_from(record.body.len())) else { return Err(LogError::Unfit) };
        if record.messages == 0 || record.body.len() > MAX_BODY {
            return Err(LogError::Unfit);
        }
        let stream = record.stream.is_some();
        let header = RecordHeader::new(self.next, record.messages, record.unix_ms, record.kind, stream, length);
        self.check()?;
        if self.current.as_ref().is_some_and(|current| {
            let end = current.offset + self.kept.len() as u64;
            end > DATA && end + header.total() > self.options.segment
        }) {
            self.seal()?;
        }
        self.make_room(header.total())?;
        let total = usize::try_from(header.total()).map_err(|_| LogError::Unfit)?;
        if !self.kept.is_empty() && self.kept.len() + total > self.options.unsynced {
            self.sync()?;
        } else if self.kept.len() - self.written >= WRITE {
            self.write()?;
        }
        match self.current {
            Some(_) => {}
            None if self.kept.is_empty() => self.begin(self.next, record.unix_ms)?,
            // The kept records come first: no segment could be begun for it yet.
            None => self.begin_again()?,
        }
        let Some(current) = &mut self.current else { return Err(LogError::Failed) };
        let offset = current.offset + self.kept.len() as u64;
        encode(&mut self.kept, &header, &current.place(offset), record.stream, record.body);
        current.sums.add(offset, &header, record.channels.iter().copied());
        self.next = next;
        Ok(self.last())
    }

    /// The position of the last message that was appended, or of the last one before this epoch
    /// began.
    #[must_use]
    pub fn last(&self) -> Position {
        Position::new(self.epoch, self.next - 1)
    }

    /// The position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position::new(self.epoch, self.shared.lock().durable)
    }

    /// Writes to the file what stands in memory, so that it survives this process, and can be read.
    /// Returns up to where.
    pub fn write(&mut self) -> Result<Position, LogError> {
        self.check()?;
        while self.written < self.kept.len() {
            if self.current.is_none() {
                self.begin_again()?;
            }
            let Some(current) = &self.current else { return Err(LogError::Failed) };
            let offset = current.offset + self.written as u64;
            match current.file.write_at(&self.kept[self.written..], offset) {
                Ok(()) => self.written = self.kept.len(),
                Err(error) if is_full(&error) => {
                    if !self.drop_for_space() {
                        return Err(LogError::NoSpace);
                    }
                }
                Err(error) => self.give_up(error)?,
            }
        }
        self.publish(false);
        Ok(self.last())
    }

    /// Makes everything durable that was appended, and returns up to where: the group commit of all
    /// appends before.
    ///
    /// A failed sync is not tried again on the same file, as the system may have thrown away what
    /// it could not write: what is not durable is written to a new segment, once. After
    /// [`LogError::NoSpace`] calling it again tries again.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        while !self.kept.is_empty() {
            self.write()?;
            if let Err(error) = self.sync_current() {
                self.give_up(error)?;
                continue;
            }
            let Some(current) = &mut self.current else { return Err(LogError::Failed) };
            current.offset += self.kept.len() as u64;
            self.failures = 0;
            self.written = 0;
            self.clear_kept();
            self.publish(true);
        }
        self.check()?;
        Ok(self.last())
    }

    /// Memory that half as much would have done for is given back by halves: a burst does not keep
    /// it for ever, and a log that goes on as before does not ask for it again each time.
    fn clear_kept(&mut self) {
        let (used, capacity) = (self.kept.len(), self.kept.capacity());
        self.kept.clear();
        if used < capacity / 2 {
            self.kept.shrink_to((capacity / 2).max(2 * WRITE));
        }
    }

    /// Data first, then the name: a name without data is an empty segment, data without a name is
    /// nothing.
    fn sync_current(&mut self) -> std::io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.file.sync()?;
        if !current.is_named {
            self.disk.sync_dir()?;
            current.is_named = true;
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.failures >= 2 { Err(LogError::Failed) } else { Ok(()) }
    }

    /// Lets readers see what is written.
    fn publish(&self, durable: bool) {
        let Some(current) = &self.current else { return };
        let mut shared = self.shared.lock();
        shared.written = self.next - 1;
        if durable {
            shared.durable = self.next - 1;
        }
        let Some(segment) = shared.list.back_mut() else { return };
        segment.end = current.offset + self.written as u64;
        segment.size = segment.end;
        current.sums.update(segment);
    }

    /// Rewrites the records that are kept for a segment that they are moved to, and returns its
    /// sums.
    pub(super) fn rebind(kept: &mut [u8], header: &Header) -> Sums {
        let (mut sums, mut at) = (Sums::new(header.first), 0);
        while let Some(record) = RecordHeader::parse_unbound(&kept[at..]) {
            let place = Place { file: header.file, epoch: header.epoch, offset: DATA + at as u64 };
            kept[at..at + RECORD].copy_from_slice(&record.encode(&place));
            sums.add(place.offset, &record, []);
            at += usize::try_from(record.total()).unwrap_or(usize::MAX);
        }
        sums
    }
}
