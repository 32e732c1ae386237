//! The drain: messages of one channel that were set aside and are on their way once more.

use hpfeeds::wire::{Channel, extension::Position};

use super::source::Source;

/// The messages of one channel on their way once more.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) channel: Channel,
    pub(super) source: Source,
    /// Only one message, to see whether the channel is still denied.
    pub(super) is_probe: bool,
    /// Everything that it sends was planned, up to the end.
    pub(super) is_planned: bool,
    pub(super) end: Position,
    /// The parent has denied one of them.
    pub(super) is_denied: bool,
}

impl Drain {
    /// The place to read on from.
    pub(super) fn source(&mut self) -> Option<&mut Source> {
        if self.is_planned { None } else { Some(&mut self.source) }
    }
}
