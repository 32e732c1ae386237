//! The receipt of a confirmed message, the counts of a flush and of a session, and how much
//! confirmation is wanted.

use std::time::Duration;

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
    /// again on the next one. A broker that says nothing for 30 s is taken for dead; one that sends
    /// no heartbeats, when it says nothing for 120 s while a message waits for its acknowledgement.
    /// The default.
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

    /// The level at which it is confirmed: queued for those who subscribe, or stored.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }
}

/// The fates of all messages that a session had accepted before a flush, over its whole life. The four counts add up to what was accepted, but for messages that were taken out of the queue
/// ([`SessionEvent::PublishDenied`](crate::SessionEvent::PublishDenied)).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// Messages that the broker has confirmed.
    pub confirmed: u64,
    /// Messages that the broker has refused.
    pub refused: u64,
    /// Messages that were written to a broker that confirms nothing.
    pub unconfirmed: u64,
    /// Messages that were dropped for room, by the queue or a spool, or that a spool can no longer read.
    pub lost: u64,
}

/// The figures of a session at one moment, in messages: all but the last of those that it publishes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Accepted, and not written whole to the current connection.
    pub queued: u64,
    /// Written, and not confirmed yet. Without a broker that confirms, none: what is written is
    /// done with.
    pub unconfirmed: u64,
    /// On disk, in the spool: those that are in memory as well are among the figures before, too.
    pub spooled: u64,
    /// For how long the oldest of all these has waited.
    pub oldest: Option<Duration>,
    /// Confirmed, over the life of the session.
    pub confirmed: u64,
    /// Written again after a connection had broken, over the life of the session. Where the broker
    /// remembers the stream, none of them arrives twice.
    pub resent: u64,
    /// Refused by the broker, or taken out of the queue as it would have been, over the life of the
    /// session.
    pub refused: u64,
    /// Written to connections that broke before anything had confirmed them, over the life of the
    /// session: at most so many are lost. The same as
    /// [`unconfirmed`](crate::ClientSession::unconfirmed); with a spool, also messages that it
    /// dropped for room or cannot read any more; and those that were dropped for newer ones, where
    /// [`on_full`](crate::SessionBuilder::on_full) says so.
    pub lost: u64,
    /// Refused by `publish` and `try_publish` as the queue was full, over the life of the session, where
    /// [`on_full`](crate::SessionBuilder::on_full) says so.
    pub turned_away: u64,
    /// Lost by the [mailboxes](crate::ClientSession::subscribe_from) of this session before it could
    /// have them, over the life of the session, as the broker told ([`SessionEvent::Gap`](crate::SessionEvent::Gap)).
    pub missed: u64,
}
