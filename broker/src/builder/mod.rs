//! The broker's builder: every option, with its default.

#[cfg(feature = "dashboard")]
mod dashboard;
mod storage;

#[cfg(feature = "cli")]
use std::net::SocketAddr;
use std::{
    fmt,
    net::TcpListener,
    num::{NonZeroU16, NonZeroU64, NonZeroUsize},
    time::Duration,
};

use hpfeeds::wire::Limits;

#[cfg(feature = "dashboard")]
use crate::http::dashboard::options::DashboardOptions;
use crate::{
    auth::{AuthStore, chain::ChainStore, key::Key, memory::MemoryStore},
    config::Config,
    delivery::policy::SlowPolicy,
    error::StartError,
    net::endpoint::{Endpoint, parse::EndpointError},
};

/// Builder of a [`Broker`](crate::broker::Broker): its options; [`start`](Self::start) runs it.
///
/// Sizes are in bytes, rates are per second. Every option has a default that suits a public broker;
/// only an endpoint (or [`without_endpoint`](Self::without_endpoint)) and a key are required. An
/// option that makes no sense, alone or with another, is an error of `start`.
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct BrokerBuilder {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) without_endpoint: bool,
    pub(crate) users: MemoryStore,
    pub(crate) stores: ChainStore,
    pub(crate) config: Config,
    #[cfg(feature = "exporter")]
    pub(crate) exporter: Option<Endpoint>,
    #[cfg(feature = "dashboard")]
    pub(crate) dashboard: DashboardOptions,
}

