//! The broker's context: what its tasks and connections share.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::AuthStore,
    config::Config,
    delivery::context::DeliveryContext,
    identity::IdentRegistry,
    limits::{
        auth_failures::AuthFailureDelay, connections::Admission, log_sampler::LogSampler,
        tls_handshakes::HandshakeLimiter,
    },
    metrics::{levels::Levels, registry::Metrics, snapshot::Snapshot, stats::Stats},
    net::{buffer_pool::BufferPool, tls::reload::Reloader},
    routing::router::Router,
};

/// What every task of a broker knows.
pub(crate) struct BrokerContext {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn AuthStore>,
    pub(crate) router: Arc<Router>,
    pub(crate) delivery: Arc<DeliveryContext>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) auth_failures: AuthFailureDelay,
    pub(crate) tls_handshakes: Arc<HandshakeLimiter>,
    pub(crate) log: Samplers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) certificates: Reloader,
    pub(crate) admission: Arc<Admission>,
    pub(crate) identities: Arc<IdentRegistry>,
    /// Nothing more is read; what is queued is still written.
    pub(crate) draining: CancellationToken,
    /// Publishers have had their time to end their streams: every connection is closed.
    pub(crate) closing: CancellationToken,
    /// Connections that may still publish.
    pub(crate) publishing: TaskTracker,
    /// Everything ends.
    pub(crate) aborted: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// What all of it runs on.
    pub(crate) runtime: Handle,
}

/// What strangers do and is not logged each time.
#[derive(Debug, Default)]
pub(crate) struct Samplers {
    /// They claim to be somebody, and cannot prove it.
    pub(crate) rejected: LogSampler,
    /// They do not even say who they are.
    pub(crate) refused: LogSampler,
}

impl BrokerContext {
    pub(crate) fn stats(&self) -> Stats {
        Stats::of(&self.metrics.counters.totals(), &self.levels())
    }

    /// All numbers of the broker now, with those of each ident and channel.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot(self.levels(), Instant::now())
    }

    /// Why the broker does not accept connections, if so.
    pub(crate) fn readiness(&self) -> Result<(), &'static str> {
        if self.draining.is_cancelled() {
            return Err("shutting down");
        }
        if !self.metrics.endpoints.all_listening() {
            return Err("not listening");
        }
        Ok(())
    }

    fn levels(&self) -> Levels {
        Levels {
            connections: self.admission.open(),
            max_connections: self.config.max_connections,
            queued_bytes: self.delivery.buffered.load(Relaxed),
            max_queued_bytes: self.config.max_buffered,
            waiting_bytes: self.pool.held(),
            tasks: self.runtime.metrics().num_alive_tasks(),
        }
    }
}
