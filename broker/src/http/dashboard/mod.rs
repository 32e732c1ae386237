//! The HTTP server of the dashboard, with a listener of its own: the page, the snapshot for scripts, and
//! streams of what changes.

pub(crate) mod access;
mod body;
mod handshakes;
mod lease;
pub(crate) mod options;
mod page;
mod route;
mod stream;
pub(crate) mod tokens;

use std::{collections::VecDeque, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::{access::Access, handshakes::Handshakes, lease::Lease, tokens::CurrentTokens};
use crate::{
    net::{endpoint::open::Service, socket::Socket, whole_socket::WholeSocket},
    util::accept_backoff::AcceptBackoff,
};

/// The most open connections. At the limit the oldest gives way that carries no stream of events.
const MAX_CONNECTIONS: usize = 32;

/// The most streams of events. Each keeps the rows of its page: 4 MB for ten thousand.
const MAX_STREAMS: usize = 8;

/// The most snapshots that are made at once. One of ten thousand idents takes some 20 ms and 5 MB.
const MAX_BUILDING: usize = 2;

/// How long TLS may take, a request to arrive, and the end of a connection whose time is over.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a shutdown waits for streams to say that they end.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The source of what the dashboard shows: a broker. Its functions block for as long as a snapshot takes.
pub(crate) trait Source: Send + Sync {
    /// A snapshot of what the query of a request asks for, as JSON.
    fn snapshot(&self, query: &str) -> Result<String, Unavailable>;

    /// A watch on what the query of a request asks for. Does not block.
    fn watch(&self, query: &str) -> Result<Box<dyn Watch>, Unavailable>;
}

/// Why there is nothing to show.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The fault of the query.
    Query(String),
    /// The broker has stopped.
    Stopped,
}

/// A page that is kept up to date.
pub(crate) trait Watch: Send {
    /// Whether it shows what is published.
    fn tails(&self) -> bool;

    /// The data of the next event of a kind, as JSON on one line; `None` when there is nothing new.
    /// Blocks for as long as a snapshot takes.
    fn look(&mut self, kind: Kind) -> Option<String>;
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Snapshot,
    Change,
    Tail,
    Sources,
}

/// The state that all connections share.
struct Shared {
    access: Access,
    handshakes: Handshakes,
    source: Arc<dyn Source>,
    building: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Streams end, and connections with them.
    closing: CancellationToken,
}

/// A running server. It stops at once when this is dropped.
#[derive(Debug)]
pub(crate) struct Dashboard {
    addr: SocketAddr,
    tokens: Arc<CurrentTokens>,
    closing: CancellationToken,
    stopped: CancellationToken,
    task: TaskTracker,
}

impl Dashboard {
    pub(crate) fn start(
        listener: TcpListener,
        addr: SocketAddr,
        service: Service,
        access: Access,
        source: Arc<dyn Source>,
    ) -> Self {
        let (closing, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (building, streams) = (Arc::new(Semaphore::new(MAX_BUILDING)), Arc::new(Semaphore::new(MAX_STREAMS)));
        let tokens = access.tokens.clone();
        let shared = Arc::new(Shared {
            access,
            handshakes: Handshakes::default(),
            source,
            building,
            streams,
            closing: closing.clone(),
        });
        let dashboard = Self { addr, tokens, closing, stopped, task: TaskTracker::new() };
        let serving = serve(listener, Arc::new(service), shared);
        dashboard.task.spawn(dashboard.stopped.clone().run_until_cancelled_owned(serving));
        dashboard
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn tokens(&self) -> &Arc<CurrentTokens> {
        &self.tokens
    }

    /// Ends all streams and connections, and returns once they and the listener are closed: within a
    /// second.
    pub(crate) async fn stop(&self) {
        self.closing.cancel();
        self.task.close();
        if timeout(STOP_TIMEOUT, self.task.wait()).await.is_err() {
            self.stopped.cancel();
            self.task.wait().await;
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// Accepts connections until the dashboard is closed, and then waits for them. When the future is
/// dropped, they end.
async fn serve(listener: TcpListener, service: Arc<Service>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut order = VecDeque::<(AbortHandle, Arc<Lease>)>::new();
    let mut backoff = AcceptBackoff::default();
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    order.retain(|(connection, _)| !connection.is_finished());
                    if order.len() >= MAX_CONNECTIONS {
                        // There are fewer streams than connections.
                        let oldest = order.iter().position(|(_, lease)| !lease.is_stream());
                        if let Some((oldest, _)) = oldest.and_then(|at| order.remove(at)) {
                            oldest.abort();
                        }
                    }
                    let lease = Arc::<Lease>::default();
                    let serving = connection(stream, peer, service.clone(), shared.clone(), lease.clone());
                    order.push_back((connections.spawn(serving), lease));
                }
                Err(cause) => {
                    if backoff.should_log() {
                        warn!(%cause, "the dashboard cannot accept connections");
                    }
                    backoff.wait().await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<Service>,
    shared: Arc<Shared>,
    lease: Arc<Lease>,
) {
    // A client that says nothing takes no turn from others.
    if service.tls.is_some() && !matches!(timeout(TLS_TIMEOUT, stream.readable()).await, Ok(Ok(()))) {
        return debug!(%peer, "the dashboard's client says nothing");
    }
    let Ok(mut socket) = Socket::new(stream, service.keepalive) else { return };
    if let Some(certificate) = &service.tls {
        let Some(turn) = shared.handshakes.turn(Instant::now()) else {
            return debug!(%peer, "too many clients of the dashboard want TLS");
        };
        sleep_until(turn).await;
        if !matches!(timeout(TLS_TIMEOUT, socket.secure(certificate.config())).await, Ok(Ok(()))) {
            return debug!(%peer, "the dashboard's client has not come to terms about TLS");
        }
    }
    let answering = service_fn(|request| route::answer(request, &shared, &lease));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(WholeSocket::new(socket)), answering);
    let mut serving = pin!(serving);
    let (mut closes, mut asked) = (false, false);
    loop {
        let until = lease.until();
        tokio::select! {
            served = &mut serving => {
                if let Err(cause) = served {
                    debug!(%peer, %cause, "the dashboard's client went away");
                }
                return;
            }
            () = shared.closing.cancelled(), if !closes => {
                closes = true;
                serving.as_mut().graceful_shutdown();
            }
            () = sleep_until(until) => {
                if lease.until() > until {
                    continue;
                }
                if asked {
                    return debug!(%peer, "the connection of the dashboard's client is too old");
                }
                // An answer that is on its way is finished.
                asked = true;
                lease.extend(CLOSE_TIMEOUT);
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
