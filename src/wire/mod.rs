//! The hpfeeds protocol as values: frames, names, signatures. No I/O, no clock, no randomness.
//!
//! Every message is `u32 total length (big endian, counts itself) | u8 opcode | body`. Use
//! [`Codec`] with [`tokio_util::codec::Framed`] to speak it over a socket, [`Frames`] to read it in
//! place, or [`FrameBatch`] to pass on frames that nobody takes apart. The frames of the extension
//! `hpx/1` are in [`extension`]; everything else here refuses them.

mod auth;
mod batch;
mod codec;
mod error;
pub mod extension;
mod frame;
mod header;
mod name_cache;
mod names;
mod opcode;
mod other_protocol;
mod parse;
mod reader;

pub use auth::{Digest, Nonce, Secret};
pub use batch::{BatchEnd, BatchExtent, FrameBatch};
pub use codec::Codec;
pub use error::{DecodeError, EncodeError, Field};
pub use frame::{Frame, FrameRef, encode_publish, publish_len};
pub(crate) use frame::{encode_publish_head, publish_head_len};
pub use header::{HEADER_LEN, Header, Limits};
pub(crate) use name_cache::{NameCache, payload_of};
pub(crate) use names::check as check_name;
pub use names::{Channel, Ident, MAX_NAME_LEN, NameError, Pattern};
pub use opcode::Opcode;
#[doc(hidden)]
pub use other_protocol::OtherProtocol;
pub use reader::Frames;
