//! The extension `hpx/1` as values: frames by which a client and a broker confirm what they have.
//!
//! A broker offers it with a token behind its name in INFO ([`offer`], [`strip`]). A client that
//! knows the token sends HELLO together with AUTH, and both sides then send the frames of the
//! opcodes 0x80 to 0x88 among those of the base protocol. Other peers never see one: for
//! [`Header`](super::Header), [`Codec`](super::Codec), [`Frames`](super::Frames) and
//! [`FrameBatch`](super::FrameBatch) these opcodes are unknown. [`ExtensionHeader`] is the door
//! behind them, [`ClientFrame`] and [`BrokerFrame`] are what the two sides may send.
//!
//! Each frame is `u32 total length (big endian, counts itself) | u8 opcode | body`, and at most
//! [`MAX_FRAME`] bytes long. Numbers are big endian.
//!
//! ```text
//! 0x80 HELLO           client  u8 version | u8 flags | u16 heartbeat | 16 B stream id | u64 next
//!                              | u8 length, software | TLVs
//! 0x80 HELLO           broker  u8 version | u8 flags | u16 heartbeat | 16 B node id | u64 decided
//!                              | u8 level | u8 length, software | TLVs
//! 0x81 ACK             broker  u64 number
//! 0x82 REFUSED         broker  u64 first | u32 count | u8 code | u8 length, channel | text
//! 0x83 SUBACK          broker  u8 code | u8 length, channel | text
//! 0x84 HEARTBEAT       both    u8 0
//! 0x85 CONSUMED        client  u64 bytes | u64 epoch | u64 number | u8 length, mailbox
//! 0x86 SUBSCRIBE_FROM  client  u8 mode | u64 epoch | u64 number | u8 length, mailbox | channel
//! 0x87 GAP             broker  u64 messages | u8 reason | u8 length, mailbox | text
//! 0x88 ORIGIN          broker  u64 epoch | u64 number | u32 count | 16 B stream id
//!                              | u64 number in the stream | u8 length, mailbox
//! ```
//!
//! A TLV is `u8 type | u16 length | value`. Type 1 is the window (`u32` bytes, from a client), 2 the
//! largest total length of a message (`u32` bytes, from a broker), 3 the path (node ids, from a
//! broker), 4 the refused ranges (`u64 first | u32 count | u8 code` each, from a broker).
//!
//! # Rules of parsing
//!
//! - Bytes behind the last field are ignored, and so are flags without a name, TLVs of another type
//!   or of the other side's, and the value of the byte in HEARTBEAT: newer peers may use them.
//! - A known TLV of a wrong length is a fault, and so is a TLV that is cut short. Of several TLVs
//!   of one type the first counts; the length of each is checked.
//! - Channels have 1 to 255 bytes, mailboxes and software 0 to 255; these and texts are UTF-8.
//! - Codes, modes, reasons, levels and versions are taken as they are.
//!
//! A fault names the frame and its field, and ends the connection, as each
//! [`ExtensionDecodeError`] does.

mod broker_frame;
mod client_frame;
mod error;
mod header;
mod ids;
mod numbering;
mod opcode;
mod read;
mod token;
mod values;
mod write;

pub use broker_frame::{BrokerFrame, BrokerHello};
pub use client_frame::{ClientFrame, ClientHello};
pub use error::{ExtensionDecodeError, FieldFault};
pub use header::ExtensionHeader;
pub use ids::{NodeId, Position, StreamId, StreamPosition};
pub use numbering::{StreamNumbering, next_number};
pub use opcode::{ExtensionOpcode, MAX_FRAME};
pub use token::{offer, strip};
pub use values::{Code, Flags, GapReason, Level, Mode, RefusedRange};

/// The version of the extension that this library speaks. The version of a connection is the lower
/// of the two in HELLO.
pub const VERSION: u8 = 1;
