//! The running broker: start, reload, shutdown, and the streams that a program hands over.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

#[cfg(feature = "exporter")]
use crate::http;
#[cfg(feature = "dashboard")]
use crate::view::shown::{Prepared, Shown};
use crate::{
    accept,
    auth::{chain::ChainStore, key::Key},
    background,
    builder::BrokerBuilder,
    context::{BrokerContext, Samplers},
    data_folder,
    delivery::context::DeliveryContext,
    error::{ReloadError, StartError},
    identity::IdentRegistry,
    limits::{auth_failures::AuthFailureDelay, connections::Admission},
    link::pulse::Pulse,
    metrics::{drops::Dropped, registry::Metrics, stats::Stats, text::Exposition},
    net::{
        buffer_pool::BufferPool,
        endpoint::{
            Endpoint,
            open::{Opened, Service},
        },
        tls::reload::Reloader,
    },
    streams::StreamTable,
    util::clock::unix_seconds,
    view::{BrokerSnapshot, sampler},
};

/// How long publishers are read after a shutdown has asked them to end their streams: some round
/// trips.
const STREAM_END_TIMEOUT: Duration = Duration::from_millis(500);

/// A running broker.
///
/// The broker runs on tasks of the runtime that started it. Dropping it stops all of them at once
/// and cuts every connection (those of publishers are reset); [`shutdown`](Self::shutdown) writes
/// the queues of subscribers first.
#[must_use = "a broker that is dropped stops"]
pub struct Broker {
    pub(crate) context: Arc<BrokerContext>,
    addrs: Vec<SocketAddr>,
    #[cfg(feature = "exporter")]
    exporter: Option<http::Exporter>,
    #[cfg(feature = "dashboard")]
    dashboard: Option<Shown>,
}

impl Broker {
    /// A builder with the default options; [`start`](BrokerBuilder::start) starts the broker.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    /// A builder for tests: the ident `dev` with the secret `dev` may publish and subscribe to
    /// every channel. Only the endpoint is missing.
    #[must_use = "a builder does nothing until `start`"]
    pub fn dev_builder() -> BrokerBuilder {
        Self::builder().user(dev_key())
    }

    /// A broker for tests: [`dev_builder`](Self::dev_builder) on the loopback interface, at a port
    /// that the system picks.
    pub async fn dev() -> Result<Self, StartError> {
        Self::dev_builder().endpoint(Endpoint::tcp("127.0.0.1", 0)).start().await
    }

