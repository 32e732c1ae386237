//! A client's HELLO, as far as this broker grants it.

use hpfeeds::wire::extension::{ClientHello, Flags, StreamId, VERSION};

/// The flags that this broker grants, and those of them that do not need a stream.
const GRANTED: Flags = Flags::from_bits(Flags::CONFIRM.bits() | UNNUMBERED.bits());
const UNNUMBERED: Flags = Flags::from_bits(Flags::REPLIES.bits() | Flags::HEARTBEAT.bits() | Flags::WINDOW.bits());

/// Those that a broker grants that stores messages.
const STORED: Flags = Flags::from_bits(Flags::STORE.bits() | Flags::ORIGIN.bits());

/// A HELLO.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(super) version: u8,
    pub(super) flags: Flags,
    pub(super) stream: StreamId,
    pub(super) next: u64,
    /// In how many seconds the client wants to hear something, if it wants to at all.
    pub(super) heartbeat: u16,
    /// How many bytes of messages it takes beyond those that it has consumed.
    pub(super) window: Option<u32>,
}

impl Asked {
    /// Of the flags, those that this broker grants, which `stores` messages or does not.
    pub(super) fn of(hello: &ClientHello<'_>, stores: bool) -> Self {
        let mut flags = hello.flags & GRANTED;
        if stores {
            flags = flags | (hello.flags & STORED);
        }
        if hello.stream == StreamId::default() {
            // That stands for no stream: nothing could be confirmed.
            flags = flags & (UNNUMBERED | STORED);
        }
        let ClientHello { version, stream, next, .. } = *hello;
        let heartbeat = if flags.contains(Flags::HEARTBEAT) { hello.heartbeat } else { 0 };
        Self { version: version.min(VERSION), flags, stream, next, heartbeat, window: hello.window() }
    }
}
