//! The extension frames that a client sends, as values that borrow their texts.

use bytes::BytesMut;

use super::{
    error::ExtensionDecodeError,
    ids::{Position, StreamId},
    opcode::ExtensionOpcode,
    read::Reader,
    values::{Flags, Mode},
    write::{self, Writer},
};
use crate::wire::error::{EncodeError, Field};

/// The type of the TLV with the window.
const WINDOW: u8 = 1;

/// A frame of the extension from a client to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientFrame<'a> {
    /// The client says what it can do and which stream it publishes. It may come again on the same
    /// connection, when nothing is unconfirmed, to change the stream.
    Hello(ClientHello<'a>),
    /// A sign of life.
    Heartbeat,
    /// The client has taken messages, or has processed them.
    Consumed {
        /// How many bytes of PUBLISH frames were taken on this connection, in whole frames; they
        /// open the window.
        bytes: u64,
        /// The mailbox's last message that is processed; [`Position::NONE`] for nothing new.
        position: Position,
        /// Which mailbox, 0 to 255 bytes; empty for the ident's own.
        mailbox: &'a str,
    },
    /// The client wants a channel's messages.
    SubscribeFrom {
        /// From when on.
        mode: Mode,
        /// With [`Mode::CURSOR`] the first message that is wanted, or [`Position::NONE`] for the
        /// stored cursor.
        position: Position,
        /// Which mailbox, 0 to 255 bytes; empty for the ident's own.
        mailbox: &'a str,
        /// Which channel, 1 to 255 bytes.
        channel: &'a str,
    },
}

/// The client's HELLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The newest version that the client speaks: [`VERSION`](super::VERSION).
    pub version: u8,
    /// The flags that the client asks for. [`Flags::KNOWN`] is neither read nor written.
    pub flags: Flags,
    /// In how many seconds at the latest the client wants to hear something; 0 for never.
    pub heartbeat: u16,
    /// The stream that the client publishes.
    pub stream: StreamId,
    /// The number that the client would give to the next message.
    pub next: u64,
    /// The program and its version, 0 to 255 bytes; what is longer is cut when it is encoded.
    pub software: &'a str,
    /// The TLV with the window in bytes. [`window`](Self::window) is what it comes to.
    pub window: Option<u32>,
}

impl ClientHello<'_> {
    /// The window in bytes that stands for a missing TLV: 1 MiB.
    pub const DEFAULT_WINDOW: u32 = 1 << 20;

    /// The window in bytes: `None` without [`Flags::WINDOW`].
    #[must_use]
    pub fn window(&self) -> Option<u32> {
        self.flags.contains(Flags::WINDOW).then(|| self.window.unwrap_or(Self::DEFAULT_WINDOW))
    }
}

impl<'a> ClientFrame<'a> {
    /// The kind of the frame.
    #[must_use]
    pub fn opcode(&self) -> ExtensionOpcode {
        match self {
            Self::Hello(_) => ExtensionOpcode::Hello,
            Self::Heartbeat => ExtensionOpcode::Heartbeat,
            Self::Consumed { .. } => ExtensionOpcode::Consumed,
            Self::SubscribeFrom { .. } => ExtensionOpcode::SubscribeFrom,
        }
    }

    /// Reads the body of a frame that a client sent: what follows its
    /// [`ExtensionHeader`](super::ExtensionHeader), to the end of the frame. Nothing is allocated.
    ///
    /// A frame that only brokers send is [`ExtensionDecodeError::Direction`].
    pub fn parse(opcode: ExtensionOpcode, body: &'a [u8]) -> Result<Self, ExtensionDecodeError> {
        let mut reader = Reader::new(opcode, body)?;
        Ok(match opcode {
            ExtensionOpcode::Hello => Self::Hello(ClientHello::parse(reader)?),
            ExtensionOpcode::Heartbeat => {
                reader.u8(Field::Reserved)?;
                Self::Heartbeat
            }
            ExtensionOpcode::Consumed => Self::Consumed {
                bytes: reader.u64(Field::Bytes)?,
                position: reader.position()?,
                mailbox: reader.counted(Field::Mailbox)?,
            },
            ExtensionOpcode::SubscribeFrom => Self::SubscribeFrom {
                mode: Mode(reader.u8(Field::Mode)?),
                position: reader.position()?,
                mailbox: reader.counted(Field::Mailbox)?,
                channel: reader.last_channel()?,
            },
            ExtensionOpcode::Ack
            | ExtensionOpcode::Refused
            | ExtensionOpcode::SubAck
            | ExtensionOpcode::Gap
            | ExtensionOpcode::Origin => return Err(ExtensionDecodeError::Direction(opcode)),
        })
    }

    /// Appends the frame's bytes to `dst`, or writes nothing and says which name is not legal.
    pub fn encode(&self, dst: &mut BytesMut) -> Result<(), EncodeError> {
        write::frame(dst, self.opcode(), |writer| {
            match *self {
                Self::Hello(hello) => hello.write(writer),
                Self::Heartbeat => writer.u8(0),
                Self::Consumed { bytes, position, mailbox } => {
                    writer.u64(bytes);
                    writer.position(position);
                    writer.mailbox(mailbox)?;
                }
                Self::SubscribeFrom { mode, position, mailbox, channel } => {
                    writer.u8(mode.0);
                    writer.position(position);
                    writer.mailbox(mailbox)?;
                    writer.last_channel(channel)?;
                }
            }
            Ok(())
        })
    }
}

impl<'a> ClientHello<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Self, ExtensionDecodeError> {
        let mut hello = Self {
            version: reader.u8(Field::Version)?,
            flags: Flags::from_bits(reader.u8(Field::Flags)?) & Flags::ASKED,
            heartbeat: reader.u16(Field::HeartbeatInterval)?,
            stream: StreamId::new(reader.array(Field::StreamId)?),
            next: reader.u64(Field::NextNumber)?,
            software: reader.counted(Field::Software)?,
            window: None,
        };
        while let Some((kind, tlv)) = reader.tlv()? {
            if kind == WINDOW {
                let window = tlv.u32(Field::Window)?;
                hello.window.get_or_insert(window);
            }
        }
        Ok(hello)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u8(self.version);
        writer.u8((self.flags & Flags::ASKED).bits());
        writer.u16(self.heartbeat);
        writer.bytes(self.stream.as_bytes());
        writer.u64(self.next);
        writer.counted(self.software);
        if let Some(window) = self.window {
            writer.tlv_u32(WINDOW, window);
        }
    }
}
