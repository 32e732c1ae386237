//! The cursor of an uplink: how far the journal is sent, and which number that message has in the
//! stream of its epoch.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hpfeeds::wire::extension::{Position, StreamId};

/// A place in the journal with its place in the stream of its epoch. Both are stored together, so
/// that a message has the same number whenever it is read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Everything up to here is decided.
    pub(super) position: Position,
    /// The number of the ident's last message up to there, in that epoch.
    pub(super) number: u64,
}

impl Cursor {
    pub(super) fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(24);
        for number in [self.position.epoch, self.position.number, self.number] {
            bytes.put_u64(number);
        }
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let position = Position::new(bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        Some(Self { position, number: bytes.try_get_u64().ok()? })
    }
}

/// An identifier that no other stream has: 128 random bits of the system.
///
/// # Panics
/// Where the system has no randomness: the node's identifier and every nonce need it before.
pub(super) fn new_stream() -> StreamId {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the system gives random bytes, as it did at the start");
    StreamId::new(id)
}
