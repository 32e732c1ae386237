//! The faults of extension frames: an error of their own, so that the errors of the base protocol,
//! and what carries them, stay as small as they are.

use super::opcode::{ExtensionOpcode, MAX_FRAME};
use crate::wire::{error::Field, names::NameError};

/// Why a field of a frame of the extension is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldFault {
    /// The frame ends before or inside the field.
    #[error("is cut short")]
    Truncated,
    /// The value of a known TLV has a length that its type does not have.
    #[error("has a wrong length of {0} bytes")]
    Length(u16),
    /// A name has no bytes or too many, or a name or text is not UTF-8.
    #[error(transparent)]
    Name(NameError),
}

/// The peer sent bytes that are no frame of the extension. Nothing after them can be understood:
/// close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionDecodeError {
    /// The total length counts the five bytes of the header, so it cannot be less.
    #[error("frame length {length} is too short: a frame has at least 5 bytes")]
    TooShort {
        /// The length that the header claims, in bytes.
        length: u32,
    },
    /// The opcode is none of 0x80 to 0x88.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u8),
    /// The total length is above the limit.
    #[error("{opcode} frame of {length} bytes is too long: the limit is {MAX_FRAME} bytes")]
    TooLong {
        /// The kind of the frame.
        opcode: ExtensionOpcode,
        /// The length that the header claims, in bytes.
        length: u32,
    },
    /// A frame that only the other side sends.
    #[error("{0} frame came from the side that never sends it")]
    Direction(ExtensionOpcode),
    /// A field is wrong.
    #[error("{field} in {opcode} frame {cause}")]
    Field {
        /// The kind of the frame.
        opcode: ExtensionOpcode,
        /// Which field.
        field: Field,
        /// The fault of the field.
        cause: FieldFault,
    },
}
