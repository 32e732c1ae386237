//! The hpfeeds protocol as values: frames, names, signatures. No I/O, no clock, no randomness.
//!
//! Every message is `u32 total length (big endian, counts itself) | u8 opcode | body`. Use [`Codec`] with
//! [`tokio_util::codec::Framed`] to speak it over a socket, or [`Frames`] to read it in place.

mod auth;
mod codec;
mod error;
mod frame;
mod frames;
mod last;
mod names;
mod other;
mod read;

pub use auth::{Digest, Nonce, Secret};
pub use codec::Codec;
pub use error::{DecodeError, EncodeError, Field};
pub use frame::{Frame, FrameRef, HEADER_LEN, Header, Limits, Opcode, encode_publish, publish_len};
pub(crate) use frame::{encode_publish_head, publish_head_len};
pub use frames::Frames;
pub(crate) use last::{Last, payload_of};
pub(crate) use names::check as check_name;
pub use names::{Channel, Ident, MAX_NAME_LEN, NameError, Pattern};
#[doc(hidden)]
pub use other::OtherProtocol;
pub(crate) use read::alike;
#[doc(hidden)]
pub use read::publish_run;
