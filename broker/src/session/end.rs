//! Why a session ends.

use std::{fmt, io};

use crate::presence::record::Departure;

/// Reason for which a connection is no longer read from.
#[derive(Debug)]
pub(crate) enum End {
    /// The client has ended its stream.
    Eof,
    /// It sent something that is not allowed: the ERROR text.
    Refused(String),
    /// The connection is broken.
    Failed(io::Error),
    /// The subscriber was slow for too long.
    Slow,
    /// The subscriber did not read while the memory for all subscribers was full.
    Evicted,
    /// The key no longer exists, or has another secret.
    Revoked,
    /// No sign of life has come from the client for so many seconds.
    Silent(u32),
    /// Another connection publishes its stream.
    Fenced,
    /// The client has ended its stream, and messages that a mailbox wants are not stored: the end of
    /// ours must not confirm them.
    Unstored,
    /// The broker is shutting down.
    Shutdown {
        /// The client may have sent messages that were not read: the end of the stream must not
        /// confirm them.
        unread: bool,
    },
}

impl From<&End> for Departure {
    fn from(end: &End) -> Self {
        match end {
            End::Eof => Self::Closed,
            End::Refused(_) => Self::Refused,
            End::Failed(_) => Self::Broken,
            End::Slow => Self::Slow,
            End::Evicted => Self::Evicted,
            End::Revoked => Self::Revoked,
            End::Silent(_) => Self::Lifeless,
            End::Fenced => Self::Fenced,
            End::Unstored => Self::Unstored,
            End::Shutdown { .. } => Self::Shutdown,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("closed by the client"),
            // It holds names from the network: control characters are escaped.
            Self::Refused(text) => write!(f, "refused: {text:?}"),
            Self::Failed(cause) => write!(f, "{cause}"),
            Self::Slow => f.write_str("slow for too long"),
            Self::Evicted => f.write_str("it read too little while the memory for all subscribers was full"),
            Self::Revoked => f.write_str("its key was removed or has another secret"),
            Self::Silent(seconds) => write!(f, "no sign of life within {seconds} s"),
            Self::Unstored => f.write_str("closed by the client, and what it sent could not be stored"),
            Self::Fenced => f.write_str("its stream is used by another connection"),
            Self::Shutdown { .. } => f.write_str("shutdown"),
        }
    }
}
