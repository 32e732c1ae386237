//! The batch of frames that is offered to outboxes.

use std::{num::NonZeroU32, ops::Deref};

use bytes::Bytes;
use hpfeeds::wire;

/// Batches of up to so many bytes are copied for each outbox that has others queued, into one
/// allocation with these: a batch by itself costs more than that, an allocation and one of the
/// slices of a vectored write, of which there are only so many.
pub(super) const SHORT: usize = 2 * 1024;

/// A batch of whole PUBLISH frames of one ident, on channels with the same subscribers, as they
/// were received.
#[derive(Debug)]
pub(crate) struct FrameBatch<'a> {
    frames: Frames<'a>,
    pub(crate) messages: u32,
    /// Their bytes without headers and names.
    pub(crate) payload: usize,
    /// All of them are known to be on one channel.
    pub(crate) one_channel: bool,
    /// The next outbox is the last that needs the frames: its copy is not kept for others.
    pub(crate) is_last: bool,
}

#[derive(Debug)]
enum Frames<'a> {
    /// In a read buffer, and short: copied by the first outbox that needs them to stay.
    Received(&'a [u8]),
    Own(Bytes),
}

impl<'a> FrameBatch<'a> {
    /// Frames that do not stay where they are.
    pub(crate) fn received(frames: &'a [u8], messages: u32, payload: usize) -> Self {
        // Long ones at once, before an outbox is locked.
        let long = frames.len() > SHORT;
        let frames = if long { Frames::Own(Bytes::copy_from_slice(frames)) } else { Frames::Received(frames) };
        Self { frames, messages, payload, one_channel: false, is_last: false }
    }

    pub(crate) fn new(frames: Bytes, messages: u32, payload: usize) -> Self {
        Self { frames: Frames::Own(frames), messages, payload, one_channel: false, is_last: false }
    }

    /// The number of messages, if all are known to be on one channel.
    pub(super) fn on_one_channel(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.messages).filter(|_| self.one_channel)
    }

    /// Channels, and how many messages come one after the other on each.
    pub(super) fn channel_runs(&self) -> impl Iterator<Item = (&str, u64)> {
        channel_runs(self, self.on_one_channel())
    }

    /// The frames, to stay: copied if need be, once for all outboxes that share them.
    pub(crate) fn share(&mut self) -> Bytes {
        match &self.frames {
            Frames::Own(frames) => frames.clone(),
            // To share it would take another allocation.
            Frames::Received(frames) if self.is_last => Bytes::copy_from_slice(frames),
            Frames::Received(frames) => {
                let own = Bytes::copy_from_slice(frames);
                self.frames = Frames::Own(own.clone());
                own
            }
        }
    }

    pub(crate) fn into_own(mut self) -> FrameBatch<'static> {
        FrameBatch { frames: Frames::Own(self.share()), ..self }
    }
}

/// Channels, and how many messages come one after the other on each. If it is known that there are
/// so many on one channel, the messages are not looked at: for a batch that was queued long ago
/// that is a read of memory for each.
pub(super) fn channel_runs(frames: &[u8], on_one_channel: Option<NonZeroU32>) -> impl Iterator<Item = (&str, u64)> {
    let known = on_one_channel
        .and_then(|messages| Some((wire::FrameBatch::checked(frames).first_channel()?, messages.get().into())));
    debug_assert!(
        known.is_none_or(|known| wire::FrameBatch::checked(frames).channel_runs().eq([known])),
        "the number and the channel are those of the frames"
    );
    let others = if known.is_some() { &[] } else { frames };
    known.into_iter().chain(wire::FrameBatch::checked(others).channel_runs())
}

impl Deref for FrameBatch<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.frames {
            Frames::Received(frames) => frames,
            Frames::Own(frames) => frames,
        }
    }
}
