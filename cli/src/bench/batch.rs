//! Batches of PUBLISH frames that are encoded once, and numbered in place.
//!
//! A payload is the publisher (4 bytes), the message's number there (8 bytes), and bytes that look
//! random but are the same in every message.

use bytes::BytesMut;
use hpfeeds::wire::{self, Channel, Ident, Limits};

use crate::exit::Failure;

/// The bytes of a payload that say which message it is.
pub(super) const STAMP: usize = 12;

/// In place of the publisher: a message that only shows that subscriptions are in force.
pub(super) const MARKER: u32 = u32::MAX;

/// Set in the publisher: it is done, and the number is how many messages it has published.
pub(super) const END: u32 = 1 << 31;

/// A frame, and where its stamp is.
#[derive(Debug)]
pub(super) struct Layout {
    frame: Vec<u8>,
    stamp: usize,
}

impl Layout {
    pub(super) fn new(limits: Limits, ident: &Ident, channel: &Channel, size: usize) -> Result<Self, Failure> {
        let mut random = fastrand::Rng::with_seed(size as u64);
        let payload: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
        let mut frame = BytesMut::new();
        wire::encode_publish(&mut frame, limits, ident, channel, &payload)
            .map_err(|cause| Failure::new(format!("a payload of {size} bytes: {cause}; raise --max-message")))?;
        Ok(Self { stamp: frame.len() - size, frame: frame.to_vec() })
    }

    /// A single frame.
    pub(super) fn frame(&self, publisher: u32, number: u64) -> Vec<u8> {
        let mut frame = self.frame.clone();
        write_stamp(&mut frame[self.stamp..], publisher, number);
        frame
    }

    /// Bytes of a frame.
    pub(super) fn len(&self) -> usize {
        self.frame.len()
    }

    /// The bytes that every frame begins with: all before the stamp.
    pub(super) fn head(&self) -> &[u8] {
        &self.frame[..self.stamp]
    }

    /// The bytes that every frame ends with: all after the stamp.
    pub(super) fn filler(&self) -> &[u8] {
        &self.frame[self.stamp + STAMP..]
    }
}

/// Frames that a publisher writes at once; the next one can be another's.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    frame: usize,
    stamp: usize,
}

impl Batch {
    /// As many frames as fit, but at least one.
    pub(super) fn new(layout: &Layout, room: usize) -> Self {
        let count = (room / layout.len()).max(1);
        Self { bytes: layout.frame(0, 0).repeat(count), frame: layout.len(), stamp: layout.stamp }
    }

    /// How many frames it holds.
    pub(super) fn capacity(&self) -> u64 {
        (self.bytes.len() / self.frame) as u64
    }

    /// The bytes of a publisher's frames that are numbered from `first`: `count`, or as many as
    /// there are.
    pub(super) fn numbered(&mut self, publisher: u32, first: u64, count: u64) -> &[u8] {
        let count = usize::try_from(count.min(self.capacity())).unwrap_or(usize::MAX);
        let frames = &mut self.bytes[..count * self.frame];
        for (frame, number) in frames.chunks_exact_mut(self.frame).zip(first..) {
            write_stamp(&mut frame[self.stamp..], publisher, number);
        }
        frames
    }
}

fn write_stamp(payload: &mut [u8], publisher: u32, number: u64) {
    payload[..4].copy_from_slice(&publisher.to_be_bytes());
    payload[4..STAMP].copy_from_slice(&number.to_be_bytes());
}

/// The publisher and the number.
pub(super) fn read_stamp(&[a, b, c, d, ref rest @ ..]: &[u8; STAMP]) -> (u32, u64) {
    (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(*rest))
}
