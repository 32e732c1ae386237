//! Batches of contiguous frames: how far they reach, where each frame begins, and which have the
//! names of the one before.

use super::{
    error::DecodeError,
    frame::FrameRef,
    header::{HEADER_LEN, Header, Limits},
    opcode::Opcode,
};

/// Frames that stand one after the other in borrowed bytes, the first of which starts there.
///
/// It finds frames by their headers and compares names by their bytes: a payload is never looked
/// at, and nothing is copied. The bytes may be a peer's: what is incomplete or malformed ends the
/// batch, and nothing panics.
///
/// ```
/// use hpfeeds::wire::{FrameBatch, Limits};
///
/// // Two messages, and the first bytes of another.
/// let received = b"\0\0\0\x0b\x03\x02me\x01ai\0\0\0\x0b\x03\x02me\x01bi\0\0\0\x0b\x03";
/// let batch = FrameBatch::new(received, Limits::default());
/// assert_eq!(batch.frames().count(), 2);
/// assert_eq!(batch.channel_runs().collect::<Vec<_>>(), [("a", 1), ("b", 1)]);
/// // A write that stopped after 13 bytes has sent one frame whole, and the second must be finished.
/// assert_eq!((batch.ended_by(13).len, batch.begun_by(13).len), (11, 22));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FrameBatch<'a> {
    bytes: &'a [u8],
    limits: Limits,
}

/// How far some consecutive whole frames reach.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BatchExtent {
    /// From the start of the bytes, in bytes.
    pub len: usize,
    /// How many frames these are.
    pub messages: u32,
}

impl BatchExtent {
    #[inline]
    fn push(&mut self, frame: usize) {
        self.len += frame;
        self.messages = self.messages.saturating_add(1);
    }
}

/// The end of the PUBLISH frames at the start of a batch: what stands behind them.
#[derive(Debug)]
#[non_exhaustive]
pub enum BatchEnd {
    /// Nothing, or a frame of which some is missing.
    Incomplete,
    /// A whole frame of another kind, with this header.
    Other(Header),
    /// A header that the protocol or the limits do not allow.
    Malformed(DecodeError),
}

impl<'a> FrameBatch<'a> {
    /// The frames of received bytes.
    #[must_use]
    #[inline]
    pub const fn new(bytes: &'a [u8], limits: Limits) -> Self {
        Self { bytes, limits }
    }

    /// The frames of bytes that were encoded here or checked when they were received: of any
    /// length.
    #[must_use]
    #[inline]
    pub const fn checked(bytes: &'a [u8]) -> Self {
        Self::new(bytes, Limits::new(u32::MAX))
    }

