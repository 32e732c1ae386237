//! What the exporter tells.
//!
//! Nothing is looked up for a message. A connection holds a [`SessionMetrics`] with numbers of its own, which nobody else
//! changes, so that they cost a plain addition; a channel that it publishes to, a handle on its [`ChannelSeries`].
//! They are added up when somebody asks.
//!
//! Labels hold the idents of clients that have authenticated, and channels that those may use: a stranger cannot make
//! the tables grow. What a key can make of them is bounded, see [`MAX_SERIES`].

mod channels;
pub(crate) mod connection;
pub(crate) mod counter;
mod process;
mod render;
mod sizes;
pub(crate) mod stats;
mod table;
mod text;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hpfeeds::wire::Ident;

pub use self::text::Exposition;
use self::{channels::AllChannels, connection::IdentSeries, table::Table};
pub(crate) use self::{
    channels::{ChannelSeries, Subscribed},
    connection::{Category, SessionMetrics},
    render::render,
    sizes::Sizes,
};
use crate::metrics::counter::Counter;

/// How many label sets one metric has at most: so many idents, and so many pairs of ident and channel. What comes
/// beyond is counted with [`OTHER`] instead.
const MAX_SERIES: usize = 10_000;

/// How many channels one ident is told apart by at most, so that a single key does not take the room of all.
const MAX_CHANNELS: usize = 1_000;

/// The ident or channel of whatever has no room of its own.
const OTHER: &str = "other";

/// The ident of clients that have not authenticated. Nobody can be called that.
const UNAUTHENTICATED: &str = "";

/// The endpoint of streams that came from none.
const STREAM: &str = "stream";

/// Everything that [`Counters`](crate::metrics::stats::Counters) does not know: what has labels, and what only the exporter
/// tells.
#[derive(Debug)]
pub(crate) struct Metrics {
    idents: Mutex<Table<Ident, IdentSeries>>,
    channels: Arc<AllChannels>,
    /// What clients did that have not authenticated.
    nobody: Arc<IdentSeries>,
    endpoints: BTreeMap<SocketAddr, Arc<EndpointSeries>>,
    /// Streams that came from no endpoint, once there has been one.
    streams: OnceLock<Arc<EndpointSeries>>,
    /// How many endpoints there are, and how many of them accept connections.
    expected: usize,
    listening: AtomicUsize,
    failures: [Counter; Reason::ALL.len()],
    pub(crate) auth_seconds: Latency,
    pub(crate) throttled: Counter,
    stalled_nanos: Counter,
    stalled: AtomicI64,
}

impl Metrics {
    /// For a broker that listens there. Endpoints on one address, but on several devices, are one to the exporter.
    pub(crate) fn new(addrs: &[SocketAddr]) -> Self {
        let channels = Arc::default();
        Self {
            idents: Mutex::default(),
            nobody: Arc::new(IdentSeries::new(&channels)),
            channels,
            endpoints: addrs.iter().map(|addr| (*addr, Arc::default())).collect(),
            streams: OnceLock::new(),
            expected: addrs.len(),
            listening: AtomicUsize::new(0),
            failures: Default::default(),
            auth_seconds: Latency::default(),
            throttled: Counter::default(),
            stalled_nanos: Counter::default(),
            stalled: AtomicI64::new(0),
        }
    }

    /// The numbers of a client that has just authenticated.
    pub(crate) fn session(&self, ident: &Ident, owner: &str) -> SessionMetrics {
        let (series, owner) = {
            let mut idents = self.idents();
            match idents.get(ident, Instant::now, || true, |_| Arc::new(IdentSeries::new(&self.channels))) {
                Some(series) => (series, owner),
                None => {
                    (idents.other(&OTHER.parse().expect("a legal name"), || IdentSeries::new(&self.channels)), OTHER)
                }
            }
        };
        SessionMetrics::open(ident.clone(), owner, series)
    }

    /// A client did not authenticate, though it may have claimed to be somebody: its ident is a label only when
    /// somebody has proved to be that.
    pub(crate) fn rejected(&self, claimed: &Ident, category: Category) {
        let known = self.idents().known(claimed);
        known.unwrap_or_else(|| self.nobody.clone()).error(category);
    }

    /// There will be no session, for this reason.
    pub(crate) fn failed(&self, reason: Reason) {
        self.failures[reason as usize].add(1);
        if let Reason::InvalidFirstMessage = reason {
            self.nobody.error(Category::InvalidFirstMessage);
        }
    }

    /// A publisher waits for subscribers until what is returned is dropped.
    pub(crate) fn stall(self: &Arc<Self>) -> Stall {
        self.stalled.fetch_add(1, Relaxed);
        Stall { metrics: self.clone(), since: Instant::now() }
    }

