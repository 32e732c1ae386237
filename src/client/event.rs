//! The state and the events of a session.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream::FusedStream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::error::Error;
use crate::wire::{Channel, extension::GapReason};

/// The current state of a session.
///
/// ```text
///            ┌────────────── failure ─────────────┐
///            ▼                                    │
/// Waiting ──────► Connecting ──── accepted ──► Connected
///    ▲                │                           │
///    └─── failure ────┘        close, give up ────┴──► Closed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// Dialling, or waiting for the broker to accept the key.
    Connecting,
    /// The broker accepted the key. Subscriptions are in place and the queue is being sent.
    Connected,
    /// The last attempt failed; the next one follows after a delay.
    Waiting {
        /// How long from the failure to the next attempt.
        delay: Duration,
    },
    /// The session is over and does not come back.
    Closed,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::Waiting { delay } => write!(f, "waiting {delay:.1?} before the next attempt"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// Something that happened to a session, so that an operator can always learn why nothing arrives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The broker accepted the key.
    Connected {
        /// The name that the broker gave itself in INFO.
        broker: String,
    },
    /// An attempt failed, or a connection ended. The session goes on unless
    /// [`SessionEvent::Closed`] follows.
    Disconnected {
        /// Why.
        cause: Error,
        /// How many messages were written to this connection and may not have been read: at most
        /// the last 40 MiB, as no more can be on its way. The base protocol has no acknowledgement:
        /// those that the broker had not read when it went away are lost. 0 for a broker that
        /// acknowledges: what it has not acknowledged is sent again.
        unconfirmed: u64,
    },
    /// The broker did not accept the ident and secret. The session tries again with growing delays.
    AuthRejected {
        /// The refused ident, and the broker's text if it sent one.
        cause: Error,
    },
    /// The broker, which does not know the extension `hpx/1`, refused a message; one that does is in
    /// [`Refused`](Self::Refused). The channel is quarantined:
    /// [`publish`](crate::ClientSession::publish) to it fails for a minute, so that it does not
    /// take the connection down for the others each time.
    PublishDenied {
        /// The channel, when the broker named it.
        channel: Option<Channel>,
        /// How many messages that were queued for the channel were discarded.
        discarded: u64,
        /// The broker's text.
        cause: Error,
    },
    /// The broker, which knows the extension `hpx/1`, refused messages, or they are longer than it
    /// takes. Nothing else changes: the connection stays, and the next message to the channel is
    /// sent like any other. Told at most once a second for a channel.
    Refused {
        /// The channel, when the broker named it.
        channel: Option<Channel>,
        /// How many messages were refused since the session was made.
        messages: u64,
        /// The broker's text.
        cause: Error,
    },
    /// The broker offers the extension `hpx/1`, but twice in a row it ended the connection when the
    /// session asked for it, and took one without. The session does without confirmation for now.
    ExtensionLeftOut {
        /// After how long the session asks again.
        retry_in: Duration,
    },
    /// A broker without the extension `hpx/1` does not confirm messages by ending its stream after
    /// the session has ended its own, as others do: messages that were sent twice are taken for
    /// delivered. After two such ends in a row, all that is written is, for an hour.
    DeliveryAssumed {
        /// How many messages were sent twice and are taken for delivered, since the session was made.
        messages: u64,
    },
    /// The send queue was full, and its oldest messages were dropped for newer ones
    /// ([`WhenFull::DropOldest`](crate::WhenFull::DropOldest)). Told at most once a second.
    Dropped {
        /// How many there were since the session was made.
        messages: u64,
    },
    /// The broker refused a subscription. It is not asked for again until
    /// [`subscribe`](crate::ClientSession::subscribe) is called again.
    SubscribeDenied {
        /// The channel, when the broker named it or when it can only have been this one.
        channel: Option<Channel>,
        /// The broker's text.
        cause: Error,
    },
    /// The broker reported something else, for example that this consumer is too slow.
    BrokerError {
        /// The broker's words.
        message: String,
    },
    /// The broker delivered a message that cannot be given to the program, and the session passed
    /// over it: its ident or channel is no UTF-8 or cut short, or it is above the
    /// [limit](crate::SessionBuilder::limits), which is read and thrown away up to 64 MiB; or the
    /// program takes nothing while connections break over and over. The messages before and after it are not touched. Told at most once a second.
    Skipped {
        /// How many there were since the session was made;
        /// [`skipped`](crate::ClientSession::skipped) counts on.
        messages: u64,
        /// The fault of this one, and what to do.
        cause: Error,
    },
    /// A mailbox has lost messages that this session would have got. Told at most 16 times a second;
    /// [`SessionStats::missed`](crate::SessionStats) counts all.
    Gap {
        /// How many more these are.
        messages: u64,
        /// Why: removed by age or by the journal's size, damaged on the disk, or above the
        /// publisher's share.
        reason: GapReason,
        /// Which mailbox; empty for the ident's own.
        mailbox: String,
        /// The broker's words; may be empty.
        text: String,
    },
    /// Messages are on disk since now: the broker is away, or does not confirm in time. Also told
    /// at the start when earlier programs have left some.
    #[cfg(feature = "spool")]
    Spooling {
        /// How many there are, at most.
        messages: u64,
        /// For how long the oldest has waited, if a clock knows.
        oldest: Option<Duration>,
    },
    /// Everything that was on disk is confirmed.
    #[cfg(feature = "spool")]
    Drained {
        /// How long there were messages on disk.
        after: Duration,
    },
    /// The disk of the spool fails or is full. Unless it is
    /// [required](crate::Spool::required), the session goes on in memory; it is tried again every 5
    /// s. Told once, until it works again.
    #[cfg(feature = "spool")]
    SpoolFailing {
        /// The system's words, and the remedy.
        cause: Error,
    },
    /// The disk of the spool works again.
    #[cfg(feature = "spool")]
    SpoolRecovered,
    /// Messages on disk cannot be read any more, or are none that this session may send: they are
    /// lost.
    #[cfg(feature = "spool")]
    SpoolDamaged {
        /// How many more these are.
        messages: u64,
    },
    /// The spool holds as much as it may.
    #[cfg(feature = "spool")]
    SpoolFull {
        /// How many of the oldest messages it has dropped for that, since the last such event; 0
        /// where it drops none.
        dropped: u64,
    },
    /// The reader of the events was too slow: this many are missing here.
    Missed(u64),
    /// The session is over; the last event.
    Closed {
        /// Why, unless it was closed or dropped by the program.
        cause: Option<Error>,
    },
}