    async fn start(builder: BrokerBuilder) -> Result<Self, StartError> {
        builder.check_options()?;
        let BrokerBuilder { endpoints, listeners, users, stores, config, .. } = builder;
        let config = config.capped();
        if config.extensions && !config.offers_extension() {
            warn!(name = config.name, "the name leaves no room for the token hpx/1: the extension is not offered");
        }
        let pool = Arc::new(BufferPool::new(config.max_buffered));
        let mut store = ChainStore::new();
        store.push(users);
        store.push(stores);
        // Before the listeners: another broker that uses the folder may have their addresses, too.
        let storage = data_folder::open(config.storage.clone()).await?;
        let (listeners, addrs) = open(endpoints, listeners).await?;
        #[cfg(feature = "exporter")]
        let (mut exporter, _) = open(builder.exporter.into_iter().collect(), Vec::new()).await?;
        #[cfg(feature = "dashboard")]
        let (shown, shown_addrs) = open(builder.dashboard.endpoint.iter().cloned().collect(), Vec::new()).await?;
        let certificates = listeners.iter().zip(&addrs);
        #[cfg(feature = "dashboard")]
        let certificates = certificates.chain(shown.iter().zip(&shown_addrs));
        let certificates = certificates.filter_map(|((_, service), addr)| Some((*addr, service.tls.clone()?)));
        let certificates = Reloader::new(certificates);
        #[cfg(feature = "dashboard")]
        let (options, folder) = (builder.dashboard, config.storage.dir.as_deref());
        #[cfg(feature = "dashboard")]
        let dashboard =
            shown.into_iter().next().map(|(listener, service)| Prepared::new(listener, service, options, folder));
        #[cfg(feature = "dashboard")]
        let dashboard = dashboard.transpose()?;
        let rules = config.rules();
        let auth_failures = AuthFailureDelay::new(config.auth_failure_delay);
        let admission = Arc::new(Admission::new(config.max_connections, config.max_connections_per_address));
        let identities = Arc::new(IdentRegistry::new(config.quota_rules()));
        let metrics = Arc::new(Metrics::new(&addrs));
        let (journal, node) = match storage {
            Some((store, node)) => (Some(Arc::new(store)), node),
            None => (None, data_folder::random_node()?),
        };
        let streams = StreamTable::new(journal.as_ref().map(|store| store.report.known.clone()).unwrap_or_default());
        let presence = sampler::load(config.storage.dir.clone()).await;
        let delivery = DeliveryContext::new(rules, metrics.counters.clone());
        let context = Arc::new(BrokerContext {
            config,
            started: unix_seconds(),
            presence: Arc::new(presence),
            incidents: delivery.incidents.clone(),
            store: Arc::new(store),
            router: Arc::default(),
            delivery,
            pool,
            streams: Arc::new(streams),
            pulse: Pulse::default(),
            #[cfg(feature = "dashboard")]
            tap: Arc::default(),
            node,
            above: ArcSwap::default(),
            more_metrics: OnceLock::new(),
            status: OnceLock::new(),
            journal,
            auth_failures,
            tls_handshakes: Arc::default(),
            log: Samplers::default(),
            metrics,
            certificates,
            admission,
            identities,
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            publishing: TaskTracker::new(),
            aborted: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        for ((listener, service), addr) in listeners.into_iter().zip(&addrs) {
            let listening = context.metrics.endpoints.listening(*addr);
            context.tasks.spawn(accept::run(listener, Arc::new(service), listening, context.clone()));
        }
        background::spawn(&context);
        Ok(Self {
            #[cfg(feature = "dashboard")]
            dashboard: dashboard.map(|prepared| prepared.start(&context)),
            #[cfg(feature = "exporter")]
            exporter: exporter
                .pop()
                .map(|(listener, _)| http::Exporter::start(listener, handlers(&context)))
                .transpose()?,
            context,
            addrs,
        })
    }

    /// Serves a client over any stream of bytes, beside the clients of the endpoints: a pipe in
    /// memory, a Unix socket, TLS that is unwrapped already, a simulated network. Returns at once:
    /// a task of the current runtime serves the client, and [`shutdown`](Self::shutdown) waits for
    /// that task.
    ///
    /// The stream is a connection like any other, with the same handshake, limits and metrics
    /// (under the endpoint `stream`), and gets an ERROR if there is no room for it. `peer` is the
    /// address that limits apply to and that the log names; a stream without an address may have
    /// any.
    ///
    /// The end of a client's stream is `Ok(0)`, as always. A stream has no reset, as TCP has: where
    /// a reset would say that messages may be lost, as when this broker is dropped, the stream is
    /// dropped without [`poll_shutdown`](tokio::io::AsyncWrite::poll_shutdown). A client that takes
    /// the end of the stream for a confirmation, as
    /// [`ClientSession::close`](hpfeeds::ClientSession::close) does, must be able to tell these two
    /// apart. With [`tokio::io::duplex`] it cannot, unless the broker always ends by `shutdown`.
    ///
    /// ```
    /// use std::{io, sync::{Arc, Weak}};
    /// use futures::{FutureExt as _, future::BoxFuture};
    /// use hpfeeds::{BrokerAddr, ClientSession, Connector, Transport};
    /// use hpfeeds_broker::Broker;
    ///
    /// /// Reaches a broker of this program without a network.
    /// struct InMemory(Weak<Broker>);
    ///
    /// impl Connector for InMemory {
    ///     fn connect<'a>(&'a self, _: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
    ///         async {
    ///             let broker = self.0.upgrade().ok_or(io::ErrorKind::ConnectionRefused)?;
    ///             let (ours, theirs) = tokio::io::duplex(64 * 1024);
    ///             broker.serve(theirs, ([127, 0, 0, 1], 0).into());
    ///             Ok(Box::new(ours) as _)
    ///         }
    ///         .boxed()
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Arc::new(Broker::dev_builder().without_endpoint().start().await?);
    /// let connector = InMemory(Arc::downgrade(&broker));
    /// let mut session = ClientSession::builder(("memory", 0), "dev", "dev").connector(connector).connect().await?;
    /// session.subscribe("chat")?;
    /// session.publish("chat", "hello").await?;
    /// let (ident, channel, payload) = session.read().await.ok_or("the session ended")?;
    /// assert_eq!((&*ident, &*channel, &*payload), ("dev", "chat", &b"hello"[..]));
    /// session.close().await?;
    /// Arc::into_inner(broker).ok_or("it is used elsewhere")?.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: SocketAddr) {
        accept::admit_stream(stream, peer, &self.context);
    }

    /// The addresses that the broker listens on, in the order of the endpoints, with the ports that
    /// the system picked.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first of [`local_addrs`](Self::local_addrs).
    ///
    /// # Panics
    /// When there is none, see [`without_endpoint`](BrokerBuilder::without_endpoint).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        *self.addrs.first().expect("a broker without an endpoint has no address")
    }

