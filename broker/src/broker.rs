use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    AuthStore, BrokerBuilder, ChainStore, Dropped, Endpoint, Key, StartError, Stats, accounts::Accounts,
    admission::Admission, buffer::BufferPool, config::Config, listener, outbox::Depot, recheck, router::Router,
    stats::Counters, throttle::Throttle,
};

/// A running broker.
///
/// It runs on tasks of the runtime that it was started on. Dropping it stops all of them at once and cuts every
/// connection (those of publishers are reset); [`shutdown`](Self::shutdown) lets subscribers receive first what is
/// queued for them.
#[must_use = "a broker that is dropped stops"]
pub struct Broker {
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
}

/// What every task of a broker knows.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn AuthStore>,
    pub(crate) router: Arc<Router>,
    pub(crate) depot: Arc<Depot>,
    pub(crate) pool: BufferPool,
    pub(crate) throttle: Throttle,
    pub(crate) admission: Admission,
    pub(crate) accounts: Arc<Accounts>,
    /// Nothing more is read; what is queued is still written.
    pub(crate) draining: CancellationToken,
    /// Everything ends.
    pub(crate) aborted: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Broker {
    /// Options, and then [`start`](BrokerBuilder::start).
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    /// Options for tests: the ident `dev` with the secret `dev` may publish and subscribe everywhere. Only the
    /// endpoint is missing.
    #[must_use = "a builder does nothing until `start`"]
    pub fn dev_builder() -> BrokerBuilder {
        Self::builder().user(dev_key())
    }

    /// A broker for tests: [`dev_builder`](Self::dev_builder) on the loopback interface, at a port that the system
    /// picks.
    pub async fn dev() -> Result<Self, StartError> {
        Self::dev_builder().endpoint(Endpoint::tcp("127.0.0.1", 0)).start().await
    }

    pub(crate) async fn start(builder: BrokerBuilder) -> Result<Self, StartError> {
        let BrokerBuilder { endpoints, listeners, users, stores, config } = builder;
        config.check()?;
        let config = config.capped();
        if users.is_empty() && stores.is_empty() {
            return Err(StartError::NoKeys);
        }
        let mut store = ChainStore::new();
        store.push(users);
        store.push(stores);
        let (listeners, addrs) = open(endpoints, listeners).await?;
        let rules = config.rules();
        let throttle = Throttle::new(config.auth_failure_delay);
        let admission = Admission::new(config.max_connections, config.max_connections_per_address);
        let accounts = Arc::new(Accounts::new(config.account_rules()));
        let shared = Arc::new(Shared {
            config,
            store: Arc::new(store),
            router: Arc::default(),
            depot: Arc::new(Depot { rules, buffered: AtomicUsize::new(0), counters: Counters::default() }),
            pool: BufferPool::default(),
            throttle,
            admission,
            accounts,
            draining: CancellationToken::new(),
            aborted: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for listener in listeners {
            shared.tasks.spawn(listener::run(listener, shared.clone()));
        }
        if !shared.config.recheck_keys.is_zero() {
            shared.tasks.spawn(recheck::run(shared.clone()));
        }
        Ok(Self { shared, addrs })
    }

    /// Where it listens, in the order of the endpoints; the ports are those that the system picked.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The first of [`local_addrs`](Self::local_addrs).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Shared { admission, depot, .. } = &*self.shared;
        depot.counters.snapshot(admission.open(), depot.buffered.load(Relaxed))
    }

    /// Looks up the keys of all connections now, without waiting for
    /// [`recheck_keys`](BrokerBuilder::recheck_keys): for a program that has just changed its store. It returns at
    /// once; what has changed takes effect as the store answers. It does nothing when rechecking is turned off.
    pub fn recheck_now(&self) {
        self.shared.recheck_now();
    }

    /// Which messages slow subscribers did not get. At most 10,000 entries: drops that come after that many are in
    /// [`Stats::dropped`] only.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.shared.depot.counters.drops()
    }

    /// Stops accepting and reading, writes what is queued and the ERROR `The broker is shutting down`, and closes every
    /// connection. What has not been written after [`drain_timeout`](BrokerBuilder::drain_timeout) is lost; a second
    /// later everything has ended.
    ///
    /// An end of stream without that ERROR confirms that everything a client sent has been acted on. So a client that
    /// has ended its own stream already is read to that end, and gets no ERROR.
    ///
    /// When it is dropped before it returns, everything stops at once.
    pub async fn shutdown(self) {
        let Shared { config, draining, aborted, tasks, .. } = &*self.shared;
        draining.cancel();
        tasks.close();
        // A moment more than the connections themselves take, so that they can say goodbye.
        if timeout(config.drain_timeout + Duration::from_secs(1), tasks.wait()).await.is_err() {
            aborted.cancel();
            tasks.wait().await;
        }
        info!("stopped");
    }
}

impl Shared {
    /// See [`Broker::recheck_now`].
    pub(crate) fn recheck_now(&self) {
        self.accounts.recheck.notify_one();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shared.draining.cancel();
        self.shared.aborted.cancel();
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

fn dev_key() -> Key {
    let key = Key::new("dev", "dev").and_then(|key| key.publish(["*"])).and_then(|key| key.subscribe(["*"]));
    key.expect("these names are legal")
}

/// Opens all endpoints, or none.
async fn open(
    endpoints: Vec<Endpoint>,
    mut listeners: Vec<TcpListener>,
) -> Result<(Vec<tokio::net::TcpListener>, Vec<SocketAddr>), StartError> {
    if endpoints.is_empty() && listeners.is_empty() {
        return Err(StartError::NoEndpoint);
    }
    // Resolving a host name blocks.
    let opening = tokio::task::spawn_blocking(move || endpoints.iter().map(Endpoint::listen).collect());
    let opened: Result<Vec<_>, _> = opening.await.map_err(|cause| StartError::Listener(io::Error::other(cause)))?;
    let mut all = opened?;
    all.append(&mut listeners);
    let mut addrs = Vec::new();
    let mut accepting = Vec::new();
    for listener in all {
        addrs.push(listener.local_addr().map_err(StartError::Listener)?);
        listener.set_nonblocking(true).map_err(StartError::Listener)?;
        accepting.push(tokio::net::TcpListener::from_std(listener).map_err(StartError::Listener)?);
    }
    Ok((accepting, addrs))
}
