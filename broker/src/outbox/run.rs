//! What is offered to outboxes.

use std::ops::Deref;

use bytes::Bytes;

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
    /// In somebody's buffer: copied by the first outbox that needs them to stay.
    Received(&'a [u8]),
    Own(Bytes),
}

impl<'a> Run<'a> {
    pub(crate) fn received(frames: &'a [u8], messages: u32, payload: usize) -> Self {
        Self { frames: Frames::Received(frames), messages, payload }
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