    /// Totals of the counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.context.stats()
    }

    /// The operator's view: sensors and their states, consumers, channels, incidents, mailboxes, and the
    /// books. Takes about 1 ms for each thousand idents, and some milliseconds for each mailbox where there are
    /// very many channels.
    #[must_use]
    pub fn snapshot(&self) -> BrokerSnapshot {
        self.context.view()
    }

    /// The metrics as the exporter has them at `/metrics`, for a program with an HTTP server of its
    /// own. Takes about 4 ms for each thousand pairs of ident and channel, of which there are at
    /// most 10,000: an asynchronous program may want to call it in a blocking task.
    #[must_use]
    pub fn metrics(&self, exposition: Exposition) -> String {
        self.context.render(exposition)
    }

    /// Whether the broker accepts connections: until its shutdown begins.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.context.readiness().is_ok()
    }

    /// The address that the exporter listens on, if there is one, with the port that the system
    /// picked.
    #[cfg(feature = "exporter")]
    #[must_use]
    pub fn exporter_addr(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(http::Exporter::addr)
    }

    /// The address that the dashboard listens on, if there is one, with the port that the system picked.
    #[cfg(feature = "dashboard")]
    #[must_use]
    pub fn dashboard_addr(&self) -> Option<SocketAddr> {
        self.dashboard.as_ref().map(|shown| shown.dashboard.addr())
    }

    /// The token of the dashboard that may do everything, if it was made at this start: to be shown once.
    #[cfg(feature = "dashboard")]
    #[must_use]
    pub fn new_dashboard_token(&self) -> Option<&str> {
        self.dashboard.as_ref()?.new_token.as_deref()
    }

    /// Looks up the keys of all connections now, without waiting for
    /// [`recheck_keys`](BrokerBuilder::recheck_keys): for a program that has just changed its
    /// store. Returns at once; changes take effect as the store answers. Does nothing when
    /// rechecking is turned off.
    pub fn recheck_now(&self) {
        self.context.recheck_now();
    }

    /// Messages that slow subscribers did not get, in at most 10,000 entries: later drops are in
    /// [`Stats::dropped`] only.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.context.metrics.counters.drops.entries()
    }

    /// Reloads the key stores, the certificates and the tokens of the dashboard. A store, certificate or
    /// file of tokens that cannot be read stays as it was, and is named in the error; the rest is replaced. Then the keys of live
    /// connections are looked up, see [`recheck_now`](Self::recheck_now).
    ///
    /// A store that does not answer within [`auth_timeout`](BrokerBuilder::auth_timeout) has
    /// failed. When this is dropped before it returns, some stores may not have been read again.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let BrokerContext { config, store, .. } = &*self.context;
        let mut failures = Vec::new();
        match timeout(config.auth_timeout, store.reload()).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => failures.push(cause.to_string()),
            Err(_) => failures.push("the key stores did not answer in time".to_owned()),
        }
        // Reading files blocks.
        let context = self.context.clone();
        match tokio::task::spawn_blocking(move || context.certificates.reload()).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => failures.push(cause.to_string()),
            Err(cause) => failures.push(cause.to_string()),
        }
        #[cfg(feature = "dashboard")]
        if let Some(shown) = &self.dashboard {
            let tokens = shown.dashboard.tokens().clone();
            match tokio::task::spawn_blocking(move || tokens.reload()).await {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => failures.push(cause),
                Err(cause) => failures.push(cause.to_string()),
            }
        }
        self.recheck_now();
        ReloadError::unless_empty(failures)
    }

    /// Shuts the broker down. It stops accepting connections, asks publishers to end their streams
    /// (the ERROR `The broker is shutting down; end your stream`), and reads them for half a
    /// second, or until all have ended theirs. Then it stops reading, writes the queues and, to
    /// publishers that have not ended their streams, the ERROR `The broker is shutting down`, and
    /// closes every connection. Messages that are not written within
    /// [`drain_timeout`](BrokerBuilder::drain_timeout) are lost; a second later every task has
    /// ended.
    ///
    /// An end of stream without that ERROR confirms that everything a client sent has been
    /// processed. So a client that has ended its own stream already is read to that end, and gets
    /// no ERROR.
    ///
    /// The exporter answers until the last connection is closed. When this future is dropped before
    /// it returns, everything stops at once.
    ///
    /// Returns the totals of the counters.
    pub async fn shutdown(self) -> Stats {
        let BrokerContext { config, draining, closing, publishing, aborted, tasks, .. } = &*self.context;
        draining.cancel();
        tasks.close();
        publishing.close();
        // Subscribers stay meanwhile: the last messages of the publishers are for them.
        let _ended = timeout(STREAM_END_TIMEOUT.min(config.drain_timeout), publishing.wait()).await;
        closing.cancel();
        // A second more than the connections take themselves, so that they can send their ERROR.
        if timeout(config.drain_timeout + Duration::from_secs(1), tasks.wait()).await.is_err() {
            aborted.cancel();
            tasks.wait().await;
        }
        // The last connections have left.
        if timeout(data_folder::CLOSE_TIMEOUT, sampler::save(&self.context)).await.is_err() {
            warn!("the disk of the data folder does not answer: a restart forgets the presence of idents");
        }
        // After the last connection, whose mailboxes' cursors are stored, too.
        if let Some(store) = &self.context.journal {
            data_folder::close(store.clone()).await;
        }
        #[cfg(feature = "exporter")]
        if let Some(exporter) = &self.exporter {
            exporter.stop().await;
        }
        #[cfg(feature = "dashboard")]
        if let Some(shown) = &self.dashboard {
            shown.dashboard.stop().await;
        }
        let stats = self.stats();
        let Stats { received_messages: received, delivered, dropped, discarded, unrouted, .. } = stats;
        info!(received, delivered, dropped, discarded, unrouted, "stopped");
        stats
    }
}

