//! The only place that takes a peer's bytes apart.

use std::str;

use super::{DecodeError, Digest, Field, HEADER_LEN, Limits, NameError, Opcode, names};

/// A PUBLISH body taken apart: ident, channel and payload.
pub(super) type Publish<'a> = (&'a str, &'a str, &'a [u8]);

/// Reads both names of a PUBLISH body in one go: checking for UTF-8 costs more to begin than for another few bytes.
///
/// The channel's length byte, when it is ASCII, makes a character of its own between the names: together they are
/// UTF-8 exactly if each is. `None` for everything else, good or bad: let [`Reader::publish`] find out.
#[inline]
pub(super) fn publish_at_once(body: &[u8]) -> Option<Publish<'_>> {
    let (&ident, rest) = body.split_first()?;
    let ident = usize::from(ident);
    let &channel = rest.get(ident)?;
    if ident == 0 || channel == 0 || !channel.is_ascii() {
        return None;
    }
    let (names, payload) = rest.split_at_checked(ident + 1 + usize::from(channel))?;
    let names = str::from_utf8(names).ok()?;
    Some((names.get(..ident)?, names.get(ident + 1..)?, payload))
}

/// The frame at the start of `bytes`, and what follows it, if it is a whole PUBLISH with the same names as one before.
///
/// `names` are that one's bytes from the opcode to the end of the channel. They hold the lengths of both: a frame
/// that has the same bytes there has the same names, cut in the same way, and only its own length is left to check.
#[inline]
pub(super) fn repeated<'a>(bytes: &'a [u8], names: &[u8], limits: Limits) -> Option<(&'a [u8], &'a [u8])> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    if length > limits.of(Opcode::Publish) {
        return None;
    }
    let (frame, after) = bytes.split_at_checked(length as usize)?;
    let found = frame.get(HEADER_LEN - 1..)?.get(..names.len())?;
    if same(found, names) { Some((frame, after)) } else { None }
}

/// The frame at the start of `bytes`, and what follows it, if it is whole and begins with the same `head` bytes, at least
/// a header, as a whole frame `before` that was within the limits: so it has the same length, opcode and what more these hold.
///
/// The processor can then guess where the frame behind it begins, and need not wait until it has read that.
#[inline]
pub(crate) fn alike<'a>(bytes: &'a [u8], before: &[u8], head: usize) -> Option<(&'a [u8], &'a [u8])> {
    let (frame, after) = bytes.split_at_checked(before.len())?;
    if same(frame.get(..head)?, before.get(..head)?) { Some((frame, after)) } else { None }
}

/// How far the whole PUBLISH frames at the start of `bytes` reach that have the same names as the first. That is whole, as
/// is known, and `length` bytes long, of which its names with their lengths take `names`. `each` is told lengths of frames,
/// and how many.
///
/// For the broker, which knows the names that it has checked before.
///
/// # Panics
/// When the first frame is not there as a whole, or too short for its names.
#[doc(hidden)]
#[inline]
pub fn publish_run(
    bytes: &[u8],
    length: usize,
    names: usize,
    limits: Limits,
    mut each: impl FnMut(usize, u32),
) -> usize {
    let (mut frame, mut rest) = bytes.split_at(length);
    let head = HEADER_LEN + names;
    let key = &frame[HEADER_LEN - 1..head];
    let mut count = 1;
    loop {
        while let Some((next, after)) = alike(rest, frame, head) {
            (frame, rest) = (next, after);
            count += 1;
        }
        each(frame.len(), count);
        let Some(next) = repeated(rest, key, limits) else {
            return bytes.len() - rest.len();
        };
        (frame, rest) = next;
        count = 1;
    }
}

/// Whether two slices of one length are equal: without a call for what most names are, 8 to 32 bytes together.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
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

pub(super) struct Reader<'a> {
    pub(super) opcode: Opcode,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Both names of a PUBLISH, one after the other.
    #[cold]
    pub(super) fn publish(mut self) -> Result<Publish<'a>, DecodeError> {
        Ok((self.name(Field::Ident)?, self.name(Field::Channel)?, self.rest))
    }

    /// A string with its length in the byte before it.
    pub(super) fn counted(&mut self, field: Field) -> Result<&'a str, DecodeError> {
        let truncated = DecodeError::Truncated { opcode: self.opcode, field };
        let Some((&len, rest)) = self.rest.split_first() else {
            return Err(truncated);
        };
        let Some((bytes, rest)) = rest.split_at_checked(len.into()) else {
            return Err(truncated);
        };
        self.rest = rest;
        str::from_utf8(bytes).map_err(|_| self.fault(field, NameError::NotUtf8))
    }

    /// An ident or channel with its length in the byte before it.
    pub(super) fn name(&mut self, field: Field) -> Result<&'a str, DecodeError> {
        let name = self.counted(field)?;
        names::check(name).map_err(|cause| self.fault(field, cause))?;
        Ok(name)
    }

    /// A channel that takes the rest of the frame.
    pub(super) fn last_name(&mut self, field: Field) -> Result<&'a str, DecodeError> {
        let name = str::from_utf8(self.rest).map_err(|_| self.fault(field, NameError::NotUtf8))?;
        names::check(name).map_err(|cause| self.fault(field, cause))?;
        Ok(name)
    }

    pub(super) fn digest(&mut self) -> Result<&'a Digest, DecodeError> {
        self.rest.try_into().map_err(|_| DecodeError::DigestLength { found: self.rest.len() })
    }

    fn fault(&self, field: Field, cause: NameError) -> DecodeError {
        DecodeError::Name { opcode: self.opcode, field, cause }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::encode_publish;

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
    fn a_run_is_told_by_every_byte_of_its_names_however_long_they_are() {
        for length in 1..=70 {
            let channel = "c".repeat(length);
            let (names, frame) = (3 + length, HEADER_LEN + 3 + length);
            let payloads = [2, 2, 2, 5, 2, 5, 5];
            let bytes = frames(&channel, &payloads);
            let run = |bytes: &[u8]| {
                let mut told = Vec::new();
                let run = publish_run(bytes, frame + 2, names, Limits::default(), |length, count| {
                    told.push((length - frame, count));
                });
                (run, told)
            };
            assert_eq!(run(&bytes), (bytes.len(), vec![(2, 3), (5, 1), (2, 1), (5, 2)]), "{channel}");
            assert_eq!(run(&bytes[..bytes.len() - 1]).0, bytes.len() - frame - 5, "{channel}");
            for (at, fast) in [(1, true), (3, false)] {
                let start = payloads[..at].iter().map(|payload| frame + payload).sum::<usize>();
                assert_eq!(payloads[at] == payloads[at - 1], fast);
                for changed in HEADER_LEN - 1..frame {
                    let mut bytes = bytes.clone();
                    bytes[start + changed] ^= 1;
                    assert_eq!(run(&bytes).0, start, "{channel}: byte {changed}");
                }
            }
        }
    }
}
