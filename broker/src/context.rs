//! The broker's context: what its tasks and connections share.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::AuthStore,
    config::Config,
    delivery::context::Depot,
    identity::Accounts,
    limits::{auth_failures::Throttle, connections::Admission, log_sampler::Reports, tls_handshakes::Gate},
    metrics::{Metrics, stats::Stats},
    net::{buffer_pool::BufferPool, tls::reload::Reloader},
    routing::router::Router,
};

/// What every task of a broker knows.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn AuthStore>,
    pub(crate) router: Arc<Router>,
    pub(crate) depot: Arc<Depot>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) throttle: Throttle,
    pub(crate) gate: Arc<Gate>,
    pub(crate) reports: Logged,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) certificates: Reloader,
    pub(crate) admission: Admission,
    pub(crate) accounts: Arc<Accounts>,
    /// Nothing more is read; what is queued is still written.
    pub(crate) draining: CancellationToken,
    /// Publishers have had their time to end their streams: every connection is closed.
    pub(crate) closing: CancellationToken,
    /// Connections that may still have something to say.
    pub(crate) parting: TaskTracker,
    /// Everything ends.
    pub(crate) aborted: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// What all of it runs on.
    pub(crate) runtime: Handle,
}

/// What strangers do and is not logged each time.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// They claim to be somebody, and cannot prove it.
    pub(crate) rejected: Reports,
    /// They do not even say who they are.
    pub(crate) refused: Reports,
}

impl Shared {
    pub(crate) fn stats(&self) -> Stats {
        self.depot.counters.snapshot(self.admission.open(), self.depot.buffered.load(Relaxed))
    }
}