impl BrokerBuilder {
    /// Opens all endpoints and starts to accept connections, on the runtime that this is called on.
    ///
    /// Either everything is open when it returns, or nothing; nothing is, too, when the future is
    /// dropped before that.
    pub async fn start(self) -> Result<Broker, StartError> {
        Broker::start(self).await
    }
}

impl BrokerContext {
    /// See [`Broker::recheck_now`].
    pub(crate) fn recheck_now(&self) {
        self.identities.recheck.notify_one();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.context.draining.cancel();
        self.context.closing.cancel();
        self.context.aborted.cancel();
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

/// The exporter's view of a broker. It does not keep the broker's context alive.
#[cfg(feature = "exporter")]
fn handlers(context: &Arc<BrokerContext>) -> http::Handlers {
    let (rendered, ready) = (Arc::downgrade(context), Arc::downgrade(context));
    http::Handlers {
        render: Box::new(move |exposition| Some(rendered.upgrade()?.render(exposition))),
        readiness: Box::new(move || ready.upgrade().map_or(Err("shutting down"), |context| context.readiness())),
    }
}

fn dev_key() -> Key {
    let key = Key::new("dev", "dev").and_then(|key| key.publish(["*"])).and_then(|key| key.subscribe(["*"]));
    key.expect("these names are legal")
}

/// Opens the listeners of all endpoints, or of none.
async fn open(
    endpoints: Vec<Endpoint>,
    listeners: Vec<TcpListener>,
) -> Result<(Vec<(tokio::net::TcpListener, Service)>, Vec<SocketAddr>), StartError> {
    let opened: Result<Vec<_>, _> = if endpoints.is_empty() {
        Ok(Vec::new())
    } else {
        // Reading files and resolving a host name blocks.
        let opening = tokio::task::spawn_blocking(move || endpoints.iter().map(Endpoint::open).collect());
        opening.await.map_err(|cause| StartError::Listener(io::Error::other(cause)))?
    };
    let given = listeners.into_iter().map(|listener| Opened { listener, service: Service::default() });
    let mut addrs = Vec::new();
    let mut accepting = Vec::new();
    for Opened { listener, service } in opened?.into_iter().chain(given) {
        addrs.push(listener.local_addr().map_err(StartError::Listener)?);
        listener.set_nonblocking(true).map_err(StartError::Listener)?;
        accepting.push((tokio::net::TcpListener::from_std(listener).map_err(StartError::Listener)?, service));
    }
    Ok((accepting, addrs))
}
