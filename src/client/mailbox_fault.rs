//! The faults of a subscription to a mailbox, as the broker's answer or its lack tells.

use std::fmt;

use super::connect::addr::BrokerAddr;
use crate::wire::Channel;

/// A broker that has not what a subscription is to begin with.
#[derive(Debug)]
pub(crate) enum MailboxFault {
    /// It has no mailbox of this name.
    Missing { name: String, message: String },
    /// It keeps no last values of a channel.
    NoLastValue { channel: Channel, message: String },
    /// It does not know the extension, and so no mailboxes.
    Unknown { addr: BrokerAddr },
}

impl fmt::Display for MailboxFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, message } if name.is_empty() => write!(
                f,
                "the broker has no mailbox of this ident: {message:?}; it needs --data-dir and --mailbox \
                 'IDENT=CHANNELS'"
            ),
            Self::Missing { name, message } => write!(
                f,
                "the broker has no mailbox {name:?} of this ident: {message:?}; it needs --data-dir and --mailbox \
                 'IDENT/NAME=CHANNELS'"
            ),
            Self::NoLastValue { channel, message } => write!(
                f,
                "the broker keeps no last values of {channel:?}: {message:?}; it needs --data-dir and --last-value \
                 CHANNELS"
            ),
            Self::Unknown { addr } => write!(
                f,
                "{addr} does not know the extension hpx/1, and so neither mailboxes nor last values: use a broker \
                 that does, or subscribe() to what comes from now on"
            ),
        }
    }
}
