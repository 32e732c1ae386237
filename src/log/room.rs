//! The room of a log: what is consumed goes, and at the limit the oldest, counted.

use super::{
    disk::Entry,
    error::{LogError, is_full},
    layout::header::DATA,
    segment::Segment,
    writer::{Log, WhenFull},
};
use crate::wire::extension::Position;

/// The oldest segment that is not appended to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// The position before its first message.
    pub after: Position,
    /// The position of its last message.
    pub last: Position,
    /// The newest time of a record, in milliseconds since 1970; `i64::MIN` without one.
    pub newest_ms: i64,
    /// The length of its file in bytes.
    pub bytes: u64,
}

impl Log {
    /// Everything up to here is consumed. Whole segments before it are removed, after the cursor is
    /// durable, unless the log keeps them. Without such a segment nothing is written: see
    /// [`store_cursor`](Self::store_cursor).
    pub fn consume(&mut self, to: Position) -> Result<(), LogError> {
        self.advance(to);
        self.release()
    }

    /// As [`consume`](Self::consume), in memory alone: nothing is written or removed before that is
    /// called, with the same position or a later one.
    pub fn advance(&mut self, to: Position) {
        let to = Position::new(to.epoch, to.number.min(self.next - 1));
        self.cursor.advance(to.min(self.last()));
    }

    /// Makes the cursor durable.
    pub fn store_cursor(&mut self) -> Result<(), LogError> {
        Ok(self.cursor.store(&*self.disk)?)
    }

    /// The position up to which everything is consumed.
    #[must_use]
    pub fn cursor(&self) -> Position {
        self.cursor.position()
    }

