//! The text of an error: one line, for a person.

use std::{fmt, io};

use super::{Cause, Error, FULL};
#[cfg(feature = "tls")]
use crate::client::connect::tls::fault;
use crate::{
    client::connect::addr::BrokerAddr,
    wire::{Channel, DecodeError, extension::Level},
};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause() {
            Cause::Name { field, name, cause } => write!(f, "{field} {name:?} {cause}"),
            Cause::BareName(cause) => write!(f, "the name {cause}"),
            Cause::Address { given } => {
                write!(f, "{given:?} is not a broker address: use HOST:PORT, such as \"localhost:20000\"")
            }
            Cause::Told { text, .. } => f.write_str(text),
            Cause::Encode(cause) => write!(f, "{cause}; raise the maximum on both sides or send less"),
            #[cfg(feature = "tls")]
            Cause::Tls { what, cause } => write!(f, "{what}: {cause}"),
            Cause::Rejected { addr, ident, message: Some(message) } => {
                write!(f, "{addr} rejected ident {ident:?}: {message:?}; check the ident and its secret")
            }
            Cause::Rejected { addr, ident, message: None } => write!(
                f,
                "{addr} closed the connection right after ident {ident:?} authenticated; check the ident and its secret"
            ),
            Cause::PublishDenied { channel, message } => denied(f, "publish to", channel.as_ref(), message),
            Cause::SubscribeDenied { channel, message } => denied(f, "subscribe to", channel.as_ref(), message),
            Cause::Mailbox(cause) => cause.fmt(f),
            Cause::NotStored { channel: Some(channel), message } => {
                write!(f, "the broker did not store a message to {channel:?}: {message:?}")
            }
            Cause::NotStored { channel: None, message } => write!(f, "the broker did not store a message: {message:?}"),
            Cause::Unsubscribed { channel } => write!(f, "{channel:?} was unsubscribed before the broker had answered"),
            Cause::LevelTooLow { addr, required, offered } => too_low(f, addr, *required, *offered),
            Cause::NoHello { addr, after } => {
                write!(f, "{addr} offered the extension hpx/1 and did not answer HELLO within {after:?}")
            }
            Cause::TooLong { limit } => write!(
                f,
                "a message is too long for this broker: its limit is {limit} bytes; raise the maximum on both sides or \
                 send less"
            ),
            Cause::NoEnd { addr, after } => {
                write!(f, "{addr} did not end its stream within {after:?} after the session had ended its own")
            }
            Cause::Broker { message } => write!(f, "the broker reported: {message:?}"),
            Cause::Protocol { addr, cause } => write!(f, "{addr} does not speak hpfeeds: {cause}"),
            Cause::Extension { addr, cause } => write!(f, "{addr} does not speak hpfeeds: {cause}"),
            Cause::Skipped { addr, cause: cause @ DecodeError::TooLong { .. } } => {
                write!(f, "a message from {addr} was skipped: {cause}; raise --max-message (SessionBuilder::limits)")
            }
            Cause::Overflow { addr } => write!(
                f,
                "messages from {addr} were skipped: the program takes none, and broken connections have filled the \
                 receive queue twice; read the session, or unsubscribe"
            ),
            Cause::Skipped { addr, cause } => write!(f, "a message from {addr} was skipped: {cause}"),
            Cause::Unexpected { addr, what } => write!(f, "{addr} does not speak hpfeeds: {what}"),
            Cause::Connect { addr, cause } => write!(f, "cannot connect to {addr}: {}", words(cause)),
            Cause::HandshakeTimeout { addr, after, connected } => {
                write!(f, "{addr} did not answer as an hpfeeds broker within {after:?}")?;
                // A server of TLS waits for the client to begin, and we wait for the broker.
                f.write_str(if *connected {
                    ": perhaps it expects TLS (--tls or --tlscert FILE; SessionBuilder::tls), or the port is another one's"
                } else {
                    ""
                })
            }
            Cause::Eof { addr } => write!(f, "{addr} closed the connection"),
            Cause::Full => f.write_str(FULL),
            Cause::Timeout { after } => write!(f, "no message that was waited for came within {after:?}"),
            Cause::Io { addr, cause } => write!(f, "the connection to {addr} failed: {}", words(cause)),
            Cause::Closed => f.write_str("the session is closed"),
            Cause::Unsent { messages, bytes, why } => {
                let (what, were) = if *messages == 1 { ("message", "was") } else { ("messages", "were") };
                write!(f, "{messages} {what} ({bytes} bytes) {were} not sent")?;
                if why.is_none() {
                    f.write_str(" before the deadline")?;
                }
                because(f, why.as_ref())
            }
            Cause::NotConfirmable { written } => {
                f.write_str("this broker confirms no message")?;
                f.write_str(if *written { ", and this one was written: it may have arrived" } else { "" })?;
                f.write_str("; use publish() and close(), or a broker with the extension hpx/1")
            }
            #[cfg(feature = "spool")]
            Cause::Spool(cause) => cause.fmt(f),
            #[cfg(feature = "spool")]
            Cause::Lost => f.write_str("the spool had to drop the message, or cannot read it any more"),
            #[cfg(feature = "spool")]
            Cause::Spooled { messages, why } => {
                let (what, are) = if *messages == 1 { ("message", "is") } else { ("messages", "are") };
                write!(f, "{messages} {what} {are} in the spool, and sent when a session uses it again")?;
                because(f, why.as_ref())
            }
            Cause::NoReceipt { written: true, why } => {
                write!(f, "the message was written and may have arrived, but was not confirmed: {why}")
            }
            Cause::NoReceipt { written: false, why } => write!(f, "the message was not sent: {why}"),
            Cause::Unconfirmed { messages, why } => {
                let (what, them) = if *messages == 1 { ("message was", "it") } else { ("messages were", "them") };
                write!(f, "{messages} {what} written, but the broker did not confirm that it read {them}")?;
                because(f, why.as_ref())
            }
        }
    }
}

/// A broker that confirms less than what is required, and what to do.
fn too_low(f: &mut fmt::Formatter<'_>, addr: &BrokerAddr, required: Level, offered: Option<Level>) -> fmt::Result {
    match offered {
        Some(offered) => write!(f, "{addr} confirms messages at level {}", offered.0)?,
        None => write!(f, "{addr} confirms no messages")?,
    }
    write!(f, ", and level {} is required: ask for less (--confirm; SessionBuilder::confirm), or ", required.0)?;
    f.write_str(if offered.is_some() { "give the broker a journal" } else { "use a broker with the extension hpx/1" })
}

/// An error of the network, or what it means.
fn words(cause: &io::Error) -> String {
    #[cfg(feature = "tls")]
    if let Some(words) = fault::words(cause) {
        return words;
    }
    cause.to_string()
}

fn denied(f: &mut fmt::Formatter<'_>, what: &str, channel: Option<&Channel>, message: &str) -> fmt::Result {
    match channel {
        Some(channel) => write!(f, "the broker does not let this key {what} {channel:?}: {message:?}"),
        None => write!(f, "the broker does not let this key {what} a channel: {message:?}"),
    }
}

fn because(f: &mut fmt::Formatter<'_>, why: Option<&Error>) -> fmt::Result {
    match why {
        Some(why) => write!(f, ": {why}"),
        None => Ok(()),
    }
}

/// The same line: it is what a program shows whose `main` returns the error.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?})", self.to_string())
    }
}
