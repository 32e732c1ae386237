//! The ring of the newest batches in memory: at its end the queue of the writer, before that what
//! is on disk already and mailboxes still read from here.

use std::{collections::VecDeque, sync::Arc};

use hpfeeds::wire::extension::Position;

use super::batch::{Batch, Draft};

/// Bytes that one batch costs besides its frames, at most.
const OVERHEAD: usize = 256;

/// The batches, oldest first. All are of the epoch of this opening.
#[derive(Debug)]
pub(super) struct Ring {
    epoch: u64,
    /// The number before the first of this epoch.
    base: u64,
    /// The number of the next message.
    next: u64,
    batches: VecDeque<Arc<Batch>>,
    /// How many at the end are not appended to the log yet.
    pending: usize,
    pending_bytes: usize,
    bytes: usize,
    /// The number of the last message that the file has.
    written: u64,
    /// Whether the epoch is on disk: before, its positions could come back with other contents.
    is_open: bool,
    limits: Limits,
}

/// The bounds of the ring, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of what waits for the disk.
    pub(super) queue: usize,
    /// All of it, as far as it does not wait for the disk.
    pub(super) ring: usize,
}

/// The answer to a mailbox that asks for what comes after a position.
#[derive(Debug)]
pub(super) enum After {
    /// At least one.
    Batches(Vec<Arc<Batch>>),
    /// Nothing yet.
    Nothing,
    /// Older than what is here: the file has it.
    File,
}

fn cost(batch: &Batch) -> usize {
    batch.frames.len() + OVERHEAD
}

impl Ring {
    /// An empty ring behind the last position of a log.
    pub(super) fn new(last: Position, limits: Limits) -> Self {
        Self {
            epoch: last.epoch,
            base: last.number,
            next: last.number + 1,
            batches: VecDeque::new(),
            pending: 0,
            pending_bytes: 0,
            bytes: 0,
            written: last.number,
            is_open: false,
            limits,
        }
    }

    /// Appends a batch, and returns the position of its last message; `None` if the queue is full.
    /// A single batch always fits, and so does one that was admitted before.
    pub(super) fn push(&mut self, draft: Draft, is_admitted: bool) -> Option<Position> {
        let next = self.next.checked_add(u64::from(draft.messages))?;
        let batch = draft.at(Position::new(self.epoch, self.next));
        let cost = cost(&batch);
        if !is_admitted && self.pending > 0 && self.pending_bytes + cost > self.limits.queue {
            return None;
        }
        self.next = next;
        self.bytes += cost;
        self.pending_bytes += cost;
        self.pending += 1;
        self.batches.push_back(Arc::new(batch));
        self.evict();
        Some(self.last())
    }

    /// Whether a batch of this length would fit.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.pending == 0 || self.pending_bytes + bytes + OVERHEAD <= self.limits.queue
    }

    /// The oldest batches that are not appended to the log yet, about so many bytes of them.
    pub(super) fn pending(&self, bytes: usize) -> Vec<Arc<Batch>> {
        let mut sum = 0;
        let pending = self.batches.iter().skip(self.batches.len() - self.pending);
        let first = pending.take_while(|batch| {
            let is_room = sum < bytes;
            sum += cost(batch);
            is_room
        });
        first.cloned().collect()
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// The oldest of the queue are appended to the log.
    pub(super) fn appended(&mut self, batches: usize) {
        let start = self.batches.len() - self.pending;
        for batch in self.batches.iter().skip(start).take(batches) {
            self.pending -= 1;
            self.pending_bytes -= cost(batch);
        }
        self.is_open |= batches > 0;
    }

    /// Everything up to this number can be read from the file.
    pub(super) fn written(&mut self, number: u64) {
        self.written = number;
        self.evict();
    }

    /// Messages that were pushed since the opening.
    pub(super) fn pushed(&self) -> u64 {
        self.next - 1 - self.base
    }

    /// Throws away what was not appended: the log has failed.
    pub(super) fn give_up(&mut self) {
        self.batches.truncate(self.batches.len() - self.pending);
        self.bytes -= self.pending_bytes;
        (self.pending, self.pending_bytes) = (0, 0);
    }

    fn evict(&mut self) {
        while self.bytes - self.pending_bytes > self.limits.ring
            && let Some(oldest) = self.batches.front()
            && oldest.last().number <= self.written
        {
            self.bytes -= cost(oldest);
            self.batches.pop_front();
        }
    }

    /// The position of the newest message, also before it may be read.
    pub(super) fn last(&self) -> Position {
        Position::new(self.epoch, self.next - 1)
    }

    /// The position before everything of this epoch.
    pub(super) fn base(&self) -> Position {
        Position::new(self.epoch, self.base)
    }

    /// The position of the newest message that may be read.
    pub(super) fn readable(&self) -> Position {
        if self.is_open { self.last() } else { self.base() }
    }

    /// The batches after a position, at least one and otherwise about so many bytes.
    pub(super) fn after(&self, at: Position, bytes: usize) -> After {
        if at >= self.readable() {
            return After::Nothing;
        }
        let Some(oldest) = self.batches.front() else { return After::File };
        if at.epoch < self.epoch || at.number + 1 < oldest.first.number {
            return After::File;
        }
        let start = self.batches.partition_point(|batch| batch.last() <= at);
        if start == self.batches.len() {
            // It was given up.
            return After::Nothing;
        }
        let mut sum = 0;
        let wanted = self.batches.range(start..).take_while(|batch| {
            let is_room = sum < bytes;
            sum += cost(batch);
            is_room
        });
        After::Batches(wanted.cloned().collect())
    }
}