/// One line for a log; names and texts from the network are escaped.
impl fmt::Display for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { broker } => write!(f, "connected to {broker:?}"),
            Self::Disconnected { cause, unconfirmed: 0 } => write!(f, "disconnected: {cause}"),
            Self::Disconnected { cause, unconfirmed } => {
                write!(f, "disconnected: {cause}; messages that may not have been read: {unconfirmed}")
            }
            Self::AuthRejected { cause }
            | Self::SubscribeDenied { cause, .. }
            | Self::PublishDenied { discarded: 0, cause, .. } => cause.fmt(f),
            Self::PublishDenied { discarded, cause, .. } => write!(f, "{cause}; messages discarded: {discarded}"),
            Self::Refused { messages, cause, .. } => write!(f, "{cause}; messages refused so far: {messages}"),
            Self::ExtensionLeftOut { retry_in } => {
                write!(f, "the broker ends connections that use the extension hpx/1; without it for {retry_in:.0?}")
            }
            Self::DeliveryAssumed { messages } => {
                write!(f, "the broker confirms nothing; messages taken for delivered so far: {messages}")
            }
            Self::Dropped { messages } => {
                write!(f, "the send queue is full; oldest messages dropped so far: {messages}")
            }
            Self::Skipped { messages, cause } => write!(f, "{cause}; messages skipped so far: {messages}"),
            Self::BrokerError { message } => write!(f, "the broker reported: {message:?}"),
            Self::Gap { messages, reason, mailbox, text } => {
                let what = if *messages == 1 { "message" } else { "messages" };
                match mailbox.as_str() {
                    "" => f.write_str("the mailbox")?,
                    mailbox => write!(f, "the mailbox {mailbox:?}")?,
                }
                write!(f, " has lost {messages} {what} ({reason})")?;
                if text.is_empty() { Ok(()) } else { write!(f, ": {text:?}") }
            }
            #[cfg(feature = "spool")]
            Self::Spooling { messages, oldest: None } => write!(f, "spooling: messages on disk: {messages}"),
            #[cfg(feature = "spool")]
            Self::Spooling { messages, oldest: Some(oldest) } => {
                write!(f, "spooling: messages on disk: {messages}, the oldest for {oldest:.0?}")
            }
            #[cfg(feature = "spool")]
            Self::Drained { after } => write!(f, "the spool is drained after {after:.0?}"),
            #[cfg(feature = "spool")]
            Self::SpoolFailing { cause } => cause.fmt(f),
            #[cfg(feature = "spool")]
            Self::SpoolRecovered => f.write_str("the disk of the spool works again"),
            #[cfg(feature = "spool")]
            Self::SpoolDamaged { messages } => write!(f, "messages of the spool that cannot be read: {messages}"),
            #[cfg(feature = "spool")]
            Self::SpoolFull { dropped: 0 } => f.write_str("the spool is full"),
            #[cfg(feature = "spool")]
            Self::SpoolFull { dropped } => write!(f, "the spool is full; oldest messages dropped: {dropped}"),
            Self::Missed(events) => write!(f, "events missed: {events}"),
            Self::Closed { cause: Some(cause) } => write!(f, "closed: {cause}"),
            Self::Closed { cause: None } => f.write_str("closed"),
        }
    }
}

/// The events of a session, as a stream. It holds the last 64 events until they are read, and ends
/// after [`SessionEvent::Closed`].
#[derive(Debug)]
pub struct Events {
    events: BroadcastStream<SessionEvent>,
    ended: bool,
}

impl Events {
    pub(crate) const CAPACITY: usize = 64;

    pub(crate) fn new(events: broadcast::Receiver<SessionEvent>) -> Self {
        Self { events: BroadcastStream::new(events), ended: false }
    }

    /// For a session that is over.
    pub(crate) fn ended(self) -> Self {
        Self { ended: true, ..self }
    }
}

impl FusedStream for Events {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl Stream for Events {
    type Item = SessionEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = match ready!(Pin::new(&mut self.events).poll_next(cx)) {
            Some(Ok(event)) => Some(event),
            Some(Err(BroadcastStreamRecvError::Lagged(missed))) => Some(SessionEvent::Missed(missed)),
            None => None,
        };
        self.ended = matches!(event, None | Some(SessionEvent::Closed { .. }));
        Poll::Ready(event)
    }
}
