//! The opcode of a frame: what kind of message it is.

use std::fmt;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Opcode {
    /// The broker says what was wrong.
    Error = 0,
    /// The broker's greeting: its name and the nonce.
    Info = 1,
    /// The client proves that it knows the secret.
    Auth = 2,
    /// A message, in both directions.
    Publish = 3,
    /// The client wants a channel's messages.
    Subscribe = 4,
    /// The client no longer wants them.
    Unsubscribe = 5,
}

impl Opcode {
    #[inline]
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Error,
            1 => Self::Info,
            2 => Self::Auth,
            3 => Self::Publish,
            4 => Self::Subscribe,
            5 => Self::Unsubscribe,
            _ => return None,
        })
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "ERROR",
            Self::Info => "INFO",
            Self::Auth => "AUTH",
            Self::Publish => "PUBLISH",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
        })
    }
}
