//! The writer of extension frames: header, fields and the limit of their length.

use bytes::{BufMut as _, BytesMut};

use super::{
    ids::Position,
    opcode::{ExtensionOpcode, MAX_FRAME},
};
use crate::wire::{
    error::{EncodeError, Field},
    header::HEADER_LEN,
    names::{self, MAX_NAME_LEN, NameError},
};

/// Appends a frame whose body `fill` writes, or leaves `dst` as it was.
pub(super) fn frame(
    dst: &mut BytesMut,
    opcode: ExtensionOpcode,
    fill: impl FnOnce(&mut Writer<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = dst.len();
    dst.put_slice(&[0, 0, 0, 0, opcode as u8]);
    let mut writer = Writer { opcode, start, dst };
    let result = fill(&mut writer).and_then(|()| writer.finish());
    if result.is_err() {
        dst.truncate(start);
    }
    result
}

pub(super) struct Writer<'a> {
    opcode: ExtensionOpcode,
    /// Where in `dst` the frame begins.
    start: usize,
    dst: &'a mut BytesMut,
}

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.dst.put_u8(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.dst.put_u16(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.dst.put_u32(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.dst.put_u64(value);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.dst.put_slice(bytes);
    }

    /// Epoch and number.
    pub(super) fn position(&mut self, position: Position) {
        self.u64(position.epoch);
        self.u64(position.number);
    }

    /// A channel with its length in the byte before it.
    pub(super) fn channel(&mut self, channel: &str) -> Result<(), EncodeError> {
        names::check(channel).map_err(|cause| self.fault(Field::Channel, cause))?;
        self.counted(channel);
        Ok(())
    }

    /// A channel that takes the rest of the frame.
    pub(super) fn last_channel(&mut self, channel: &str) -> Result<(), EncodeError> {
        names::check(channel).map_err(|cause| self.fault(Field::Channel, cause))?;
        self.bytes(channel.as_bytes());
        Ok(())
    }

    /// A mailbox, which may be empty, with its length in the byte before it.
    pub(super) fn mailbox(&mut self, mailbox: &str) -> Result<(), EncodeError> {
        if mailbox.len() > MAX_NAME_LEN {
            return Err(self.fault(Field::Mailbox, NameError::TooLong(mailbox.len())));
        }
        self.counted(mailbox);
        Ok(())
    }

    /// As much of a string as has a length of one byte, with that before it.
    pub(super) fn counted(&mut self, text: &str) {
        let text = cut(text, MAX_NAME_LEN);
        self.u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes(text.as_bytes());
    }

    /// As much of a text as the rest of the frame has room for.
    pub(super) fn text(&mut self, text: &str) {
        let room = (MAX_FRAME as usize).saturating_sub(self.length());
        self.bytes(cut(text, room).as_bytes());
    }

    /// A TLV with a number of four bytes.
    pub(super) fn tlv_u32(&mut self, kind: u8, value: u32) {
        self.tlv(kind, 4);
        self.u32(value);
    }

    /// The type and length of a TLV. A length of more than two bytes makes a frame that
    /// [`finish`](Self::finish) refuses.
    pub(super) fn tlv(&mut self, kind: u8, len: usize) {
        self.u8(kind);
        self.u16(u16::try_from(len).unwrap_or(u16::MAX));
    }

    /// How long the frame is until now, in bytes.
    fn length(&self) -> usize {
        self.dst.len() - self.start
    }

    /// Checks the length and writes it to the header.
    fn finish(&mut self) -> Result<(), EncodeError> {
        let length = self.length();
        let Some(checked) = u32::try_from(length).ok().filter(|length| *length <= MAX_FRAME) else {
            return Err(EncodeError::ExtensionTooLong { opcode: self.opcode, length });
        };
        self.dst[self.start..][..HEADER_LEN - 1].copy_from_slice(&checked.to_be_bytes());
        Ok(())
    }

    fn fault(&self, field: Field, cause: NameError) -> EncodeError {
        EncodeError::ExtensionName { opcode: self.opcode, field, cause }
    }
}

/// The longest beginning of a text that has at most so many bytes and ends between two characters.
fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    // A character has at most four bytes.
    let end = (most.saturating_sub(3)..=most).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        for (text, most, expected) in [
            ("abc", 3, "abc"),
            ("abc", 2, "ab"),
            ("abc", 0, ""),
            ("", 0, ""),
            ("aé", 2, "a"),
            ("aé", 3, "aé"),
            ("🐝", 3, ""),
            ("a🐝b", 4, "a"),
            ("a🐝b", 5, "a🐝"),
            ("蜂蜂", 5, "蜂"),
        ] {
            assert_eq!(cut(text, most), expected, "{text} to {most}");
        }
    }
}
