//! The shared parts of the tests of the spool: messages whose contents follow from stream and
//! number, and spools whose engine does its work inline.

use std::sync::Arc;

use bytes::Bytes;
use hpfeeds::{
    Limits, Spool,
    spool::{Answer, Batch, Chunk, SpoolHandle, Want},
    wire::{
        FrameBatch,
        extension::{StreamId, StreamPosition},
    },
};

use crate::sim_disk::{Random, SimDisk};

pub(crate) const IDENT: &str = "sensor-17";

/// A clock that stands still.
pub(crate) fn noon() -> i64 {
    1_800_000_000_000
}

pub(crate) fn stream(id: u8) -> StreamId {
    StreamId::new([id; 16])
}

pub(crate) fn at(id: u8, number: u64) -> StreamPosition {
    StreamPosition { stream: stream(id), number }
}

/// A small spool on a simulated disk, without a thread.
pub(crate) fn small(disk: &SimDisk) -> Spool {
    Spool::disk(Arc::new(disk.clone())).max_bytes(400_000).inline().clock(noon)
}

pub(crate) fn start(spool: &Spool) -> SpoolHandle {
    SpoolHandle::start(spool, IDENT, Limits::default()).unwrap()
}

/// A PUBLISH frame of an ident whose payload has this length.
pub(crate) fn frame_of(ident: &str, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + 1 + ident.len() + 2 + payload.len()).unwrap();
    let head = [&length.to_be_bytes()[..], &[3, u8::try_from(ident.len()).unwrap()], ident.as_bytes(), b"\x01c"];
    [&head.concat()[..], payload].concat()
}

/// The frame that has this number: no two are the same.
pub(crate) fn frame(stream: StreamId, number: u64) -> Vec<u8> {
    let mut random = Random(u64::from(stream.as_bytes()[0]) << 32 ^ number);
    let length = [0, 30, 200, 1500][usize::try_from(random.below(4)).unwrap()] + 16;
    let mut payload = format!("{:02x} {number:08} ", stream.as_bytes()[0]).into_bytes();
    while payload.len() < length {
        payload.push(random.next().to_be_bytes()[0]);
    }
    frame_of(IDENT, &payload)
}

/// So many messages from a number on.
pub(crate) fn batch(id: u8, first: u64, messages: u32) -> Batch {
    let frames = (first..first + u64::from(messages)).map(|number| Bytes::from(frame(stream(id), number)));
    Batch { stream: stream(id), first, messages, frames: frames.collect() }
}

/// The numbers of a chunk, whose frames must be what they are.
pub(crate) fn check(chunk: &Chunk) -> Result<std::ops::RangeInclusive<u64>, String> {
    let mut number = chunk.first;
    for (piece, messages) in &chunk.pieces {
        let mut seen = 0;
        for bytes in FrameBatch::new(piece, Limits::default()).frames() {
            if bytes != frame(chunk.stream, number) {
                return Err(format!("message {number} of {} is made up", chunk.stream));
            }
            (number, seen) = (number + 1, seen + 1);
        }
        if seen != *messages {
            return Err(format!("a piece of {messages} holds {seen}"));
        }
    }
    if number != chunk.first + chunk.messages || chunk.messages == 0 {
        return Err(format!("a chunk from {} of {} ends before {number}", chunk.first, chunk.messages));
    }
    Ok(chunk.first..=chunk.last())
}

/// The next chunk of an inline spool.
pub(crate) fn next(spool: &SpoolHandle, skip: Option<StreamPosition>) -> Option<Chunk> {
    spool.read(skip.map_or(Want::Any, Want::After), 0);
    match spool.answer() {
        Some(Answer::Chunk(chunk)) => Some(chunk),
        Some(Answer::End) => None,
        None => panic!("no answer: {:?}", spool.news()),
    }
}

/// Reads and releases everything: ranges of numbers by stream, neighbours together.
pub(crate) fn drain(spool: &SpoolHandle) -> Vec<(u8, u64, u64)> {
    let mut all: Vec<(u8, u64, u64)> = Vec::new();
    while let Some(chunk) = next(spool, None) {
        let numbers = check(&chunk).unwrap();
        let id = chunk.stream.as_bytes()[0];
        match all.last_mut() {
            Some((last, _, end)) if *last == id && *end + 1 == *numbers.start() => *end = *numbers.end(),
            _ => all.push((id, *numbers.start(), *numbers.end())),
        }
        spool.release(StreamPosition { stream: chunk.stream, number: chunk.last() });
    }
    all
}
