//! The parser of frame bodies: the only place that takes the base protocol's fields apart.

use std::str;

use super::{
    auth::Digest,
    error::{DecodeError, Field},
    names::{self, NameError},
    opcode::Opcode,
};

/// A PUBLISH body taken apart: ident, channel and payload.
pub(super) type Publish<'a> = (&'a str, &'a str, &'a [u8]);

/// Reads both names of a PUBLISH body in one go: checking for UTF-8 costs more to begin than for
/// another few bytes.
///
/// The channel's length byte, when it is ASCII, makes a character of its own between the names:
/// together they are UTF-8 exactly if each is. `None` for everything else, good or bad: let
/// [`Reader::publish`] find out.
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