impl BrokerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            listeners: Vec::new(),
            without_endpoint: false,
            users: MemoryStore::new(),
            stores: ChainStore::new(),
            config: Config::default(),
            #[cfg(feature = "exporter")]
            exporter: None,
            #[cfg(feature = "dashboard")]
            dashboard: DashboardOptions::default(),
        }
    }

    /// Adds an endpoint at `ADDR:PORT`. Port 0 lets the system pick one, see
    /// [`Broker::local_addrs`](crate::broker::Broker::local_addrs).
    pub fn listen(self, addr: impl fmt::Display) -> Result<Self, EndpointError> {
        Ok(self.endpoint(Endpoint::bind(&addr.to_string())?))
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds a socket that listens already, such as one that a supervisor passed on.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Allows a broker without an endpoint, whose clients come in through
    /// [`Broker::serve`](crate::broker::Broker::serve).
    pub fn without_endpoint(mut self) -> Self {
        self.without_endpoint = true;
        self
    }

    /// Adds a key. A later key with the same ident replaces the earlier one. These keys are looked
    /// up before the stores are.
    pub fn user(mut self, key: Key) -> Self {
        self.users.insert(key);
        self
    }

    /// Adds a key store. The first store that knows an ident decides.
    pub fn auth(mut self, store: impl AuthStore) -> Self {
        self.stores.push(store);
        self
    }

    /// The name in INFO, at most 255 bytes, which must not end in ` hpx/1`. Default: `hpfeeds`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Whether clients are offered the extension `hpx/1`, which confirms what they publish. Default:
    /// yes. The offer is the token ` hpx/1` behind the name in INFO, which other clients show or
    /// ignore; without it, every byte is as from the Python broker. An endpoint can do
    /// [without](Endpoint::extensions), too. A name of more than 248 bytes leaves no room for the
    /// token: a warning is logged at the start, and nothing is offered.
    pub fn extensions(mut self, offered: bool) -> Self {
        self.config.extensions = offered;
        self
    }

    /// The longest time that a client may be silent that speaks the extension `hpx/1` and has agreed
    /// to send signs of life: after that it gets an ERROR, and its connection ends. Whole seconds,
    /// rounded up, at most 18 hours. Zero, which is the default: no client is judged so, only by TCP
    /// keepalive.
    ///
    /// Clients are asked for a sign of life every third of this time. Time in which the broker does
    /// not read a client, such as a publisher that waits for subscribers, does not count.
    pub fn client_timeout(mut self, timeout: Duration) -> Self {
        let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
        self.config.client_timeout = NonZeroU16::new(u16::try_from(seconds).unwrap_or(u16::MAX));
        self
    }

    /// Length of the random challenge in INFO, 4 to 20 bytes. Default: 4, as in the Python broker.
    ///
    /// An eavesdropper on a connection without TLS can replay a captured authentication on another
    /// connection with the same challenge, and can open connections until one has it: with 4 bytes,
    /// some four thousand million; with 16 bytes, more than are possible. The clients of this
    /// library and of the Python package take a challenge of any length; a client that is written
    /// for 4 bytes cannot connect to a broker with more.
    pub fn nonce_len(mut self, bytes: usize) -> Self {
        self.config.nonce_len = bytes;
        self
    }

    /// The longest body of PUBLISH (ident, channel and payload), in bytes. Default: 1 MiB, as in
    /// the Python broker. Clients need the same setting.
    pub fn max_message(mut self, bytes: u32) -> Self {
        self.config.limits = Limits::new(bytes);
        self
    }

    /// The most connections at once, authenticated or not. Default: 10,000. For one more, the
    /// oldest that has not authenticated is evicted, with the ERROR `Too many connections` (or a
    /// reset, in the middle of a TLS handshake); when all have authenticated, the new one gets that
    /// ERROR. At most 512 more are open for the moment that an eviction takes.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.max_connections = connections;
        self
    }

    /// The most connections that one address (of IPv6: one /64 network) may hold at once. Default:
    /// `None`, no limit, as a whole site of sensors may share an address. One more gets the ERROR
    /// `Too many connections from your address`.
    pub fn max_connections_per_address(mut self, connections: Option<NonZeroUsize>) -> Self {
        self.config.max_connections_per_address = connections;
        self
    }

    /// The most connections that one ident (or all of one [`account`](Key::account)) may hold at
    /// once. Default: `None`, no limit, as a fleet may share a key. One more gets the ERROR
    /// `Too many connections for {ident}`, and its address waits as after a
    /// [failed authentication](Self::auth_failure_delay).
    ///
    /// The connection of a client that has vanished counts until TCP keepalive has noticed, which
    /// takes 25 s: leave room for that.
    pub fn max_connections_per_ident(mut self, connections: Option<NonZeroUsize>) -> Self {
        self.config.max_connections_per_ident = connections;
        self
    }

    /// The most messages per second that one ident (or all of one [`account`](Key::account)) may
    /// publish, over all its connections. Default: `None`, no limit.
    ///
    /// The limit delays and never drops: a connection over the limit is not read from until its
    /// turn comes, and TCP slows its client down. After a pause, the messages of one second may
    /// pass at once.
    pub fn publish_rate(mut self, messages_per_second: Option<NonZeroU64>) -> Self {
        self.config.publish_rate = messages_per_second;
        self
    }

    /// The most bytes per second (on the wire) that one ident may publish, as
    /// [`publish_rate`](Self::publish_rate). Default: `None`, no limit. A message that is longer
    /// passes when nothing else has for long enough.
    pub fn publish_bytes(mut self, bytes_per_second: Option<NonZeroU64>) -> Self {
        self.config.publish_bytes = bytes_per_second;
        self
    }

    /// The most messages per second that are delivered to one ident (or all of one
    /// [`account`](Key::account)), over all its connections. Default: `None`, no limit.
    ///
    /// The limit delays: more is queued for the subscriber. Publishers never wait for a subscriber
    /// that is held back by this limit, and it does not count as slow: it is not disconnected. Only
    /// messages that exceed its [`high_mark`](Self::high_mark) are dropped, as the
    /// [`slow_policy`](Self::slow_policy) says: the new messages, or the oldest. When its
    /// connection ends, the limit still counts: messages that have not been written after
    /// [`write_timeout`](Self::write_timeout) are lost.
    ///
    /// A few such subscribers can fill [`max_buffered`](Self::max_buffered) and keep it full for as
    /// long as more is published than the limit lets through, at the cost of all others: combine
    /// the limit with a lower `high_mark`.
    pub fn deliver_rate(mut self, messages_per_second: Option<NonZeroU64>) -> Self {
        self.config.deliver_rate = messages_per_second;
        self
    }

    /// The most bytes per second (on the wire) that are delivered to one ident, as
    /// [`deliver_rate`](Self::deliver_rate). Default: `None`, no limit.
    pub fn deliver_bytes(mut self, bytes_per_second: Option<NonZeroU64>) -> Self {
        self.config.deliver_bytes = bytes_per_second;
        self
    }

    /// Interval at which the key of each connected ident is looked up again. Default: 5 s; more
    /// with over 2,500 idents, as there are at most 500 lookups per second. Zero: keys of live
    /// connections are not looked up again. A store that [tells](crate::auth::AuthStore::changes)
    /// of its changes, as a JSON file, is asked when it does, and not at the interval; a store
    /// whose answers [cannot change](crate::auth::AuthStore::may_change), as keys in memory, is not
    /// asked again.
    ///
    /// When a key is gone or has another secret, its connections get the ERROR `Authentication
    /// failed for {ident}`, and none of the messages that are queued for them. When its lists have
    /// changed, newly allowed channels work at once; a connection with a subscription of which no
    /// part is allowed any more gets the usual ERROR and is closed. When a lookup fails, nothing
    /// changes.
    pub fn recheck_keys(mut self, interval: Duration) -> Self {
        self.config.recheck_keys = interval;
        self
    }

    /// The most channels and patterns that one connection may subscribe to at once. Default:
    /// 10,000. Each takes some hundred bytes. The publish cache of a connection holds at most as
    /// many channels, and never fewer than 8; they take as much.
    pub fn max_subscriptions(mut self, channels: usize) -> Self {
        self.config.max_subscriptions = channels;
        self
    }

    /// The longest time from the accepted connection to AUTH. Default: 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.config.handshake_timeout = timeout;
        self
    }

    /// The longest time of a lookup in the key stores. Default: 10 s. After that the authentication
    /// has failed.
    pub fn auth_timeout(mut self, timeout: Duration) -> Self {
        self.config.auth_timeout = timeout;
        self
    }

    /// Delay after a failed authentication: so long after it, connections of its address (of IPv6:
    /// its /64 network) get no INFO. Default: 500 ms. Zero: no delay.
    ///
    /// Some clients give up when they have no INFO within a second of their connect, so a longer
    /// delay than the default keeps them out for as long as anybody behind their address fails.
    ///
    /// The delay slows down clients that come back at once. Other clients behind the same address
    /// wait as well, but never longer than this.
    ///
    /// At most 64 connections of an address are between the start of TLS and their authentication;
    /// others wait for their turn before anything is read from them, for at most
    /// [`handshake_timeout`](Self::handshake_timeout). A connection that does not authenticate
    /// keeps its place for this delay, which bounds the TLS handshakes that an address can waste.
    pub fn auth_failure_delay(mut self, delay: Duration) -> Self {
        self.config.auth_failure_delay = delay;
        self
    }

    /// The longest time that the last bytes for a peer may take, such as an ERROR and the messages
    /// before it. Default: 5 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.config.write_timeout = timeout;
        self
    }

    /// The longest time that [`Broker::shutdown`](crate::broker::Broker::shutdown) lets subscribers
    /// receive the messages that are queued for them. Default: 5 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Low mark of a subscriber's queue, in bytes: publishers wait while a subscriber that keeps up
    /// has more queued. Default: 1 MiB.
    pub fn low_mark(mut self, bytes: usize) -> Self {
        self.config.low_mark = bytes;
        self
    }

    /// High mark of a subscriber's queue, in bytes: the most that is queued for a slow subscriber.
    /// Default: 50 messages of the maximal size.
    pub fn high_mark(mut self, bytes: usize) -> Self {
        self.config.high_mark = Some(bytes);
        self
    }

    /// Floor rate in bytes per second: a subscriber that drains less is slow, and no publisher
    /// waits for it. Default: 64 KiB/s. The rate is measured over
    /// [`floor_window`](Self::floor_window), while more than the low mark is queued.
    pub fn floor_rate(mut self, bytes_per_second: usize) -> Self {
        self.config.floor_rate = bytes_per_second;
        self
    }

    /// Window of the floor rate: the time that a subscriber has to stay below the floor rate to be
    /// slow, or above it to keep up again, and the longest time that a stuck one stops its
    /// publishers. Default: 3 s; with another floor rate, the time that 192 KiB take at it, from 1
    /// s to 10 s.
    ///
    /// Over a shorter window, the buffers of the system make the rate uneven.
    pub fn floor_window(mut self, window: Duration) -> Self {
        self.config.floor_window = Some(window);
        self
    }

    /// Policy for a slow subscriber at its high mark. Default: [`SlowPolicy::Disconnect`].
    pub fn slow_policy(mut self, policy: SlowPolicy) -> Self {
        self.config.slow_policy = policy;
        self
    }

    /// The time that [`SlowPolicy::Disconnect`] waits for recovery, and after which a client ends
    /// that takes none of the extension's answers. Default: 60 s, as in the Python broker.
    pub fn slow_deadline(mut self, deadline: Duration) -> Self {
        self.config.slow_deadline = deadline;
        self
    }

    /// The most that is queued for all subscribers together, in bytes. Default: 512 MiB.
    ///
    /// At this bound the marks of every subscriber count as reached: publishers wait for those that
    /// keep up, and slow ones meet the policy. A subscriber with an empty queue still gets one
    /// batch of messages (those of one read), from a reserve: a quarter of this, at least four
    /// times the longest message and 256 KiB. When the reserve is used up, too, publishers wait,
    /// and a subscriber that takes its batch at less than [`floor_rate`](Self::floor_rate) for a
    /// window is disconnected at once. Queued messages may keep up to twice as much memory
    /// resident, as they lie in buffers that hold other bytes, too.
    ///
    /// Publishers that wait hold at most this or 128 MiB together, whichever is less, and some 32
    /// KiB, or a message and 256 KiB, each. So does a connection in the middle of a message; an
    /// idle one takes about 2 KiB and its subscriptions, see
    /// [`max_subscriptions`](Self::max_subscriptions).
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.max_buffered = bytes;
        self
    }

    /// Adds the HTTP exporter at `ADDR:PORT`: `/metrics` for Prometheus, `/healthz`, and `/readyz`,
    /// which is 200 until the broker begins to shut down. Default: no exporter. Port 0 lets the
    /// system pick one, see [`Broker::exporter_addr`](crate::broker::Broker::exporter_addr).
    ///
    /// Its clients learn idents, channels and how much they send: the exporter belongs on a private
    /// address.
    #[cfg(feature = "exporter")]
    pub fn exporter(self, addr: impl fmt::Display) -> Result<Self, EndpointError> {
        Ok(self.exporter_endpoint(Endpoint::bind(&addr.to_string())?))
    }

    /// The same, at a `tcp:` endpoint.
    #[cfg(feature = "exporter")]
    pub(crate) fn exporter_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.exporter = Some(endpoint);
        self
    }

    /// The addresses where the broker would listen, if everything that [`start`](Self::start) needs
    /// is there: its endpoints in their order, its listeners, the exporter, and last the dashboard. Nothing is
    /// opened: an address that is taken shows at the start only, and port 0 stays 0.
    #[cfg(feature = "cli")]
    pub(crate) async fn check(&self) -> Result<Vec<SocketAddr>, StartError> {
        self.check_options()?;
        let mut addrs = resolve(self.endpoints.clone()).await?;
        for listener in &self.listeners {
            addrs.push(listener.local_addr().map_err(StartError::Listener)?);
        }
        addrs.extend(resolve(self.exporter.iter().cloned().collect()).await?);
        #[cfg(feature = "dashboard")]
        addrs.extend(resolve(self.dashboard.endpoint.iter().cloned().collect()).await?);
        Ok(addrs)
    }

    pub(crate) fn check_options(&self) -> Result<(), StartError> {
        self.config.check()?;
        #[cfg(feature = "dashboard")]
        self.dashboard.check()?;
        if self.users.is_empty() && self.stores.is_empty() {
            return Err(StartError::NoKeys);
        }
        if self.endpoints.is_empty() && self.listeners.is_empty() && !self.without_endpoint {
            return Err(StartError::NoEndpoint);
        }
        Ok(())
    }
}

/// The addresses where endpoints would listen.
#[cfg(feature = "cli")]
async fn resolve(endpoints: Vec<Endpoint>) -> Result<Vec<SocketAddr>, StartError> {
    // Resolving a host name blocks.
    let checking = tokio::task::spawn_blocking(move || endpoints.iter().map(Endpoint::check).collect());
    checking.await.map_err(|cause| StartError::Listener(std::io::Error::other(cause)))?
}
