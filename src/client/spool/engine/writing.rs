//! The writing half of a spool's engine: batches become durable records, consumed segments go, and
//! what goes for room is counted.

use tokio::time::Instant;

use super::Engine;
use crate::{
    client::spool::{error::SpoolError, shared::Batch, status::SpoolNews},
    log::{Append, FRAMES, Log, LogError, StreamEnd},
    wire::extension::{Position, StreamPosition},
};

impl Engine {
    /// Removes the segments that are consumed.
    pub(super) fn remove(&mut self, now: Instant) {
        if let Some(opened) = &mut self.opened {
            if let Err(error) = opened.log.consume(opened.log.cursor()) {
                self.fail_log(&error, now);
            }
        }
    }

    /// Appends what waits, and makes it durable.
    pub(super) fn write(&mut self, now: Instant) {
        if !self.waiting.is_empty() {
            // They may need the room.
            self.remove(now);
        }
        if let Some(opened) = self.opened.as_ref().filter(|_| !self.renamed.is_empty()) {
            match self.owner.store(&*opened.disk) {
                Ok(()) => self.renamed.clear(),
                Err(error) => return self.fail(SpoolError::opening(&self.spool.name(), &error), now),
            }
        }
        while let Some(batch) = self.waiting.front() {
            let Some(opened) = &mut self.opened else { return };
            let cursor = opened.log.cursor();
            match append(&mut opened.log, batch, self.spool.clock) {
                Ok(last) => {
                    let first = StreamPosition { stream: batch.stream, number: batch.first };
                    let at = Position::new(last.epoch, last.number + 1 - u64::from(batch.messages));
                    self.runs.add(first, at, batch.messages.into(), Some(now));
                    self.appended.extend(self.waiting.pop_front());
                    self.is_full = false;
                    self.count_dropped(cursor);
                }
                Err(LogError::Full { .. }) => {
                    self.count_dropped(cursor);
                    if !self.is_full {
                        self.is_full = true;
                        self.tell(SpoolNews::Full);
                    }
                    break;
                }
                Err(LogError::Unfit) => {
                    // No driver makes one.
                    self.lose(batch.messages.into());
                    self.waiting.pop_front();
                }
                Err(error) => {
                    self.count_dropped(cursor);
                    return self.fail_log(&error, now);
                }
            }
        }
        let Some(opened) = &mut self.opened else { return };
        if self.appended.is_empty() {
            return;
        }
        let cursor = opened.log.cursor();
        let synced = opened.log.sync();
        self.count_dropped(cursor);
        match synced {
            Ok(durable) => self.synced(durable, now),
            Err(error) => self.fail_log(&error, now),
        }
    }

    fn synced(&mut self, durable: Position, now: Instant) {
        if let Some(opened) = &mut self.opened {
            opened.durable = durable;
        }
        let last = self.appended.back().map(Batch::last);
        self.appended.clear();
        let mut state = self.shared.state.lock();
        (state.durable, state.has_changed) = (last, true);
        drop(state);
        if self.since.is_none() {
            self.since = Some(now);
            self.tell(SpoolNews::Spooling);
        }
    }

    /// Counts what a full disk, or the limit, has taken since the cursor stood there.
    fn count_dropped(&mut self, before: Position) {
        let Some(opened) = &mut self.opened else { return };
        let lost = opened.log.lost() - opened.lost;
        if lost == 0 {
            return;
        }
        opened.lost += lost;
        let to = opened.log.cursor();
        let held = self.shared.state.lock().held;
        // Messages that were read ahead, and may be in the driver's memory by now.
        let read = self
            .reading
            .newest()
            .filter(|read| held.is_none_or(|held| held.stream != read.stream || held.number < read.number));
        let held = held.filter(|held| read.is_none_or(|read| read.stream != held.stream));
        let count = |held: StreamPosition| self.runs.count_within(to, held.stream, held.number);
        let in_memory: u64 = held.into_iter().chain(read).map(count).sum();
        debug_assert!(to >= before);
        self.runs.forget(to);
        let lost = lost.saturating_sub(in_memory);
        if lost > 0 {
            self.dropped += lost;
            self.tell(SpoolNews::Dropped(lost));
        }
    }
}

fn append(log: &mut Log, batch: &Batch, clock: fn() -> i64) -> Result<Position, LogError> {
    let joined;
    let body = match &batch.frames[..] {
        [one] => &one[..],
        several => {
            joined = several.concat();
            &joined[..]
        }
    };
    let last = batch.last();
    log.append(&Append {
        kind: FRAMES,
        unix_ms: clock(),
        messages: batch.messages,
        stream: Some(StreamEnd { id: *last.stream.as_bytes(), last: last.number }),
        channels: &[],
        body,
    })
}
