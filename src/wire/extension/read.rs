//! The reader of extension frame bodies: the only place that takes their fields apart.

use std::str;

use super::{
    error::{ExtensionDecodeError, FieldFault},
    ids::Position,
    opcode::{ExtensionOpcode, MAX_FRAME},
};
use crate::wire::{
    error::Field,
    header::HEADER_LEN,
    names::{self, NameError},
};

pub(super) struct Reader<'a> {
    opcode: ExtensionOpcode,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The reader of a body, unless its frame is above the limit.
    pub(super) fn new(opcode: ExtensionOpcode, body: &'a [u8]) -> Result<Self, ExtensionDecodeError> {
        let length = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
        if length > MAX_FRAME {
            return Err(ExtensionDecodeError::TooLong { opcode, length });
        }
        Ok(Self { opcode, rest: body })
    }

    /// So many bytes as they are.
    pub(super) fn array<const N: usize>(&mut self, field: Field) -> Result<[u8; N], ExtensionDecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(self.fault(field, FieldFault::Truncated));
        };
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self, field: Field) -> Result<u8, ExtensionDecodeError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: Field) -> Result<u16, ExtensionDecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: Field) -> Result<u32, ExtensionDecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: Field) -> Result<u64, ExtensionDecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Epoch and number.
    pub(super) fn position(&mut self) -> Result<Position, ExtensionDecodeError> {
        Ok(Position { epoch: self.u64(Field::Epoch)?, number: self.u64(Field::Number)? })
    }

    /// A string of 0 to 255 bytes with its length in the byte before it.
    pub(super) fn counted(&mut self, field: Field) -> Result<&'a str, ExtensionDecodeError> {
        let len = usize::from(self.u8(field)?);
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.fault(field, FieldFault::Truncated));
        };
        self.rest = rest;
        self.utf8(field, bytes)
    }

    /// A channel with its length in the byte before it.
    pub(super) fn channel(&mut self) -> Result<&'a str, ExtensionDecodeError> {
        let channel = self.counted(Field::Channel)?;
        self.named(Field::Channel, channel)
    }

    /// A channel that takes the rest of the frame.
    pub(super) fn last_channel(self) -> Result<&'a str, ExtensionDecodeError> {
        let channel = self.utf8(Field::Channel, self.rest)?;
        self.named(Field::Channel, channel)
    }

    /// Text that takes the rest of the frame.
    pub(super) fn text(self) -> Result<&'a str, ExtensionDecodeError> {
        self.utf8(Field::Text, self.rest)
    }

    /// The next TLV, as its type and value; `None` at the end of the frame.
    pub(super) fn tlv(&mut self) -> Result<Option<(u8, Tlv<'a>)>, ExtensionDecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (kind, len) = (self.u8(Field::Tlv)?, self.u16(Field::Tlv)?);
        let Some((value, rest)) = self.rest.split_at_checked(len.into()) else {
            return Err(self.fault(Field::Tlv, FieldFault::Truncated));
        };
        self.rest = rest;
        Ok(Some((kind, Tlv { opcode: self.opcode, value, len })))
    }

    fn named(&self, field: Field, name: &'a str) -> Result<&'a str, ExtensionDecodeError> {
        names::check(name).map_err(|cause| self.fault(field, FieldFault::Name(cause)))?;
        Ok(name)
    }

    fn utf8(&self, field: Field, bytes: &'a [u8]) -> Result<&'a str, ExtensionDecodeError> {
        str::from_utf8(bytes).map_err(|_| self.fault(field, FieldFault::Name(NameError::NotUtf8)))
    }

    fn fault(&self, field: Field, cause: FieldFault) -> ExtensionDecodeError {
        ExtensionDecodeError::Field { opcode: self.opcode, field, cause }
    }
}

/// The value of a TLV.
pub(super) struct Tlv<'a> {
    opcode: ExtensionOpcode,
    value: &'a [u8],
    len: u16,
}

impl<'a> Tlv<'a> {
    /// A number of four bytes.
    pub(super) fn u32(&self, field: Field) -> Result<u32, ExtensionDecodeError> {
        self.value.try_into().map(u32::from_be_bytes).map_err(|_| self.length(field))
    }

    /// A list of entries that have so many bytes each, which `entry` reads.
    pub(super) fn list<T>(
        &self,
        field: Field,
        len: usize,
        entry: impl Fn(&mut Reader<'a>) -> Result<T, ExtensionDecodeError>,
    ) -> Result<Vec<T>, ExtensionDecodeError> {
        if self.value.len() % len != 0 {
            return Err(self.length(field));
        }
        let mut reader = Reader { opcode: self.opcode, rest: self.value };
        let mut entries = Vec::with_capacity(self.value.len() / len);
        while !reader.rest.is_empty() {
            entries.push(entry(&mut reader)?);
        }
        Ok(entries)
    }

    fn length(&self, field: Field) -> ExtensionDecodeError {
        ExtensionDecodeError::Field { opcode: self.opcode, field, cause: FieldFault::Length(self.len) }
    }
}
