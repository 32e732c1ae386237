//! The names of the PUBLISH frame before, remembered so that they are checked and made once.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    batch,
    error::DecodeError,
    frame::FrameRef,
    header::{HEADER_LEN, Limits},
    names::{Channel, Ident},
};

/// The last PUBLISH that was read, with names of its own. Most messages have the names of the one
/// before: nothing to check, and nothing to make.
#[derive(Debug, Clone)]
pub(crate) struct NameCache {
    /// Its bytes from the opcode to the end of the channel.
    head: Vec<u8>,
    /// To be cloned where they are needed: a function for that has them moved once more, for 7 % of
    /// decoding.
    pub(crate) ident: Ident,
    pub(crate) channel: Channel,
}

impl NameCache {
    /// Where the payload begins and where it ends, and the frame with it, if `bytes` begin with a
    /// whole PUBLISH with the same names.
    #[inline]
    pub(crate) fn repeated(&self, bytes: &[u8], limits: Limits) -> Option<(usize, usize)> {
        let (frame, _) = batch::repeated(bytes, &self.head, limits)?;
        Some((HEADER_LEN - 1 + self.head.len(), frame.len()))
    }

    /// Reads a whole PUBLISH and remembers it instead of the one before. Also says where its
    /// payload begins.
    pub(crate) fn remember<'a>(last: &'a mut Option<Self>, frame: &[u8]) -> Result<(&'a Self, usize), DecodeError> {
        let (ident, channel, payload) = FrameRef::parse_publish(&frame[HEADER_LEN..])?;
        let at = frame.len() - payload.len();
        let head = &frame[HEADER_LEN - 1..at];
        let (ident, channel) = (Ident::checked(ident), Channel::checked(channel));
        let last = match last {
            Some(last) => {
                // Its memory is used again.
                last.head.clear();
                last.head.extend_from_slice(head);
                (last.ident, last.channel) = (ident, channel);
                last
            }
            none => none.insert(Self { head: head.to_vec(), ident, channel }),
        };
        Ok((last, at))
    }
}

/// Takes a frame off `src` and gives its payload. It is one reference to the buffer: a slice of the
/// frame would take two and give one back.
#[allow(clippy::inline_always, reason = "what is stored in halves and then moved as a whole waits for the stores")]
#[inline(always)]
pub(crate) fn payload_of(src: &mut BytesMut, at: usize, length: usize) -> Bytes {
    if at == length {
        // An empty slice would keep the buffer for nothing.
        src.advance(length);
        return Bytes::new();
    }
    let mut payload = src.split_to(length).freeze();
    payload.advance(at);
    payload
}