    /// The whole frames, one after the other.
    #[inline]
    pub fn frames(self) -> impl Iterator<Item = &'a [u8]> {
        let Self { bytes: mut rest, limits } = self;
        std::iter::from_fn(move || {
            let header = Header::parse(rest, limits).ok()??;
            let (frame, behind) = rest.split_at_checked(header.length)?;
            rest = behind;
            Some(frame)
        })
    }

    /// The frames that are over at a position, in bytes. Their length is where the frame begins
    /// that the position is inside of, or the position itself when it is between two frames.
    #[must_use]
    pub fn ended_by(self, position: usize) -> BatchExtent {
        let mut extent = BatchExtent::default();
        for frame in self.frames() {
            if extent.len + frame.len() > position {
                break;
            }
            extent.push(frame.len());
        }
        extent
    }

    /// The frames that have begun before a position, in bytes. Their length is where the frame ends
    /// that the position is inside of, or the position itself when it is between two frames.
    #[must_use]
    pub fn begun_by(self, position: usize) -> BatchExtent {
        let mut extent = BatchExtent::default();
        for frame in self.frames() {
            if extent.len >= position {
                break;
            }
            extent.push(frame.len());
        }
        extent
    }

    /// The first frame, and then PUBLISH frames for as long as all together are at most so many
    /// messages and bytes.
    #[must_use]
    pub fn portion(self, messages: u64, len: u64) -> BatchExtent {
        let mut portion = BatchExtent::default();
        while let Some(rest) = self.bytes.get(portion.len..) {
            let Ok(Some(header)) = Header::parse(rest, self.limits) else {
                break;
            };
            let fits = portion.len == 0
                || header.opcode == Opcode::Publish
                    && u64::from(portion.messages) < messages
                    && (portion.len + header.length) as u64 <= len;
            if header.length > rest.len() || !fits {
                break;
            }
            portion.push(header.length);
        }
        portion
    }

    /// The header and the body of the PUBLISH frame at a position, if there is a whole one.
    #[must_use]
    #[inline]
    pub fn publish_at(self, position: usize) -> Option<(Header, &'a [u8])> {
        let rest = self.bytes.get(position..)?;
        let header = Header::parse(rest, self.limits).ok()?.filter(|header| header.opcode == Opcode::Publish)?;
        Some((header, header.body(rest)?))
    }

    /// How many bytes at the start are whole PUBLISH frames, whatever their names, and what stands
    /// behind them.
    #[must_use]
    #[inline]
    pub fn publishes(self) -> (usize, BatchEnd) {
        let mut rest = self.bytes;
        let end = loop {
            match Header::parse(rest, self.limits) {
                Ok(Some(header)) if header.opcode == Opcode::Publish => {
                    let Some((frame, mut behind)) = rest.split_at_checked(header.length) else {
                        break BatchEnd::Incomplete;
                    };
                    // Most have the length of the one before: the next header is found without a
                    // new bound.
                    while let Some((_, after)) = same_header(behind, frame, HEADER_LEN) {
                        behind = after;
                    }
                    rest = behind;
                }
                Ok(Some(header)) if header.length <= rest.len() => break BatchEnd::Other(header),
                Ok(_) => break BatchEnd::Incomplete,
                Err(error) => break BatchEnd::Malformed(error),
            }
        };
        (self.bytes.len() - rest.len(), end)
    }

    /// The PUBLISH frames at the start that have the names of the first, of which the header is
    /// known and the length of its [names](Self::names). `each` is told lengths of frames, and how
    /// many have it one after the other.
    ///
    /// It ends before the first frame that is incomplete, malformed or something else. Empty when
    /// the first frame is not there as a whole, or shorter than its names.
    #[inline]
    pub fn same_names(self, first: Header, names: usize, mut each: impl FnMut(usize, u32)) -> BatchExtent {
        let Some((mut frame, mut rest)) = self.bytes.split_at_checked(first.length) else {
            return BatchExtent::default();
        };
        let head = HEADER_LEN.saturating_add(names);
        let Some(key) = frame.get(HEADER_LEN - 1..head) else {
            return BatchExtent::default();
        };
        let mut messages = 0;
        let mut count = 1;
        loop {
            // Frames of one length: the next begins where the processor guesses it does.
            while let Some((next, after)) = same_header(rest, frame, head) {
                (frame, rest) = (next, after);
                count += 1;
            }
            messages += count;
            each(frame.len(), count);
            // Another length, and perhaps the same names.
            let Some(next) = repeated(rest, key, self.limits) else {
                return BatchExtent { len: self.bytes.len() - rest.len(), messages };
            };
            (frame, rest) = next;
            count = 1;
        }
    }

    /// The counted ident and channel at the start of the body of a PUBLISH, unless it is too short
    /// for them: they hold their lengths, so another body that starts with the same bytes has the
    /// same names.
    #[must_use]
    #[inline]
    pub fn names(body: &[u8]) -> Option<&[u8]> {
        let channel = 1 + usize::from(*body.first()?);
        body.get(..channel + 1 + usize::from(*body.get(channel)?))
    }

    /// The channel of the first frame, if that is a PUBLISH. Its payload may be missing.
    #[must_use]
    pub fn first_channel(self) -> Option<&'a str> {
        let header = Header::parse(self.bytes, self.limits).ok()??;
        let there = header.length.min(self.bytes.len());
        match FrameRef::parse(header.opcode, self.bytes.get(HEADER_LEN..there)?) {
            Ok(FrameRef::Publish { channel, .. }) => Some(channel),
            _ => None,
        }
    }

    /// Channels, and how many messages with the same names come one after the other on each. Other
    /// frames are passed over, and a PUBLISH whose names are none.
    pub fn channel_runs(self) -> impl Iterator<Item = (&'a str, u64)> {
        let Self { mut bytes, limits } = self;
        std::iter::from_fn(move || {
            loop {
                let first = Header::parse(bytes, limits).ok()??;
                let body = first.body(bytes)?;
                let Ok(FrameRef::Publish { channel, .. }) = FrameRef::parse(first.opcode, body) else {
                    bytes = bytes.get(first.length..)?;
                    continue;
                };
                let extent = Self::new(bytes, limits).same_names(first, Self::names(body)?.len(), |_, _| ());
                bytes = bytes.get(extent.len..)?;
                return Some((channel, extent.messages.into()));
            }
        })
    }
}

/// The frame at the start of `bytes`, and what follows it, if it is a whole PUBLISH with the same
/// names as one before.
///
/// `names` are that one's bytes from the opcode to the end of the channel. They hold the lengths of
/// both: a frame that has the same bytes there has the same names, cut in the same way, and only
/// its own length is left to check.
#[inline]
pub(super) fn repeated<'a>(bytes: &'a [u8], names: &[u8], limits: Limits) -> Option<(&'a [u8], &'a [u8])> {
    // The length is what may differ, so it is what has to be checked.
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    if length > limits.of(Opcode::Publish) {
        return None;
    }
    let (frame, after) = bytes.split_at_checked(length as usize)?;
    // The opcode and both names with their lengths, in one comparison.
    let found = frame.get(HEADER_LEN - 1..)?.get(..names.len())?;
    if eq_short(found, names) { Some((frame, after)) } else { None }
}

