//! The reading half of a spool's engine: what was read ahead, and what a disk that cannot be read
//! costs.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    chunk::{self, Chunk, Piece},
    owner::Owner,
    runs::Runs,
    shared::Want,
};
use crate::{
    log::{Extent, Item, Log, Reader},
    wire::{
        FrameBatch, FrameRef, HEADER_LEN, Limits, Opcode,
        extension::{Position, StreamId, StreamPosition},
    },
};

/// A place that cannot be read is tried so often before it is given up.
const TRIES: u32 = 3;
/// The blocks of 4 KiB that are given up one after the other before the disk is opened anew.
const BLOCKS: u32 = 256;

pub(super) struct Reading {
    ident: String,
    limits: Limits,
    clock: fn() -> i64,
    reader: Option<Reader>,
    /// Where the next reader begins.
    at: Position,
    /// Chunks that were read, oldest first.
    ready: VecDeque<Piece>,
    /// The last message that was handed out.
    given: Option<StreamPosition>,
    /// Reads that have failed in a row.
    failures: u32,
    /// Blocks that may be given up: the disk was opened anew, so it lives.
    blocks: u32,
}

/// The result of a read.
pub(super) struct Filled {
    /// Something was read, or found to be lost.
    pub(super) is_some: bool,
    pub(super) lost: u64,
}

/// The ident of the first message that can be read.
pub(super) fn ident(log: &Log) -> Option<String> {
    let items = log.reader(log.cursor(), Extent::Durable).read().ok()?;
    let ident = |item: &Item| {
        let Item::Record(record) = item else { return None };
        let frame = FrameBatch::checked(&record.body).frames().next()?;
        match FrameRef::parse(Opcode::Publish, frame.get(HEADER_LEN..)?) {
            Ok(FrameRef::Publish { ident, .. }) => Some(ident.to_owned()),
            _ => None,
        }
    };
    items.iter().find_map(ident)
}

impl Reading {
    pub(super) fn new(ident: &str, limits: Limits, clock: fn() -> i64) -> Self {
        Self {
            ident: ident.to_owned(),
            limits,
            clock,
            reader: None,
            at: Position::NONE,
            ready: VecDeque::new(),
            given: None,
            failures: 0,
            blocks: 0,
        }
    }

    /// Goes on in a log that was opened, or opened anew.
    pub(super) fn open(&mut self, log: &Log) {
        self.at = self.at.max(log.cursor());
        self.reader = None;
        if self.failures >= TRIES {
            self.blocks = BLOCKS;
        }
    }

    /// Whether the stream comes next before which everything is wanted.
    pub(super) fn is_at(&self, want: Want) -> bool {
        self.ready.front().is_some_and(|piece| want == Want::Before(piece.stream))
    }

    /// The next messages of what was read, and is not released.
    pub(super) fn take(&mut self, released: Position, want: Want) -> Option<Chunk> {
        while let Some(piece) = self.ready.front() {
            if piece.at.number > released.number {
                break;
            }
            let number = (released.number - piece.at.number).saturating_add(piece.first);
            let rest = self.ready.pop_front().and_then(|piece| piece.after(number));
            if let Some(rest) = rest {
                self.ready.push_front(rest);
                break;
            }
        }
        let after = if let Want::After(after) = want { Some(after) } else { None };
        let chunk = chunk::take(&mut self.ready, [self.given, after])?;
        self.given = Some(StreamPosition { stream: chunk.stream, number: chunk.last() });
        Some(chunk)
    }

    /// Passes over what is released, and over what is in memory where nothing older is left to read.
    pub(super) fn seek(&mut self, log: &Log, to: Option<Position>) {
        let to = to.unwrap_or_default();
        let at = self.reader.as_ref().map_or(self.at, Reader::position);
        // Before the epoch of this opening there are messages of earlier programs.
        let to = if at.epoch == to.epoch { to } else { Position::NONE }.max(log.cursor());
        if to > at {
            self.reader = Some(log.reader(to, Extent::Durable));
        }
    }

    /// The newest message that was read, and may still be in memory.
    pub(super) fn newest(&self) -> Option<StreamPosition> {
        let ready = self.ready.back().map(|piece| StreamPosition { stream: piece.stream, number: piece.last() });
        ready.or(self.given)
    }

    /// The number in the log up to which everything was read.
    pub(super) fn number(&self) -> u64 {
        self.at.number
    }

    /// Whether everything that was read is handed out.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Gives a stream another id.
    pub(super) fn rename(&mut self, from: StreamId, to: StreamId) {
        let ready = self.ready.iter_mut().map(|piece| &mut piece.stream);
        let given = self.given.iter_mut().map(|given| &mut given.stream);
        for stream in ready.chain(given).filter(|stream| **stream == from) {
            *stream = to;
        }
    }

    /// Reads about a chunk more. An error is a disk that fails; with `true` the log is to be opened
    /// anew.
    pub(super) fn fill(&mut self, log: &Log, owner: &Owner, runs: &mut Runs, now: Instant) -> Result<Filled, bool> {
        let reader = self.reader.get_or_insert_with(|| log.reader(self.at, Extent::Durable));
        let items = loop {
            match reader.read() {
                Ok(items) => break items,
                Err(_) if self.blocks > 0 => {
                    self.blocks -= 1;
                    reader.pass();
                }
                Err(_) => {
                    self.failures += 1;
                    return Err(self.failures >= TRIES);
                }
            }
        };
        (self.failures, self.blocks) = (0, 0);
        self.at = reader.position();
        let mut filled = Filled { is_some: !items.is_empty(), lost: 0 };
        for item in items {
            let record = match item {
                // Counted when it was dropped.
                Item::Lost(lost) if lost.dropped => continue,
                Item::Lost(lost) => {
                    filled.lost += lost.messages();
                    continue;
                }
                Item::Record(record) => record,
            };
            let (pieces, lost) = chunk::pieces(&record, &self.ident, self.limits);
            filled.lost += lost;
            for mut piece in pieces {
                piece.stream = owner.name_of(piece.stream);
                let age = u64::try_from((self.clock)().saturating_sub(piece.unix_ms)).ok();
                let since = age.and_then(|age| now.checked_sub(Duration::from_millis(age)));
                let first = StreamPosition { stream: piece.stream, number: piece.first };
                runs.add(first, piece.at, piece.messages, since);
                self.ready.push_back(piece);
            }
        }
        Ok(filled)
    }
}
