//! Open connections by endpoint and phase, and which endpoints accept connections.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::metrics::ident::IdentSeries;

/// The endpoint of connections that [`Broker::serve`](crate::broker::Broker::serve) was given.
const STREAM: &str = "stream";

/// The phase of a connection.
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
    /// Labels, in the order of the variants.
    pub(super) const ALL: [&str; 3] = ["handshake", "session", "closing"];
}

/// The metrics of all endpoints of a broker.
#[derive(Debug)]
pub(crate) struct Endpoints {
    by_address: BTreeMap<SocketAddr, Arc<EndpointSeries>>,
    /// Connections that came from no endpoint, once there has been one.
    streams: OnceLock<Arc<EndpointSeries>>,
    /// How many endpoints there are, and how many of them accept connections.
    expected: usize,
    listening: Arc<AtomicUsize>,
    /// Counts connections that are lost before they have authenticated.
    unauthenticated: Arc<IdentSeries>,
}

impl Endpoints {
    /// Endpoints on one address, but on several devices, share one series.
    pub(super) fn new(addrs: &[SocketAddr], unauthenticated: Arc<IdentSeries>) -> Self {
        Self {
            by_address: addrs.iter().map(|addr| (*addr, Arc::default())).collect(),
            streams: OnceLock::new(),
            expected: addrs.len(),
            listening: Arc::default(),
            unauthenticated,
        }
    }

    /// An endpoint accepts connections until the guard is dropped.
    pub(crate) fn listening(&self, addr: SocketAddr) -> Listening {
        self.listening.fetch_add(1, Relaxed);
        let series = self.by_address.get(&addr).cloned().unwrap_or_default();
        Listening { endpoint: self.endpoint(series), listening: self.listening.clone() }
    }

    /// The pseudo-endpoint of streams that the embedding program has accepted.
    pub(crate) fn streams(&self) -> EndpointMetrics {
        self.endpoint(self.streams.get_or_init(Arc::default).clone())
    }

    /// Whether every endpoint accepts connections.
    pub(crate) fn all_listening(&self) -> bool {
        self.listening.load(Relaxed) == self.expected
    }

    /// Endpoints in the order of their addresses, and streams as the last.
    pub(super) fn counts(&self) -> Vec<EndpointCounts> {
        let addresses = self.by_address.iter().map(|(addr, series)| (addr.to_string(), series));
        let streams = self.streams.get().map(|series| (STREAM.to_owned(), series));
        let all = addresses.chain(streams);
        all.map(|(endpoint, series)| EndpointCounts { endpoint, phases: series.counts() }).collect()
    }

    fn endpoint(&self, series: Arc<EndpointSeries>) -> EndpointMetrics {
        EndpointMetrics { unauthenticated: self.unauthenticated.clone(), series }
    }
}

/// The open connections of one endpoint by phase, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointCounts {
    /// The address and port, or `stream`.
    pub(super) endpoint: String,
    pub(super) phases: [i64; Phase::ALL.len()],
}

#[derive(Debug, Default)]
struct EndpointSeries {
    phases: [AtomicI64; Phase::ALL.len()],
}

impl EndpointSeries {
    fn counts(&self) -> [i64; Phase::ALL.len()] {
        std::array::from_fn(|phase| self.phases[phase].load(Relaxed))
    }
}

/// The metrics of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointMetrics {
    unauthenticated: Arc<IdentSeries>,
    series: Arc<EndpointSeries>,
}

impl EndpointMetrics {
    /// A connection was accepted. It is open until the guard is dropped.
    pub(crate) fn connection(&self) -> Connected {
        let (unauthenticated, series) = (self.unauthenticated.clone(), self.series.clone());
        let connected = Connected { unauthenticated, series, phase: Phase::Handshake };
        connected.count(1);
        connected
    }
}

/// An endpoint that accepts connections.
#[derive(Debug)]
pub(crate) struct Listening {
    endpoint: EndpointMetrics,
    listening: Arc<AtomicUsize>,
}

impl Deref for Listening {
    type Target = EndpointMetrics;

    fn deref(&self) -> &EndpointMetrics {
        &self.endpoint
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.listening.fetch_sub(1, Relaxed);
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connected {
    unauthenticated: Arc<IdentSeries>,
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
            self.unauthenticated.lost();
        }
    }
}
