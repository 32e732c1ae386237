//! What is offered to outboxes.

use std::ops::Deref;

use bytes::Bytes;

/// Runs up to this length are copied for each outbox that has others queued, into one piece of memory with these: what a run
/// costs by itself (an allocation, and a slice of a vectored write, of which there are only so many) is more than that.
pub(super) const SHORT: usize = 2 * 1024;

/// Whole PUBLISH frames of one ident, on channels with the same subscribers, as they were received.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    frames: Frames<'a>,
    pub(crate) messages: u32,
    /// Their bytes without headers and names.
    pub(crate) payload: usize,
}

#[derive(Debug)]
enum Frames<'a> {
    /// In somebody's buffer, and short: copied by the first outbox that needs them to stay.
    Received(&'a [u8]),
    Own(Bytes),
}

impl<'a> Run<'a> {
    /// Frames that do not stay where they are.
    pub(crate) fn received(frames: &'a [u8], messages: u32, payload: usize) -> Self {
        // Long ones at once, before an outbox is locked.
        let long = frames.len() > SHORT;
        let frames = if long { Frames::Own(Bytes::copy_from_slice(frames)) } else { Frames::Received(frames) };
        Self { frames, messages, payload }
    }

    pub(crate) fn new(frames: Bytes, messages: u32, payload: usize) -> Self {
        Self { frames: Frames::Own(frames), messages, payload }
    }

    /// To stay: copied if need be, once for all that share it.
    pub(crate) fn share(&mut self) -> Bytes {
        match &self.frames {
            Frames::Own(frames) => frames.clone(),
            Frames::Received(frames) => {
                let own = Bytes::copy_from_slice(frames);
                self.frames = Frames::Own(own.clone());
                own
            }
        }
    }

    pub(crate) fn into_own(mut self) -> Run<'static> {
        Run { frames: Frames::Own(self.share()), messages: self.messages, payload: self.payload }
    }
}

impl Deref for Run<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.frames {
            Frames::Received(frames) => frames,
            Frames::Own(frames) => frames,
        }
    }
}
