//! Accepts connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{debug, warn};

use crate::{
    broker::Shared,
    connection::{self, Connection},
    endpoint::Service,
    handshake::error_frame,
    metrics::{Connected, Listening, Phase},
    socket::Socket,
};

/// How long to wait when the system is out of something, such as file descriptors: twice as long each time.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Accepts connections until the broker shuts down. No error ends it.
pub(crate) async fn run(listener: TcpListener, service: Arc<Service>, listening: Listening, shared: Arc<Shared>) {
    let accepting = async {
        let mut backoff = MIN_BACKOFF;
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    backoff = MIN_BACKOFF;
                    admit(tcp, peer, &service, &listening, &shared);
                }
                Err(cause) if is_about_one_connection(&cause) => debug!(%cause, "a connection was gone already"),
                Err(cause) => {
                    warn!(%cause, retry_in = ?backoff, "cannot accept connections");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    };
    shared.draining.run_until_cancelled(accepting).await;
}

fn is_about_one_connection(cause: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(cause.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(tcp: TcpStream, peer: SocketAddr, service: &Arc<Service>, listening: &Listening, shared: &Arc<Shared>) {
    match Permit::take(shared, listening) {
        Some(permit) => {
            shared.depot.counters.accepted.add(1);
            match Socket::new(tcp, service.keepalive) {
                Ok(socket) => {
                    let (service, shared) = (service.clone(), shared.clone());
                    let tasks = shared.tasks.clone();
                    let connection = Connection { socket, peer, service, shared, permit };
                    tasks.spawn(connection::serve(Box::new(connection)));
                }
                Err(cause) => debug!(%peer, %cause, "gone before it was greeted"),
            }
        }
        None => turn_away(&tcp, peer, service, shared),
    }
}

/// Says why in one try: there is no room for a task that would wait.
fn turn_away(tcp: &TcpStream, peer: SocketAddr, service: &Service, shared: &Shared) {
    shared.depot.counters.rejected.add(1);
    debug!(%peer, "too many connections");
    if service.tls.is_some() {
        // Saying it would take a handshake, which is what there is no room for.
        return;
    }
    let frame = error_frame("Too many connections", shared.config.limits);
    let socket = socket2::SockRef::from(tcp);
    // The send buffer of a new connection has room, and if not, it is told nothing.
    let _ = socket.send(&frame);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

/// The right to hold a connection open; given back when dropped.
pub(crate) struct Permit {
    shared: Arc<Shared>,
    connected: Connected,
}

impl Permit {
    fn take(shared: &Arc<Shared>, endpoint: &Listening) -> Option<Self> {
        let limit = shared.config.max_connections;
        let more = |open: usize| (open < limit).then_some(open + 1);
        shared.connections.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self { shared: shared.clone(), connected: endpoint.connection() })
    }

    /// The connection has come this far.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.connected.enter(phase);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Relaxed);
    }
}
