//! Chunks: what is read back from a spool, checked frame by frame, in consecutive numbers of one
//! stream.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use crate::{
    log::{FRAMES, Record},
    wire::{
        FrameBatch, Limits, Opcode,
        extension::{Position, StreamId, StreamPosition},
    },
};

/// A chunk is so long in bytes, or one record that is longer.
pub(super) const CHUNK: usize = 256 << 10;

/// Consecutive messages of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The stream that they belong to.
    pub stream: StreamId,
    /// The number of the first.
    pub first: u64,
    /// How many they are, at least one.
    pub messages: u64,
    /// Their PUBLISH frames, whole ones in each piece, with how many they are.
    pub pieces: Vec<(Bytes, u64)>,
}

impl Chunk {
    /// The number of the last.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first + self.messages - 1
    }

    /// The bytes of the frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|(frames, _)| frames.len()).sum()
    }
}

/// Consecutive frames of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stream: StreamId,
    pub(super) first: u64,
    pub(super) messages: u64,
    pub(super) frames: Bytes,
    /// Where the first stands in the log.
    pub(super) at: Position,
    pub(super) unix_ms: i64,
}

impl Piece {
    pub(super) fn last(&self) -> u64 {
        self.first + self.messages - 1
    }

    /// Without what has at most this number; `None` when nothing is left.
    pub(super) fn after(mut self, number: u64) -> Option<Self> {
        let gone = number.saturating_add(1).saturating_sub(self.first);
        if gone >= self.messages {
            return None;
        }
        let skipped = FrameBatch::checked(&self.frames).frames().take(usize::try_from(gone).ok()?);
        let length: usize = skipped.map(<[u8]>::len).sum();
        self.frames = self.frames.slice(length..);
        (self.first, self.messages) = (self.first + gone, self.messages - gone);
        self.at.number += gone;
        Some(self)
    }
}

/// The messages of a record that can be sent, and how many cannot.
///
/// A record is whole, by its checksum, but another program may have made it: what is no PUBLISH
/// frame of this ident within the limits would end each connection that it is sent on.
pub(super) fn pieces(record: &Record, ident: &str, limits: Limits) -> (Vec<Piece>, u64) {
    let all = u64::from(record.messages);
    let nothing = (Vec::new(), all - u64::from(record.skip));
    let stream = record.stream.filter(|_| record.kind == FRAMES);
    let Some((stream, first)) = stream.and_then(|end| Some((end.id, end.last.checked_sub(all - 1)?))) else {
        return nothing;
    };
    if first == 0 || first.checked_add(all).is_none() {
        return nothing;
    }
    let batch = FrameBatch::checked(&record.body);
    let limit = limits.of(Opcode::Publish) as usize;
    // Where frames that can be sent begin and end, and the number of the first of them in the record.
    let (mut ranges, mut at, mut seen, mut lost) = (Vec::<(Range<usize>, u64, u64)>::new(), 0, 0, 0);
    while let Some((header, body)) = batch.publish_at(at) {
        let frame = at..at + header.length;
        (at, seen) = (frame.end, seen + 1);
        if seen <= u64::from(record.skip) {
            continue;
        }
        let name = body.split_first().and_then(|(&length, rest)| rest.get(..usize::from(length)));
        if name != Some(ident.as_bytes()) || header.length > limit {
            lost += 1;
            continue;
        }
        match ranges.last_mut() {
            Some((range, _, count)) if range.end == frame.start => (range.end, *count) = (frame.end, *count + 1),
            _ => ranges.push((frame, seen - 1, 1)),
        }
    }
    if at != record.body.len() || seen != all {
        // Its frames are not those that the numbers were given to.
        return nothing;
    }
    let piece = |(range, from, messages): (Range<usize>, u64, u64)| Piece {
        stream: StreamId::new(stream),
        first: first + from,
        messages,
        frames: record.body.slice(range),
        at: Position::new(record.first.epoch, record.first.number + from),
        unix_ms: record.unix_ms,
    };
    (ranges.into_iter().map(piece).collect(), lost)
}

/// Takes a chunk off the front of what was read: consecutive messages of one stream, all of them
/// behind `floor` where that is of their stream.
pub(super) fn take(ready: &mut VecDeque<Piece>, floors: [Option<StreamPosition>; 2]) -> Option<Chunk> {
    let mut chunk: Option<Chunk> = None;
    while let Some(piece) = ready.pop_front() {
        let floor = floors.iter().flatten().filter(|floor| floor.stream == piece.stream).map(|floor| floor.number);
        let floor = floor.chain(chunk.as_ref().map(Chunk::last)).max().unwrap_or(0);
        // One that stands twice after a failed disk, or is in memory.
        if piece.stream == chunk.as_ref().map_or(piece.stream, |chunk| chunk.stream) && piece.last() <= floor {
            continue;
        }
        match &mut chunk {
            None => {
                let Some(piece) = piece.after(floor) else { continue };
                let Piece { stream, first, messages, frames, .. } = piece;
                chunk = Some(Chunk { stream, first, messages, pieces: vec![(frames, messages)] });
            }
            Some(chunk) => {
                let fits = chunk.bytes() + piece.frames.len() <= CHUNK;
                if !fits || piece.stream != chunk.stream || piece.first > floor + 1 {
                    ready.push_front(piece);
                    break;
                }
                let Some(piece) = piece.after(floor) else { continue };
                chunk.messages += piece.messages;
                chunk.pieces.push((piece.frames, piece.messages));
            }
        }
    }
    chunk
}
