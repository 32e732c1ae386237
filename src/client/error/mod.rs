//! The error of a session, and its causes.

mod text;

use std::{convert::Infallible, error, fmt, io, sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use super::spool::SpoolError;
use super::{connect::addr::BrokerAddr, mailbox_fault::MailboxFault};
use crate::wire::{
    Channel, DecodeError, EncodeError, Field, Ident, NameError,
    extension::{ExtensionDecodeError, Level},
};

/// Why something could not be done. One line, for a person; the predicates are for programs.
///
/// Cheap to clone: the same cause is reported by an event and by
/// [`close`](crate::ClientSession::close).
#[derive(Clone)]
pub struct Error(Arc<Cause>);

#[derive(Debug)]
pub(crate) enum Cause {
    // The caller is at fault.
    Name {
        field: Field,
        name: String,
        cause: NameError,
    },
    /// A name that was checked before the session saw it.
    BareName(NameError),
    Address {
        given: String,
    },
    /// A fault that has all its words.
    Told {
        kind: Told,
        text: String,
    },
    Encode(EncodeError),
    #[cfg(feature = "tls")]
    Tls {
        what: String,
        cause: Box<dyn error::Error + Send + Sync>,
    },
    // The broker is at fault, or the key.
    Rejected {
        addr: BrokerAddr,
        ident: Ident,
        message: Option<String>,
    },
    PublishDenied {
        channel: Option<Channel>,
        message: String,
    },
    SubscribeDenied {
        channel: Option<Channel>,
        message: String,
    },
    /// The broker has not what a subscription is to begin with.
    Mailbox(MailboxFault),
    /// A message was taken for those who are connected, and not stored.
    NotStored {
        channel: Option<Channel>,
        message: String,
    },
    /// The program no longer wants a channel that it was waiting for.
    Unsubscribed {
        channel: Channel,
    },
    /// The broker confirms less than what is required.
    LevelTooLow {
        addr: BrokerAddr,
        required: Level,
        offered: Option<Level>,
    },
    NoHello {
        addr: BrokerAddr,
        after: Duration,
    },
    /// A message was accepted for a broker that takes longer ones.
    TooLong {
        limit: u32,
    },
    NoEnd {
        addr: BrokerAddr,
        after: Duration,
    },
    Broker {
        message: String,
    },
    Protocol {
        addr: BrokerAddr,
        cause: DecodeError,
    },
    Extension {
        addr: BrokerAddr,
        cause: ExtensionDecodeError,
    },
    Unexpected {
        addr: BrokerAddr,
        what: String,
    },
    Skipped {
        addr: BrokerAddr,
        cause: DecodeError,
    },
    /// Messages that nobody takes fill more than twice the receive queue.
    Overflow {
        addr: BrokerAddr,
    },
    // The network is at fault.
    Connect {
        addr: BrokerAddr,
        cause: io::Error,
    },
    HandshakeTimeout {
        addr: BrokerAddr,
        after: Duration,
        /// Something had taken the connection.
        connected: bool,
    },
    Eof {
        addr: BrokerAddr,
    },
    Io {
        addr: BrokerAddr,
        cause: io::Error,
    },
    /// The send queue has no room right now.
    Full,
    /// Nothing that was waited for has come in time.
    Timeout {
        after: Duration,
    },
    // The disk is at fault.
    #[cfg(feature = "spool")]
    Spool(SpoolError),
    /// A message was dropped for room, or cannot be read any more.
    #[cfg(feature = "spool")]
    Lost,
    /// The session is over, and the rest is on disk.
    #[cfg(feature = "spool")]
    Spooled {
        messages: u64,
        why: Option<Error>,
    },
    // The session is over.
    Closed,
    Unsent {
        messages: u64,
        bytes: usize,
        why: Option<Error>,
    },
    Unconfirmed {
        messages: u64,
        why: Option<Error>,
    },
    /// Nothing confirms here.
    NotConfirmable {
        /// The message was written all the same.
        written: bool,
    },
    /// The session ended before a message was decided.
    NoReceipt {
        written: bool,
        why: Error,
    },
}

/// The kinds of faults that have all their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// A URL or a variable, neither of which is shown.
    Usage,
    /// A message was dropped for newer ones.
    Dropped,
    /// A value that is no JSON, or JSON that is not the value that is expected.
    #[cfg(feature = "json")]
    Json,
    /// The thread of a session cannot be made.
    #[cfg(feature = "blocking")]
    Thread,
}

