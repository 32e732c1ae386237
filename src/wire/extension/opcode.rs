//! The opcode of a frame of the extension, and the limit of its length.

use std::fmt;

/// The longest frame of the extension, in bytes, header included.
pub const MAX_FRAME: u32 = 4096;

/// The kind of a frame of the extension. None of them is an [`Opcode`](crate::wire::Opcode): for a
/// connection without the extension they are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum ExtensionOpcode {
    /// Each side says what it can do; the broker's is the positive answer to AUTH.
    Hello = 0x80,
    /// The broker has decided everything of the stream up to a number.
    Ack = 0x81,
    /// The broker has refused some messages.
    Refused = 0x82,
    /// The broker's answer to one subscription or its end.
    SubAck = 0x83,
    /// A sign of life, in both directions.
    Heartbeat = 0x84,
    /// The client has taken or processed messages.
    Consumed = 0x85,
    /// The client wants a channel's messages from a position on.
    SubscribeFrom = 0x86,
    /// The client will never get some messages.
    Gap = 0x87,
    /// Where in the journal and in their stream the next messages stand.
    Origin = 0x88,
}

impl ExtensionOpcode {
    /// The kind that a byte stands for, or `None` when the extension has no such opcode.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x80 => Self::Hello,
            0x81 => Self::Ack,
            0x82 => Self::Refused,
            0x83 => Self::SubAck,
            0x84 => Self::Heartbeat,
            0x85 => Self::Consumed,
            0x86 => Self::SubscribeFrom,
            0x87 => Self::Gap,
            0x88 => Self::Origin,
            _ => return None,
        })
    }
}

impl fmt::Display for ExtensionOpcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hello => "HELLO",
            Self::Ack => "ACK",
            Self::Refused => "REFUSED",
            Self::SubAck => "SUBACK",
            Self::Heartbeat => "HEARTBEAT",
            Self::Consumed => "CONSUMED",
            Self::SubscribeFrom => "SUBSCRIBE_FROM",
            Self::Gap => "GAP",
            Self::Origin => "ORIGIN",
        })
    }
}
