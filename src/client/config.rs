//! The checked options of a running session.

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use super::spool::{Feed, Spool};
use super::{
    connect::{addr::BrokerAddr, connector::Connector},
    driver::backoff::Backoff,
    receipt::Confirm,
    when_full::WhenFull,
};
use crate::wire::{Ident, Limits, Secret};

/// Durations above this are taken for this: a point in time that far away can still be computed.
pub(crate) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The time that the driver may take to end.
const DRIVER_ENDING: Duration = Duration::from_secs(1);

/// The time that the end of a session may take to make the rest durable.
pub(crate) const SPOOL_ENDING: Duration = Duration::from_secs(5);

/// The checked options of a running session.
pub(crate) struct Config {
    pub(crate) addr: BrokerAddr,
    pub(crate) ident: Ident,
    pub(crate) secret: Secret,
    pub(crate) limits: Limits,
    pub(crate) send_queue: usize,
    pub(crate) receive_queue: usize,
    pub(crate) backoff: Backoff,
    pub(crate) max_retries: Option<u32>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) auth_grace: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) close_stall_timeout: Option<Duration>,
    pub(crate) unacknowledged: Duration,
    pub(crate) confirm: Confirm,
    /// Received messages are processed only when the program says so.
    pub(crate) manual_commit: bool,
    /// After how long without a confirmation a connection to a broker that acknowledges nothing is
    /// ended, for a session that only publishes. `None`: never.
    pub(crate) rotation: Option<Duration>,
    /// The policy for messages that find no room in the queue; with a spool, that of the spool holds.
    pub(crate) on_full: WhenFull,
    #[cfg(feature = "spool")]
    pub(crate) spool: Option<Spool>,
    #[cfg(feature = "spool")]
    pub(crate) feed: Option<Feed>,
    pub(crate) connector: Arc<dyn Connector>,
}

impl Config {
    /// The time that a session may take to end when its deadline has passed: with a spool, the rest
    /// is made durable.
    pub(crate) fn ending(&self) -> Duration {
        if self.has_spool() { DRIVER_ENDING + SPOOL_ENDING } else { DRIVER_ENDING }
    }

    /// Whether the driver can make room in a queue that is full.
    pub(crate) fn makes_room(&self) -> bool {
        self.has_spool() || self.on_full == WhenFull::DropOldest
    }

    #[cfg(feature = "spool")]
    fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    #[cfg(not(feature = "spool"))]
    #[allow(clippy::unused_self, reason = "with the feature it is asked")]
    fn has_spool(&self) -> bool {
        false
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("addr", &self.addr).field("ident", &self.ident).finish_non_exhaustive()
    }
}