/// The text of a full queue, also in the error of `try_publish`.
pub(super) const FULL: &str = "the send queue is full: the broker is away or slower than this program";

impl Error {
    pub(crate) fn new(cause: Cause) -> Self {
        Self(Arc::new(cause))
    }

    pub(crate) fn name(field: Field, name: &str, cause: NameError) -> Self {
        Self::new(Cause::Name { field, name: name.chars().take(80).collect(), cause })
    }

    pub(crate) fn address(given: &str) -> Self {
        if given.contains("://") || given.contains('@') {
            // There may be a secret in it.
            let text = "a URL is not a broker address: use SessionBuilder::from_url, or HOST:PORT alone".to_owned();
            return Self::new(Cause::Told { kind: Told::Usage, text });
        }
        Self::new(Cause::Address { given: given.to_owned() })
    }

    /// `fault` is a predicate, without any part of the URL.
    pub(crate) fn url(fault: impl Into<String>) -> Self {
        let text = format!("the URL of the broker {}", fault.into());
        Self::new(Cause::Told { kind: Told::Usage, text })
    }

    pub(crate) fn variable(name: &'static str, fault: &dyn fmt::Display) -> Self {
        Self::new(Cause::Told { kind: Told::Usage, text: format!("the variable {name}: {fault}") })
    }

    /// The spool's thread cannot be made.
    #[cfg(feature = "spool")]
    pub(crate) fn no_thread(cause: &io::Error) -> Self {
        let (dir, cause) = ("of the session".to_owned(), format!("no thread can be made: {cause}"));
        Self::new(Cause::Spool(SpoolError::Unusable { dir, cause }))
    }

    /// A message made room for newer ones.
    pub(crate) fn dropped() -> Self {
        let text = "the message was dropped from the full send queue, for newer ones".to_owned();
        Self::new(Cause::Told { kind: Told::Dropped, text })
    }

    pub(crate) fn closed() -> Self {
        Self::new(Cause::Closed)
    }

    fn cause(&self) -> &Cause {
        &self.0
    }

    /// Whether what the broker said can be about a message.
    pub(crate) fn concerns_messages(&self) -> bool {
        !matches!(self.cause(), Cause::SubscribeDenied { .. })
    }

    /// The cause behind messages that were left behind.
    fn root(&self) -> &Cause {
        match self.cause() {
            Cause::Unsent { why: Some(why), .. }
            | Cause::Unconfirmed { why: Some(why), .. }
            | Cause::NoReceipt { why, .. } => why.root(),
            #[cfg(feature = "spool")]
            Cause::Spooled { why: Some(why), .. } => why.root(),
            cause => cause,
        }
    }

