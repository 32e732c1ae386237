//! The extension frames that a broker sends, as values that borrow their texts.

use bytes::BytesMut;

use super::{
    error::ExtensionDecodeError,
    ids::{NodeId, Position, StreamId, StreamPosition},
    opcode::ExtensionOpcode,
    read::Reader,
    values::{Code, Flags, GapReason, Level, RefusedRange},
    write::{self, Writer},
};
use crate::wire::error::{EncodeError, Field};

/// The types of the TLVs.
const LARGEST_MESSAGE: u8 = 2;
const PATH: u8 = 3;
const REFUSED_RANGES: u8 = 4;

/// The bytes of one entry of the lists.
const NODE_LEN: usize = 16;
const RANGE_LEN: usize = 13;

/// A frame of the extension from a broker to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerFrame<'a> {
    /// The broker's answer to HELLO, and the positive one to AUTH.
    Hello(BrokerHello<'a>),
    /// Everything of the stream up to this number is decided at the granted level.
    Ack {
        /// A stream number; each ACK holds for all that are not above it.
        number: u64,
    },
    /// Some messages were refused; they count as decided.
    Refused {
        /// Which, and why.
        range: RefusedRange,
        /// Their channel, 1 to 255 bytes.
        channel: &'a str,
        /// Text for a person; what does not fit is cut when it is encoded.
        text: &'a str,
    },
    /// The answer to one SUBSCRIBE, UNSUBSCRIBE or `SUBSCRIBE_FROM`, in their order.
    SubAck {
        /// [`Code::DONE`], or why not.
        code: Code,
        /// The channel, 1 to 255 bytes.
        channel: &'a str,
        /// Text for a person; what does not fit is cut when it is encoded.
        text: &'a str,
    },
    /// A sign of life.
    Heartbeat,
    /// The next PUBLISH frames are these, consecutive in the journal and in their stream.
    Origin {
        /// The first one's position in the journal.
        position: Position,
        /// How many PUBLISH frames.
        count: u32,
        /// The first one's place in its stream; `None` when it was not confirmed (its number is 0).
        source: Option<StreamPosition>,
        /// Which mailbox they are from, 0 to 255 bytes; empty for the ident's own.
        mailbox: &'a str,
    },
    /// Messages that the client will never get.
    Gap {
        /// How many.
        messages: u64,
        /// Why.
        reason: GapReason,
        /// Which mailbox lost them, 0 to 255 bytes; empty for the ident's own.
        mailbox: &'a str,
        /// Text for a person; what does not fit is cut when it is encoded.
        text: &'a str,
    },
}

/// The broker's HELLO. With 8 nodes and 64 refused ranges it fits into a frame, whatever else it
/// holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerHello<'a> {
    /// The newest version that the broker speaks: [`VERSION`](super::VERSION).
    pub version: u8,
    /// The flags that the broker grants, and whether it knows the stream.
    pub flags: Flags,
    /// In how many seconds at the latest the broker wants to hear something; 0 for never.
    pub heartbeat: u16,
    /// The broker's identifier.
    pub node: NodeId,
    /// The stream number up to which everything is decided.
    pub decided: u64,
    /// The highest level that the broker can keep; [`Level::ROUTED`] without [`Flags::CONFIRM`].
    pub level: Level,
    /// The program and its version, 0 to 255 bytes; what is longer is cut when it is encoded.
    pub software: &'a str,
    /// The largest total length of a PUBLISH frame that the broker takes, in bytes.
    pub largest_message: Option<u32>,
    /// The nodes from the broker upwards, itself first.
    pub path: Vec<NodeId>,
    /// The stream's decided messages that were refused, as far as the broker still knows them.
    pub refused: Vec<RefusedRange>,
}

impl<'a> BrokerFrame<'a> {
    /// The kind of the frame.
    #[must_use]
    pub fn opcode(&self) -> ExtensionOpcode {
        match self {
            Self::Hello(_) => ExtensionOpcode::Hello,
            Self::Ack { .. } => ExtensionOpcode::Ack,
            Self::Refused { .. } => ExtensionOpcode::Refused,
            Self::SubAck { .. } => ExtensionOpcode::SubAck,
            Self::Heartbeat => ExtensionOpcode::Heartbeat,
            Self::Origin { .. } => ExtensionOpcode::Origin,
            Self::Gap { .. } => ExtensionOpcode::Gap,
        }
    }

