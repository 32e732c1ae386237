//! The checked options of a running session.

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use super::spool::Spool;
use super::{
    connect::{addr::BrokerAddr, connector::Connector},
    driver::backoff::Backoff,
    receipt::Confirm,
};
use crate::wire::{Ident, Limits, Secret};

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
    /// After how long without a confirmation a connection to a broker that acknowledges nothing is
    /// ended, for a session that only publishes. `None`: never.
    pub(crate) rotation: Option<Duration>,
    #[cfg(feature = "spool")]
    pub(crate) spool: Option<Spool>,
    pub(crate) connector: Arc<dyn Connector>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("addr", &self.addr).field("ident", &self.ident).finish_non_exhaustive()
    }
}