    /// The caller gave something that cannot work: a bad name, an oversized payload, an unreadable
    /// certificate. Trying again does not help.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self.cause() {
            Cause::Name { .. } | Cause::BareName(_) | Cause::Address { .. } | Cause::Encode(_) => true,
            Cause::Told { kind, .. } => *kind == Told::Usage,
            #[cfg(feature = "tls")]
            Cause::Tls { .. } => true,
            _ => false,
        }
    }

    /// The broker did not accept the ident and secret (or closed right after them, as some brokers
    /// do).
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.root(), Cause::Rejected { .. })
    }

    /// The broker does not let this key publish or subscribe to a channel.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.root(), Cause::PublishDenied { .. } | Cause::SubscribeDenied { .. })
    }

    /// The channel that was denied, when the broker named it.
    #[must_use]
    pub fn denied_channel(&self) -> Option<&Channel> {
        match self.root() {
            Cause::PublishDenied { channel, .. } | Cause::SubscribeDenied { channel, .. } => channel.as_ref(),
            _ => None,
        }
    }

    /// The broker has no such mailbox or keeps no last values, or does not know such things:
    /// [`subscribe_from`](crate::ClientSession::subscribe_from) cannot begin there.
    #[must_use]
    pub fn is_no_mailbox(&self) -> bool {
        matches!(self.root(), Cause::Mailbox(_))
    }

    /// The session was closed or dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self.cause() {
            Cause::Closed => true,
            Cause::NoReceipt { why, .. } => why.is_closed(),
            _ => false,
        }
    }

    /// The broker confirms no message: it does not know the extension `hpx/1`, or the session did
    /// not ask for it ([`Confirm::Off`](crate::Confirm::Off)).
    #[must_use]
    pub fn is_not_confirmable(&self) -> bool {
        matches!(self.root(), Cause::NotConfirmable { .. })
    }

    /// A message that was to be confirmed was not, but it was written, and may have arrived all the
    /// same: sent again, it may arrive twice.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        matches!(self.cause(), Cause::NotConfirmable { written: true } | Cause::NoReceipt { written: true, .. })
    }

    /// The network failed, not the broker or the caller: trying again may help.
    #[must_use]
    pub fn is_network(&self) -> bool {
        matches!(
            self.root(),
            Cause::Connect { .. }
                | Cause::HandshakeTimeout { .. }
                | Cause::NoHello { .. }
                | Cause::NoEnd { .. }
                | Cause::Eof { .. }
                | Cause::Io { .. }
        )
    }

    /// The folder of the spool cannot be used, or its disk fails.
    #[cfg(feature = "spool")]
    #[must_use]
    pub fn is_spool(&self) -> bool {
        matches!(self.root(), Cause::Spool(_))
    }

    /// How many messages [`close`](crate::ClientSession::close) left on disk, at most: the next
    /// program with the same [spool](crate::SessionBuilder::spool) sends them. 0 when it left
    /// others behind, which are [unsent](Self::unsent).
    #[cfg(feature = "spool")]
    #[must_use]
    pub fn spooled(&self) -> u64 {
        if let Cause::Spooled { messages, .. } = self.cause() { *messages } else { 0 }
    }

    /// The send queue has no room right now, as [`try_publish`](crate::Publisher::try_publish)
    /// said; trying again later may help.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.cause(), Cause::Full | Cause::Told { kind: Told::Dropped, .. })
    }

    /// A value cannot be written as JSON, or a payload is not the JSON that is expected.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.cause(), Cause::Told { kind: Told::Json, .. })
    }

    /// Nothing that was waited for has come in time, as [`wait_for`](crate::ClientSession::wait_for)
    /// says; the session goes on.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause(), Cause::Timeout { .. })
    }

    /// [`close`](crate::ClientSession::close) had to leave messages behind: some were never
    /// written, or the broker did not confirm that it read them.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        matches!(self.cause(), Cause::Unsent { .. } | Cause::Unconfirmed { .. })
    }
}

impl Error {
    /// How many messages [`close`](crate::ClientSession::close), or giving up, left in the queue.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        if let Cause::Unsent { messages, .. } = self.cause() { *messages } else { 0 }
    }

    /// How many messages were written to the last connection, which ended before the broker had
    /// confirmed that it read them; it may have read them all the same. Only told when none is
    /// [unsent](Self::unsent). Over the whole life of a session:
    /// [`ClientSession::unconfirmed`](crate::ClientSession::unconfirmed).
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        if let Cause::Unconfirmed { messages, .. } = self.cause() { *messages } else { 0 }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self.cause() {
            Cause::Name { cause, .. } | Cause::BareName(cause) => Some(cause),
            Cause::Encode(cause) => Some(cause),
            #[cfg(feature = "tls")]
            Cause::Tls { cause, .. } => Some(&**cause),
            Cause::Extension { cause, .. } => Some(cause),
            Cause::Protocol { cause, .. } | Cause::Skipped { cause, .. } => Some(cause),
            Cause::Connect { cause, .. } | Cause::Io { cause, .. } => Some(cause),
            Cause::Unsent { why, .. } | Cause::Unconfirmed { why, .. } => why.as_ref().map(|why| why as _),
            Cause::NoReceipt { why, .. } => Some(why),
            #[cfg(feature = "spool")]
            Cause::Spool(cause) => Some(cause),
            #[cfg(feature = "spool")]
            Cause::Spooled { why, .. } => why.as_ref().map(|why| why as _),
            _ => None,
        }
    }
}

impl From<EncodeError> for Error {
    fn from(cause: EncodeError) -> Self {
        Self::new(Cause::Encode(cause))
    }
}

/// For `Channel::new(name)?` and `Ident::new(name)?`. Which name it was is not known any more.
impl From<NameError> for Error {
    fn from(cause: NameError) -> Self {
        Self::new(Cause::BareName(cause))
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}
