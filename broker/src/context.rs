//! Broker context: the state and services that all tasks and connections share.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::Instant,
};

use arc_swap::ArcSwap;
use hpfeeds::wire::extension::NodeId;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(feature = "dashboard")]
use crate::tap::Tap;
use crate::{
    auth::AuthStore,
    config::Config,
    delivery::context::DeliveryContext,
    identity::IdentRegistry,
    incidents::Incidents,
    journal::{state::Health, store::Store},
    limits::{
        auth_failures::AuthFailureDelay, connections::Admission, log_sampler::LogSampler,
        tls_handshakes::HandshakeLimiter,
    },
    link::pulse::Pulse,
    measure,
    metrics::{
        levels::Levels,
        registry::Metrics,
        render::render,
        snapshot::Snapshot,
        stats::Stats,
        text::{Exposition, Text},
    },
    net::{buffer_pool::BufferPool, tls::reload::Reloader},
    presence::Presence,
    routing::router::Router,
    streams::StreamTable,
    util::clock::unix_seconds,
};

/// Shows what runs this broker, as a screen for its operator.
pub(crate) type Status = Box<dyn Fn() -> String + Send + Sync>;

/// Writes more metrics behind those of the broker.
pub(crate) type MoreMetrics = Box<dyn Fn(&mut Text) + Send + Sync>;

/// State and services that the tasks and connections of one broker share.
pub(crate) struct BrokerContext {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    /// The start in seconds since 1970.
    pub(crate) started: u32,
    pub(crate) presence: Arc<Presence>,
    pub(crate) incidents: Arc<Incidents>,

    // For handshakes.
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls_handshakes: Arc<HandshakeLimiter>,
    pub(crate) certificates: Reloader,
    pub(crate) store: Arc<dyn AuthStore>,
    pub(crate) auth_failures: AuthFailureDelay,
    pub(crate) log: Samplers,
    pub(crate) identities: Arc<IdentRegistry>,

    // For sessions.
    pub(crate) router: Arc<Router>,
    pub(crate) delivery: Arc<DeliveryContext>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) streams: Arc<StreamTable>,
    pub(crate) pulse: Pulse,
    /// For those who look at what is published.
    #[cfg(feature = "dashboard")]
    pub(crate) tap: Arc<Tap>,
    /// This broker in the frames of the extension: for as long as its data folder exists, or, without
    /// one, from its start on.
    pub(crate) node: NodeId,
    /// The brokers above this one, nearest first: of a relay, its parent and what that has told.
    pub(crate) above: ArcSwap<Vec<NodeId>>,
    /// Metrics of what runs this broker, behind its own.
    pub(crate) more_metrics: OnceLock<MoreMetrics>,
    /// The screen of what runs this broker: of a relay.
    pub(crate) status: OnceLock<Status>,
    /// The journal with its mailboxes, if there is a data folder. (`store` is that of keys.)
    pub(crate) journal: Option<Arc<Store>>,

    // For the shutdown, in the order of its steps.
    /// The broker accepts nothing more, and publishers are asked to end their streams.
    pub(crate) draining: CancellationToken,
    /// Connections that may still publish.
    pub(crate) publishing: TaskTracker,
    /// Connections are read no more: they write their queues, and close.
    pub(crate) closing: CancellationToken,
    /// Connections are cut.
    pub(crate) aborted: CancellationToken,
    /// All tasks of the broker.
    pub(crate) tasks: TaskTracker,

    /// The runtime that started the broker.
    pub(crate) runtime: Handle,
}

/// Samplers for log lines that clients could cause without end.
#[derive(Debug, Default)]
pub(crate) struct Samplers {
    /// Failed authentications.
    pub(crate) rejected: LogSampler,
    /// Denials that do not end the connection.
    pub(crate) denied: LogSampler,
    /// Handshakes that failed before.
    pub(crate) refused: LogSampler,
}

impl BrokerContext {
    /// The nodes from here upwards, this one first; empty where there is none above.
    pub(crate) fn path(&self) -> Vec<NodeId> {
        let above = self.above.load();
        if above.is_empty() { Vec::new() } else { [&[self.node], &above[..]].concat() }
    }

    /// All metrics as text.
    pub(crate) fn render(&self, exposition: Exposition) -> String {
        let mut snapshot = self.snapshot();
        snapshot.seen = self.presence.last_seen(unix_seconds());
        snapshot.certificates = self.certificates.expiries();
        snapshot.storage = self.journal.as_ref().map(|store| measure::storage(store));
        render(&snapshot, exposition, |text| {
            if let Some(more) = self.more_metrics.get() {
                more(text);
            }
        })
    }

    /// Totals of the counters now.
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
        if self.journal.as_ref().is_some_and(|store| store.journal.health() == Health::Failed) {
            return Err("the journal has failed");
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
            extended: self.pulse.connections(),
            streams: self.streams.len(),
            tasks: self.runtime.metrics().num_alive_tasks(),
        }
    }
}
