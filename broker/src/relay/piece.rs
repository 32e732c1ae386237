//! The piece of a batch that an uplink sends: consecutive messages of its ident, as they stand in the
//! journal.

use bytes::Bytes;
use hpfeeds::wire::{FrameBatch, FrameRef, extension::Position};

use crate::journal::batch::Batch;

/// Consecutive messages of one ident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The position of the first.
    pub(super) first: Position,
    pub(super) messages: u32,
    /// Their PUBLISH frames, whole ones.
    pub(super) frames: Bytes,
    pub(super) unix_ms: i64,
}

impl Piece {
    /// The position of one of them.
    pub(super) fn position(&self, index: u32) -> Position {
        Position::new(self.first.epoch, self.first.number + u64::from(index))
    }

    /// Their frames, each with its channel.
    pub(super) fn frames(&self) -> impl Iterator<Item = (&[u8], &str)> {
        FrameBatch::checked(&self.frames)
            .frames()
            .map(|frame| (frame, FrameBatch::checked(frame).first_channel().unwrap_or_default()))
    }

    /// Splits the first messages off, at least one and fewer than all.
    pub(super) fn split(&mut self, messages: u32) -> Self {
        let extent = FrameBatch::checked(&self.frames).portion(messages.into(), u64::MAX);
        let head = Self { messages, frames: self.frames.split_to(extent.len), ..self.clone() };
        self.first = self.position(messages);
        self.messages -= messages;
        head
    }
}

/// The messages of an ident in a batch, but for those that `passes` by their channel and position; as
/// spellings are different idents, the name in each frame counts.
pub(super) fn pieces(batch: &Batch, ident: &str, passes: impl Fn(&str, Position) -> bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut at, mut position) = (0, batch.first);
    let walker = FrameBatch::checked(&batch.frames);
    while let Some((header, body)) = walker.publish_at(at) {
        let range = at..at + header.length;
        at = range.end;
        let here = position;
        position.number += 1;
        let Ok(FrameRef::Publish { ident: own, channel, .. }) = FrameRef::parse(header.opcode, body) else { continue };
        if own != ident || passes(channel, here) {
            continue;
        }
        let next = |last: &Piece| last.first.number + u64::from(last.messages) == here.number;
        match pieces.last_mut().filter(|last| next(last)) {
            Some(last) => {
                last.messages += 1;
                let start = range.end - last.frames.len() - header.length;
                last.frames = batch.frames.slice(start..range.end);
            }
            None => pieces.push(Piece {
                first: here,
                messages: 1,
                frames: batch.frames.slice(range),
                unix_ms: batch.unix_ms,
            }),
        }
    }
    pieces
}
