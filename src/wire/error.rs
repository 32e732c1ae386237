//! Errors of decoding and encoding frames.

use std::{fmt, io};

use super::{
    extension::{ExtensionOpcode, MAX_FRAME},
    names::NameError,
    opcode::Opcode,
};

/// The part of a frame that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The identity that authenticates or publishes.
    Ident,
    /// Where a message goes.
    Channel,
    /// The broker's name in INFO.
    Name,
    /// The 20 bytes that prove the secret in AUTH.
    Digest,
    /// The version of the extension in HELLO.
    Version,
    /// The flags in HELLO.
    Flags,
    /// The interval of heartbeats in HELLO.
    HeartbeatInterval,
    /// The identifier of a stream.
    StreamId,
    /// The number of the next message in HELLO.
    NextNumber,
    /// The identifier of the broker in HELLO.
    NodeId,
    /// The number up to which everything is decided, in HELLO.
    Decided,
    /// The level that is granted in HELLO.
    Level,
    /// The name of the program in HELLO.
    Software,
    /// The type, length or value of a TLV of HELLO, whatever it is.
    Tlv,
    /// The window in bytes in HELLO.
    Window,
    /// The length of the largest message in HELLO.
    LargestMessage,
    /// The identifiers of nodes upwards in HELLO.
    Path,
    /// The refused ranges in HELLO.
    RefusedRanges,
    /// The number of a message in its stream.
    StreamNumber,
    /// The epoch of a position in the journal.
    Epoch,
    /// The number of a position in the journal.
    Number,
    /// How many messages.
    Count,
    /// The code of an answer.
    Code,
    /// The reason of a gap.
    Reason,
    /// The mode of a subscription.
    Mode,
    /// How many bytes were taken.
    Bytes,
    /// The name of a mailbox.
    Mailbox,
    /// Text for a person.
    Text,
    /// A byte that is 0.
    Reserved,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ident => "ident",
            Self::Channel => "channel",
            Self::Name => "broker name",
            Self::Digest => "digest",
            Self::Version => "version",
            Self::Flags => "flags",
            Self::HeartbeatInterval => "heartbeat interval",
            Self::StreamId => "stream id",
            Self::NextNumber => "next number",
            Self::NodeId => "node id",
            Self::Decided => "decided number",
            Self::Level => "level",
            Self::Software => "software name",
            Self::Tlv => "TLV",
            Self::Window => "window",
            Self::LargestMessage => "largest message",
            Self::Path => "path",
            Self::RefusedRanges => "refused ranges",
            Self::StreamNumber => "stream number",
            Self::Epoch => "epoch",
            Self::Number => "number",
            Self::Count => "count",
            Self::Code => "code",
            Self::Reason => "reason",
            Self::Mode => "mode",
            Self::Bytes => "bytes",
            Self::Mailbox => "mailbox",
            Self::Text => "text",
            Self::Reserved => "reserved byte",
        })
    }
}

/// The peer sent bytes that are not hpfeeds. Nothing after them can be understood: close the
/// connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The total length counts the five bytes of the header, so it cannot be less.
    #[error("frame length {length} is too short: a frame has at least 5 bytes")]
    TooShort {
        /// The length that the header claims, in bytes.
        length: u32,
    },
    /// The total length is above the limit of its opcode. See [`Limits`](super::Limits).
    #[error("{opcode} frame of {length} bytes is too long: the limit is {limit} bytes")]
    TooLong {
        /// The kind of the frame.
        opcode: Opcode,
        /// The length that the header claims, in bytes.
        length: u32,
        /// The longest that is accepted, in bytes, header included.
        limit: u32,
    },
    /// The opcode is none of 0 to 5.
    #[error("unknown opcode {0}")]
    UnknownOpcode(u8),
    /// The frame ends before or inside a field.
    #[error("{opcode} frame ends inside the {field}")]
    Truncated {
        /// The kind of the frame.
        opcode: Opcode,
        /// The field that is cut short.
        field: Field,
    },
    /// A name has no bytes or too many, or is not UTF-8.
    #[error("{field} in {opcode} frame {cause}")]
    Name {
        /// The kind of the frame.
        opcode: Opcode,
        /// Which name.
        field: Field,
        /// Why the name is not legal.
        cause: NameError,
    },
    /// The signature of AUTH is not 20 bytes long.
    #[error("AUTH digest is {found} bytes long: SHA-1 has 20")]
    DigestLength {
        /// Its length in bytes.
        found: usize,
    },
    /// The connection ended in the middle of a frame.
    #[error("the connection ended inside a frame (bytes missing: {missing})")]
    Incomplete {
        /// How many bytes the frame still lacks (of the header, when that is incomplete itself).
        missing: usize,
    },
    /// The connection itself failed; only [`Codec`](super::Codec) returns it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A frame that the protocol or the limits do not allow. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame would be above the limit of its opcode, and the peer would drop the connection.
    #[error("{opcode} frame of {length} bytes is too long: the limit is {limit} bytes")]
    TooLong {
        /// The kind of the frame.
        opcode: Opcode,
        /// The length the frame would have, in bytes, header included.
        length: usize,
        /// The longest that is allowed, in bytes, header included.
        limit: u32,
    },
    /// A broker name of more than 255 bytes.
    #[error("broker name {0}")]
    Name(NameError),
    /// The frame of the [extension](super::extension) would be above its limit: a list in HELLO has
    /// too many entries.
    #[error("{opcode} frame of {length} bytes is too long: the limit is {MAX_FRAME} bytes")]
    ExtensionTooLong {
        /// The kind of the frame.
        opcode: ExtensionOpcode,
        /// The length the frame would have, in bytes, header included.
        length: usize,
    },
    /// A name in a frame of the [extension](super::extension) has no bytes or too many.
    #[error("{field} in {opcode} frame {cause}")]
    ExtensionName {
        /// The kind of the frame.
        opcode: ExtensionOpcode,
        /// Which name.
        field: Field,
        /// Why the name is not legal.
        cause: NameError,
    },
    /// The connection itself failed; only [`Codec`](super::Codec) returns it.
    #[error(transparent)]
    Io(#[from] io::Error),
}
