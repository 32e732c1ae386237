//! The receipt of a confirmed message, the counts of a flush, and how much confirmation is wanted.

use crate::wire::extension::{Level, StreamId, StreamPosition};

/// How much confirmation a session wants from its broker. Brokers that do not know the extension
/// `hpx/1` give none: they behave as they always did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Confirm {
    /// None: messages are written once, and what a broken connection had not delivered is lost.
    /// Where the broker knows the extension, it still says that the key is good and which
    /// subscriptions are.
    Off,
    /// As much as the broker offers: what it has not acknowledged when a connection breaks is sent
    /// again on the next one. The default.
    #[default]
    IfOffered,
    /// At least this level. A broker that offers less is refused, and tried again later.
    Required(Level),
}

/// The broker's word that it has taken a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    position: StreamPosition,
    level: Level,
}

impl Receipt {
    pub(crate) fn new(stream: StreamId, number: u64, level: Level) -> Self {
        Self { position: StreamPosition { stream, number }, level }
    }

    /// The place of the message: the stream that the session publishes, and the number in it.
    #[must_use]
    pub fn position(&self) -> StreamPosition {
        self.position
    }

    /// What is true of the message: queued for those who subscribe, or stored.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }
}

/// What became of all messages that a session had accepted before a flush, over its whole life.
/// The three counts and what is [lost](crate::SessionStats::lost) add up to what was accepted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// Messages that the broker has confirmed.
    pub confirmed: u64,
    /// Messages that the broker has refused.
    pub refused: u64,
    /// Messages that were written to a broker that confirms nothing.
    pub unconfirmed: u64,
}
