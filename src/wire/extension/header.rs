//! The header of an extension frame: the same five bytes, with opcodes and a limit of its own.

use super::{
    error::ExtensionDecodeError,
    opcode::{ExtensionOpcode, MAX_FRAME},
};
use crate::wire::header::HEADER_LEN;

/// The first five bytes of a frame of the extension, checked.
///
/// A connection that has the extension reads every header with
/// [`Header::parse`](crate::wire::Header::parse) first, as does one without it. For the
/// extension's frames that fails with [`DecodeError::UnknownOpcode`](crate::wire::DecodeError), and
/// only then is the same place read with [`ExtensionHeader::parse`]: frames of the base protocol
/// pay nothing for it.
///
/// ```
/// use hpfeeds::wire::{
///     DecodeError, Header, Limits,
///     extension::{BrokerFrame, ExtensionDecodeError, ExtensionHeader},
/// };
///
/// # fn main() -> Result<(), ExtensionDecodeError> {
/// let received = b"\0\0\0\x0d\x81\0\0\0\0\0\0\0\x07";
/// match Header::parse(received, Limits::default()) {
///     Err(DecodeError::UnknownOpcode(_)) => {
///         let header = ExtensionHeader::parse(received)?.expect("five bytes are there");
///         let body = header.body(received).expect("all of it is there");
///         assert_eq!(BrokerFrame::parse(header.opcode, body)?, BrokerFrame::Ack { number: 7 });
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtensionHeader {
    /// The kind of the frame.
    pub opcode: ExtensionOpcode,
    /// The whole frame, in bytes, this header included: 5 to [`MAX_FRAME`].
    pub length: usize,
}

impl ExtensionHeader {
    /// Reads the header at the start of `bytes`, or `None` when they are fewer than five.
    ///
    /// Faults are found in the order of [`Header::parse`](crate::wire::Header::parse): a length
    /// below 5, an opcode that the extension does not have, a length above [`MAX_FRAME`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ExtensionDecodeError> {
        let Some(&[a, b, c, d, byte]) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < 5 {
            return Err(ExtensionDecodeError::TooShort { length });
        }
        let Some(opcode) = ExtensionOpcode::from_byte(byte) else {
            return Err(ExtensionDecodeError::UnknownOpcode(byte));
        };
        if length > MAX_FRAME {
            return Err(ExtensionDecodeError::TooLong { opcode, length });
        }
        Ok(Some(Self { opcode, length: length as usize }))
    }

    /// The body of the frame at the start of `bytes`, which has this header; `None` when some of it
    /// is missing.
    #[must_use]
    pub fn body(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(HEADER_LEN..self.length)
    }
}
