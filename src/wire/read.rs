//! The only place that takes a peer's bytes apart.

use std::str;

use super::{DecodeError, Digest, Field, Limits, NameError, Opcode, names};

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

/// The frame at the start of `bytes`, if it is a whole PUBLISH with the same names as one before.
///
/// `head` are that one's bytes from the opcode to the end of the channel. They hold the lengths of both names: a frame
/// that has the same bytes there has the same names, cut in the same way, and only its own length is left to check.
#[inline]
pub(super) fn repeated<'a>(bytes: &'a [u8], head: &[u8], limits: Limits) -> Option<(&'a [u8], &'a [u8])> {
    let (&length, rest) = bytes.split_first_chunk()?;
    let length = u32::from_be_bytes(length);
    if length > limits.of(Opcode::Publish) {
        return None;
    }
    let (rest, after) = rest.split_at_checked((length as usize).checked_sub(size_of_val(&length))?)?;
    let (found, payload) = rest.split_at_checked(head.len())?;
    if same(found, head) { Some((payload, after)) } else { None }
}

/// Whether two slices of one length are equal: without a call for what most names are, 16 to 32 bytes together.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    type Half = [u8; 16];
    let ends = |slice: &[u8]| -> Option<(Half, Half)> { Some((*slice.first_chunk()?, *slice.last_chunk()?)) };
    match (ends(a), ends(b)) {
        (Some((a1, a2)), Some((b1, b2))) if a.len() <= 32 => a1 == b1 && a2 == b2,
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
