//! The header of a frame, five bytes of length and opcode, and the limits of lengths.

use super::{error::DecodeError, opcode::Opcode};

/// The bytes before every body: the total length and the opcode.
pub const HEADER_LEN: usize = 5;

/// How long frames may be. Both sides of a connection need the same maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    max_message: u32,
}

impl Limits {
    /// 1 MiB, as the Python implementation has it (`MAXBUF`).
    pub const DEFAULT_MAX_MESSAGE: u32 = 1 << 20;

    /// INFO and AUTH: header, a counted name, 20 bytes.
    const HANDSHAKE: u32 = 5 + 256 + 20;
    /// SUBSCRIBE and UNSUBSCRIBE: header, a counted ident, a channel.
    const SUBSCRIPTION: u32 = 5 + 256 + 255;

    /// Limits with another maximum for the body of PUBLISH and ERROR, in bytes. The body of PUBLISH
    /// is the two counted names and the payload.
    #[must_use]
    pub const fn new(max_message: u32) -> Self {
        Self { max_message }
    }

    /// The longest body of PUBLISH and ERROR, in bytes.
    #[must_use]
    pub const fn max_message(self) -> u32 {
        self.max_message
    }

    /// The longest frame with this opcode, in bytes, header included.
    #[must_use]
    #[inline]
    pub const fn of(self, opcode: Opcode) -> u32 {
        match opcode {
            Opcode::Error | Opcode::Publish => self.max_message.saturating_add(5),
            Opcode::Info | Opcode::Auth => Self::HANDSHAKE,
            Opcode::Subscribe | Opcode::Unsubscribe => Self::SUBSCRIPTION,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(Self::DEFAULT_MAX_MESSAGE)
    }
}

/// The first five bytes of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The kind of the frame.
    pub opcode: Opcode,
    /// The whole frame, in bytes, this header included: at least 5.
    pub length: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`, or `None` when they are fewer than five.
    ///
    /// Both bounds of the length are checked here, before anybody waits for the body or reserves
    /// room for it.
    #[inline]
    pub fn parse(bytes: &[u8], limits: Limits) -> Result<Option<Self>, DecodeError> {
        let Some(&[a, b, c, d, byte]) = bytes.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        match Opcode::from_byte(byte) {
            Some(opcode) if length >= 5 && length <= limits.of(opcode) => {
                Ok(Some(Self { opcode, length: length as usize }))
            }
            opcode => Err(Self::fault(length, byte, opcode, limits)),
        }
    }

    /// The body of the frame at the start of `bytes`, which has this header; `None` when some of it
    /// is missing.
    #[must_use]
    #[inline]
    pub fn body(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(HEADER_LEN..self.length)
    }

    /// The error for which [`parse`](Self::parse) refuses a header: out of line, as it ends the
    /// connection.
    #[cold]
    fn fault(length: u32, byte: u8, opcode: Option<Opcode>, limits: Limits) -> DecodeError {
        match opcode {
            _ if length < 5 => DecodeError::TooShort { length },
            None => DecodeError::UnknownOpcode(byte),
            Some(opcode) => DecodeError::TooLong { opcode, length, limit: limits.of(opcode) },
        }
    }
}