    /// The messages that were dropped at the limit and had not been consumed, at most, since the
    /// log exists; durable with the cursor.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.cursor.lost()
    }

    /// The bytes of all files, and of what is not written yet.
    #[must_use]
    pub fn size(&self) -> u64 {
        let bad: u64 = self.bad.iter().map(|bad| bad.length).sum();
        self.shared.lock().size() + bad + (self.kept.len() - self.written) as u64
    }

    /// Removes the segment that is appended to as well, when everything is consumed and durable: so
    /// a log that is drained is empty.
    pub fn trim(&mut self) -> Result<(), LogError> {
        let is_drained = self.kept.is_empty() && self.cursor() >= self.last() && !self.options.keep_consumed;
        if is_drained && self.current.as_ref().is_some_and(|current| current.offset > DATA) {
            self.seal()?;
        }
        self.release()
    }

    /// Drops the segments whose newest record is older than this time in milliseconds since 1970,
    /// and counts what of them was not consumed. The segment that is appended to stays.
    pub fn drop_before(&mut self, unix_ms: i64) -> Result<(), LogError> {
        loop {
            let shared = self.shared.lock();
            let is_old = shared.sealed() > 0 && shared.list.front().is_some_and(|front| front.newest < unix_ms);
            drop(shared);
            if !is_old || !self.drop_oldest()? {
                return Ok(());
            }
        }
    }

    /// The segment that would be dropped first, for a program that counts its messages before.
    #[must_use]
    pub fn front(&self) -> Option<Front> {
        let shared = self.shared.lock();
        let front = shared.list.front().filter(|_| shared.sealed() > 0)?;
        let after = Position::new(front.header.epoch, front.header.first - 1);
        Some(Front { after, last: front.last(), newest_ms: front.newest, bytes: front.size })
    }

    /// Drops [`front`](Self::front), with the log's own cursor durable before, unless its file
    /// system is full. Returns whether there was one.
    pub fn drop_front(&mut self) -> Result<bool, LogError> {
        if !self.lose_front() {
            return Ok(false);
        }
        match self.cursor.store(&*self.disk) {
            Err(error) if !is_full(&error) => return Err(error.into()),
            _ => {}
        }
        self.unlink_front()?;
        Ok(true)
    }

    pub(super) fn add_bad(&mut self, name: String, length: u64) {
        self.bad.push(Entry { name, length });
    }

    /// Removes what is consumed.
    pub(super) fn release(&mut self) -> Result<(), LogError> {
        if self.options.keep_consumed {
            return Ok(());
        }
        let cursor = self.cursor();
        let shared = self.shared.lock();
        // One of a later epoch that has nothing in it is consumed with what is before it.
        let is_consumed = |segment: &&Segment| {
            let is_empty = segment.last < segment.header.first && segment.last <= cursor.number;
            segment.last() <= cursor || is_empty
        };
        let consumed = shared.list.iter().take(shared.sealed()).take_while(is_consumed).count();
        let last = consumed.checked_sub(1).map(|at| shared.list[at].last());
        drop(shared);
        let Some(last) = last else { return Ok(()) };
        self.cursor.advance(Position::new(last.epoch, last.number.max(cursor.number)));
        self.cursor.store(&*self.disk)?;
        for _ in 0..consumed {
            self.unlink_front()?;
        }
        Ok(())
    }

    /// Makes room for a record of this length within the limit.
    pub(super) fn make_room(&mut self, total: u64) -> Result<(), LogError> {
        let limit = self.options.limit;
        let wanted = |log: &Self| {
            let begins = if log.current.is_none() { DATA } else { 0 };
            log.size().saturating_add(total).saturating_add(begins)
        };
        while wanted(self) > limit {
            if self.drop_bad() {
                continue;
            }
            let has_sealed = self.shared.lock().sealed() > 0;
            let is_used = self.current.as_ref().is_some_and(|current| current.offset + self.kept.len() as u64 > DATA);
            match self.options.when_full {
                WhenFull::DropOldest if has_sealed => {
                    self.drop_oldest()?;
                }
                WhenFull::DropOldest if is_used => self.seal()?,
                WhenFull::Refuse if is_used && self.cursor() >= self.last() => {
                    self.seal()?;
                    self.release()?;
                }
                WhenFull::DropOldest | WhenFull::Refuse => return Err(LogError::Full { limit }),
            }
        }
        Ok(())
    }

    /// Drops the oldest sealed segment, with the cursor durable before. Returns whether there was
    /// one.
    fn drop_oldest(&mut self) -> Result<bool, LogError> {
        if !self.lose_front() {
            return Ok(false);
        }
        self.cursor.store(&*self.disk)?;
        self.unlink_front()?;
        Ok(true)
    }

    /// Makes room on a full file system, where the cursor can only be written afterwards. Until it
    /// is, a crash makes the count of what was lost higher than it is: "at most".
    pub(super) fn drop_for_space(&mut self) -> bool {
        if self.drop_bad() {
            return true;
        }
        if self.options.when_full == WhenFull::Refuse || !self.lose_front() {
            return false;
        }
        let is_dropped = self.unlink_front().is_ok();
        // Tried again with the next one.
        let _ = self.cursor.store(&*self.disk);
        is_dropped
    }

    /// Moves the cursor to the end of the oldest sealed segment, and counts what it passes over.
    fn lose_front(&mut self) -> bool {
        let shared = self.shared.lock();
        let Some(front) = shared.list.front().filter(|_| shared.sealed() > 0) else { return false };
        let (last, first) = (front.last(), front.header.first);
        drop(shared);
        let cursor = self.cursor();
        let consumed = if cursor.epoch == last.epoch { cursor.number.max(first - 1) } else { first - 1 };
        if cursor < last {
            self.cursor.lose(last.number.saturating_sub(consumed));
            self.cursor.advance(last);
        }
        true
    }

    /// Files that cannot be read go before those that can.
    fn drop_bad(&mut self) -> bool {
        let Some(bad) = self.bad.pop() else { return false };
        // A file that cannot be removed does not count any more.
        let _ = self.disk.unlink(&bad.name);
        true
    }

    /// Removes the oldest segment. A power cut may bring it back: it is consumed then.
    fn unlink_front(&mut self) -> Result<(), LogError> {
        let name = self.shared.lock().list.front().map(|front| front.name.clone());
        let Some(name) = name else { return Ok(()) };
        match self.disk.unlink(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        self.shared.lock().list.pop_front();
        Ok(())
    }
}