    /// An endpoint accepts connections until what is returned is dropped.
    pub(crate) fn listening(self: &Arc<Self>, addr: SocketAddr) -> Listening {
        self.listening.fetch_add(1, Relaxed);
        let series = self.endpoints.get(&addr).cloned().unwrap_or_default();
        Listening(EndpointMetrics { metrics: self.clone(), series })
    }

    /// Where streams come in that somebody else has accepted.
    pub(crate) fn streams(self: &Arc<Self>) -> EndpointMetrics {
        let series = self.streams.get_or_init(Arc::default).clone();
        EndpointMetrics { metrics: self.clone(), series }
    }

    /// Whether every endpoint accepts connections.
    pub(crate) fn all_listening(&self) -> bool {
        self.listening.load(Relaxed) == self.expected
    }

    fn idents(&self) -> MutexGuard<'_, Table<Ident, IdentSeries>> {
        self.idents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection did not become a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Tls,
    InvalidFirstMessage,
    Malformed,
    Timeout,
    Closed,
    UnknownIdent,
    WrongSecret,
    LookupFailed,
    LookupTimeout,
}

impl Reason {
    const ALL: [(Self, &str); 9] = [
        (Self::Tls, "tls"),
        (Self::InvalidFirstMessage, "invalid-first-message"),
        (Self::Malformed, "malformed"),
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::UnknownIdent, "unknown-ident"),
        (Self::WrongSecret, "wrong-secret"),
        (Self::LookupFailed, "lookup-failed"),
        (Self::LookupTimeout, "lookup-timeout"),
    ];
}

/// How far the connections of one endpoint are.
#[derive(Debug, Default)]
struct EndpointSeries {
    phases: [AtomicI64; Phase::ALL.len()],
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has not authenticated.
    Handshake,
    /// It may publish and subscribe.
    Session,
    /// It gets its last messages.
    Closing,
}

impl Phase {
    const ALL: [(Self, &str); 3] =
        [(Self::Handshake, "handshake"), (Self::Session, "session"), (Self::Closing, "closing")];
}

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct EndpointMetrics {
    metrics: Arc<Metrics>,
    series: Arc<EndpointSeries>,
}

impl EndpointMetrics {
    /// One was accepted.
    pub(crate) fn connection(&self) -> Connected {
        let connected =
            Connected { nobody: self.metrics.nobody.clone(), series: self.series.clone(), phase: Phase::Handshake };
        connected.count(1);
        connected
    }
}

/// An endpoint that accepts connections.
#[derive(Debug)]
pub(crate) struct Listening(EndpointMetrics);

impl Deref for Listening {
    type Target = EndpointMetrics;

    fn deref(&self) -> &EndpointMetrics {
        &self.0
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.metrics.listening.fetch_sub(1, Relaxed);
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Connected {
    nobody: Arc<IdentSeries>,
    series: Arc<EndpointSeries>,
    phase: Phase,
}

impl Connected {
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.count(-1);
        self.phase = phase;
        self.count(1);
    }

    fn count(&self, n: i64) {
        self.series.phases[self.phase as usize].fetch_add(n, Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.count(-1);
        if let Phase::Handshake = self.phase {
            self.nobody.lost();
        }
    }
}

/// A publisher that waits.
#[derive(Debug)]
pub(crate) struct Stall {
    metrics: Arc<Metrics>,
    since: Instant,
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.metrics.stalled.fetch_sub(1, Relaxed);
        self.metrics.stalled_nanos.add(nanos(self.since.elapsed()));
    }
}

/// A histogram of times.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// The last is for what is longer than all bounds.
    counts: [Counter; Self::BOUNDS.len() + 1],
    nanos: Counter,
}

impl Latency {
    const BOUNDS: [(Duration, &str); 10] = [
        (Duration::from_micros(100), "0.0001"),
        (Duration::from_micros(500), "0.0005"),
        (Duration::from_millis(1), "0.001"),
        (Duration::from_millis(5), "0.005"),
        (Duration::from_millis(10), "0.01"),
        (Duration::from_millis(50), "0.05"),
        (Duration::from_millis(100), "0.1"),
        (Duration::from_millis(500), "0.5"),
        (Duration::from_secs(1), "1.0"),
        (Duration::from_secs(5), "5.0"),
    ];

    /// Observes the time until what is returned is dropped.
    pub(crate) fn start(&self) -> Timing<'_> {
        Timing { latency: self, since: Instant::now() }
    }

    fn observe(&self, time: Duration) {
        let bucket = Self::BOUNDS.partition_point(|(bound, _)| *bound < time);
        self.counts[bucket].add(1);
        self.nanos.add(nanos(time));
    }
}

/// Something that takes time.
#[derive(Debug)]
pub(crate) struct Timing<'a> {
    latency: &'a Latency,
    since: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.latency.observe(self.since.elapsed());
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