    /// Reads the body of a frame that a broker sent: what follows its
    /// [`ExtensionHeader`](super::ExtensionHeader), to the end of the frame. Only the lists of HELLO
    /// are allocated, for the entries that are there.
    ///
    /// A frame that only clients send is [`ExtensionDecodeError::Direction`].
    pub fn parse(opcode: ExtensionOpcode, body: &'a [u8]) -> Result<Self, ExtensionDecodeError> {
        let mut reader = Reader::new(opcode, body)?;
        Ok(match opcode {
            ExtensionOpcode::Hello => Self::Hello(BrokerHello::parse(reader)?),
            ExtensionOpcode::Ack => Self::Ack { number: reader.u64(Field::StreamNumber)? },
            ExtensionOpcode::Refused => {
                Self::Refused { range: read_range(&mut reader)?, channel: reader.channel()?, text: reader.text()? }
            }
            ExtensionOpcode::SubAck => {
                Self::SubAck { code: Code(reader.u8(Field::Code)?), channel: reader.channel()?, text: reader.text()? }
            }
            ExtensionOpcode::Heartbeat => {
                reader.u8(Field::Reserved)?;
                Self::Heartbeat
            }
            ExtensionOpcode::Origin => {
                let (position, count) = (reader.position()?, reader.u32(Field::Count)?);
                let stream = StreamId::new(reader.array(Field::StreamId)?);
                let number = reader.u64(Field::StreamNumber)?;
                let source = (number > 0).then_some(StreamPosition { stream, number });
                Self::Origin { position, count, source, mailbox: reader.counted(Field::Mailbox)? }
            }
            ExtensionOpcode::Gap => Self::Gap {
                messages: reader.u64(Field::Count)?,
                reason: GapReason(reader.u8(Field::Reason)?),
                mailbox: reader.counted(Field::Mailbox)?,
                text: reader.text()?,
            },
            ExtensionOpcode::Consumed | ExtensionOpcode::SubscribeFrom => {
                return Err(ExtensionDecodeError::Direction(opcode));
            }
        })
    }

    /// Appends the frame's bytes to `dst`, or writes nothing and says which name is not legal or
    /// that the lists of HELLO are too long.
    pub fn encode(&self, dst: &mut BytesMut) -> Result<(), EncodeError> {
        write::frame(dst, self.opcode(), |writer| {
            match *self {
                Self::Hello(ref hello) => hello.write(writer),
                Self::Ack { number } => writer.u64(number),
                Self::Refused { range, channel, text } => {
                    write_range(writer, range);
                    writer.channel(channel)?;
                    writer.text(text);
                }
                Self::SubAck { code, channel, text } => {
                    writer.u8(code.0);
                    writer.channel(channel)?;
                    writer.text(text);
                }
                Self::Heartbeat => writer.u8(0),
                Self::Origin { position, count, source, mailbox } => {
                    let (stream, number) =
                        source.map_or((StreamId::default(), 0), |source| (source.stream, source.number));
                    writer.position(position);
                    writer.u32(count);
                    writer.bytes(stream.as_bytes());
                    writer.u64(number);
                    writer.mailbox(mailbox)?;
                }
                Self::Gap { messages, reason, mailbox, text } => {
                    writer.u64(messages);
                    writer.u8(reason.0);
                    writer.mailbox(mailbox)?;
                    writer.text(text);
                }
            }
            Ok(())
        })
    }
}

impl<'a> BrokerHello<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Self, ExtensionDecodeError> {
        let mut hello = Self {
            version: reader.u8(Field::Version)?,
            flags: Flags::from_bits(reader.u8(Field::Flags)?),
            heartbeat: reader.u16(Field::HeartbeatInterval)?,
            node: NodeId::new(reader.array(Field::NodeId)?),
            decided: reader.u64(Field::Decided)?,
            level: Level(reader.u8(Field::Level)?),
            software: reader.counted(Field::Software)?,
            ..Self::default()
        };
        let (mut path, mut refused) = (None, None);
        while let Some((kind, tlv)) = reader.tlv()? {
            match kind {
                LARGEST_MESSAGE => {
                    let largest = tlv.u32(Field::LargestMessage)?;
                    hello.largest_message.get_or_insert(largest);
                }
                PATH => {
                    let nodes =
                        tlv.list(Field::Path, NODE_LEN, |reader| Ok(NodeId::new(reader.array(Field::NodeId)?)))?;
                    path.get_or_insert(nodes);
                }
                REFUSED_RANGES => {
                    let ranges = tlv.list(Field::RefusedRanges, RANGE_LEN, read_range)?;
                    refused.get_or_insert(ranges);
                }
                _ => {}
            }
        }
        hello.path = path.unwrap_or_default();
        hello.refused = refused.unwrap_or_default();
        Ok(hello)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u8(self.version);
        writer.u8(self.flags.bits());
        writer.u16(self.heartbeat);
        writer.bytes(self.node.as_bytes());
        writer.u64(self.decided);
        writer.u8(self.level.0);
        writer.counted(self.software);
        if let Some(largest) = self.largest_message {
            writer.tlv_u32(LARGEST_MESSAGE, largest);
        }
        if !self.path.is_empty() {
            writer.tlv(PATH, self.path.len() * NODE_LEN);
            self.path.iter().for_each(|node| writer.bytes(node.as_bytes()));
        }
        if !self.refused.is_empty() {
            writer.tlv(REFUSED_RANGES, self.refused.len() * RANGE_LEN);
            self.refused.iter().for_each(|range| write_range(writer, *range));
        }
    }
}

fn read_range(reader: &mut Reader<'_>) -> Result<RefusedRange, ExtensionDecodeError> {
    Ok(RefusedRange {
        first: reader.u64(Field::StreamNumber)?,
        count: reader.u32(Field::Count)?,
        code: Code(reader.u8(Field::Code)?),
    })
}

fn write_range(writer: &mut Writer<'_>, range: RefusedRange) {
    writer.u64(range.first);
    writer.u32(range.count);
    writer.u8(range.code.0);
}