/// The frame at the start of `bytes`, and what follows it, if it is whole and begins with the same
/// `head` bytes, at least a header, as a whole frame `before` that was within the limits: so it has
/// the same length, opcode and what more these hold.
///
/// The processor can then guess where the frame behind it begins, and need not wait until it has
/// read that.
#[inline]
pub(super) fn same_header<'a>(bytes: &'a [u8], before: &[u8], head: usize) -> Option<(&'a [u8], &'a [u8])> {
    let (frame, after) = bytes.split_at_checked(before.len())?;
    if eq_short(frame.get(..head)?, before.get(..head)?) { Some((frame, after)) } else { None }
}

/// Whether two slices of one length are equal: without a call for what most names are, 8 to 32
/// bytes together.
#[inline]
fn eq_short(a: &[u8], b: &[u8]) -> bool {
    fn ends<const N: usize>(slice: &[u8]) -> Option<([u8; N], [u8; N])> {
        Some((*slice.first_chunk()?, *slice.last_chunk()?))
    }
    if let (Some((a1, a2)), Some((b1, b2))) = (ends::<16>(a), ends::<16>(b)) {
        return if a.len() <= 32 { a1 == b1 && a2 == b2 } else { a == b };
    }
    match (ends::<8>(a), ends::<8>(b)) {
        (Some((a1, a2)), Some((b1, b2))) => a1 == b1 && a2 == b2,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::frame::encode_publish;

    /// Frames with payloads of these lengths.
    fn frames(channel: &str, payloads: &[usize]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        for length in payloads {
            let (ident, channel) = ("i".parse(), channel.parse());
            let (Ok(ident), Ok(channel)) = (ident, channel) else { panic!("a legal name") };
            let encoded = encode_publish(&mut bytes, Limits::default(), &ident, &channel, &vec![7; *length]);
            assert!(encoded.is_ok(), "{encoded:?}");
        }
        bytes.to_vec()
    }

    #[test]
    fn same_names_compares_every_byte_of_names_of_any_length() {
        for length in 1..=70 {
            let channel = "c".repeat(length);
            let (names, frame) = (3 + length, HEADER_LEN + 3 + length);
            let payloads = [2, 2, 2, 5, 2, 5, 5];
            let bytes = frames(&channel, &payloads);
            let first = Header { opcode: Opcode::Publish, length: frame + 2 };
            let walk = |bytes: &[u8]| {
                let mut told = Vec::new();
                let batch = FrameBatch::new(bytes, Limits::default());
                let extent = batch.same_names(first, names, |length, count| told.push((length - frame, count)));
                assert_eq!(extent.messages, told.iter().map(|(_, count)| count).sum::<u32>());
                (extent.len, told)
            };
            assert_eq!(walk(&bytes), (bytes.len(), vec![(2, 3), (5, 1), (2, 1), (5, 2)]), "{channel}");
            assert_eq!(walk(&bytes[..bytes.len() - 1]).0, bytes.len() - frame - 5, "{channel}");
            for (at, fast) in [(1, true), (3, false)] {
                let start = payloads[..at].iter().map(|payload| frame + payload).sum::<usize>();
                assert_eq!(payloads[at] == payloads[at - 1], fast);
                for changed in HEADER_LEN - 1..frame {
                    let mut bytes = bytes.clone();
                    bytes[start + changed] ^= 1;
                    assert_eq!(walk(&bytes).0, start, "{channel}: byte {changed}");
                }
            }
        }
    }

    #[test]
    fn same_names_of_a_first_frame_that_is_not_there_are_none() {
        let bytes = frames("channel", &[2, 2]);
        let (len, names) = (bytes.len() / 2, 3 + "channel".len());
        let walk = |bytes: &[u8], length, names| {
            let first = Header { opcode: Opcode::Publish, length };
            FrameBatch::checked(bytes).same_names(first, names, |_, _| panic!("there is none"))
        };
        assert_eq!(walk(&bytes[..len - 1], len, names), BatchExtent::default());
        assert_eq!(walk(&bytes, len, len), BatchExtent::default());
        assert_eq!(walk(&bytes, 0, names), BatchExtent::default());
    }

    #[test]
    fn first_channel_needs_no_payload_but_all_of_the_names() {
        let bytes = frames("channel", &[5]);
        for cut in 0..=bytes.len() {
            let expected = (cut >= bytes.len() - 5).then_some("channel");
            assert_eq!(FrameBatch::checked(&bytes[..cut]).first_channel(), expected, "{cut}");
        }
    }
}
