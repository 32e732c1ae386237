//! The accept loop of an endpoint, and streams that the program hands over.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use crate::{
    context::BrokerContext,
    incidents::IncidentKind,
    limits::connections::Permit,
    metrics::endpoints::Listening,
    net::{
        endpoint::open::Service,
        peekable::{self, Stream},
        socket::Socket,
    },
    session::{self, Connection, error_frame::error_frame},
    util::accept_backoff::AcceptBackoff,
};

const NOT_A_PROXY: &str = "Not from a proxy that proxyfrom= of the endpoint names";

/// Accepts connections until the broker shuts down. No error ends the loop.
pub(crate) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    listening: Listening,
    context: Arc<BrokerContext>,
) {
    let accepting = async {
        let mut backoff = AcceptBackoff::default();
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    backoff.reset();
                    admit(tcp, peer, &service, &listening, &context);
                }
                Err(cause) if is_about_one_connection(&cause) => {
                    debug!(%cause, "a connection was closed before it was accepted");
                }
                Err(cause) => {
                    if backoff.should_log() {
                        warn!(%cause, "cannot accept connections");
                    }
                    backoff.wait().await;
                }
            }
        }
    };
    context.draining.run_until_cancelled(accepting).await;
}

fn is_about_one_connection(cause: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(cause.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(
    tcp: TcpStream,
    peer: SocketAddr,
    service: &Arc<Service>,
    listening: &Listening,
    context: &Arc<BrokerContext>,
) {
    let permit = if service.proxies.is_empty() {
        context.admission.admit(peer, listening)
    } else if service.proxies.iter().any(|network| network.contains(peer.ip())) {
        context.admission.admit_proxied(peer, listening)
    } else {
        // Made without a proxy, the connection would not begin with a PROXY header.
        return refused(peer, NOT_A_PROXY, context);
    };
    match permit {
        Ok(permit) => {
            context.metrics.counters.accepted.add(1);
            match Socket::new(tcp, service.keepalive) {
                Ok(socket) => begin(socket, service.clone(), permit, context),
                Err(cause) => debug!(%peer, %cause, "closed before the handshake"),
            }
        }
        Err(reason) => turn_away(&tcp, peer, reason, service, context),
    }
}

/// Admits a stream of any kind. Its task runs on the current runtime.
pub(crate) fn admit_stream(stream: impl Stream + 'static, peer: SocketAddr, context: &Arc<BrokerContext>) {
    match context.admission.admit(peer, &context.metrics.endpoints.streams()) {
        Ok(permit) => {
            context.metrics.counters.accepted.add(1);
            begin(
                Socket::from_stream(Box::new(stream)),
                Arc::new(Service { keepalive: None, ..Service::default() }),
                permit,
                context,
            );
        }
        Err(reason) => {
            refused(peer, reason, context);
            peekable::turn_away(stream, &error_frame(reason, context.config.limits));
        }
    }
}

fn begin(socket: Socket, service: Arc<Service>, permit: Permit, context: &Arc<BrokerContext>) {
    let pending = Some(Box::new(permit.pending()));
    let connection = Box::new(Connection { context: context.clone(), socket, service, pending, permit });
    context.tasks.spawn(session::serve(connection));
}

fn refused(peer: SocketAddr, reason: &str, context: &BrokerContext) {
    context.metrics.counters.rejected.add(1);
    context.incidents.add(IncidentKind::TurnedAway, None, peer.ip(), None, reason);
    context.admission.log_refusal(peer.ip(), reason);
}

/// Sends the ERROR for a connection that is turned away, if it can be at once: there is no room for
/// a task that waits.
fn turn_away(tcp: &TcpStream, peer: SocketAddr, reason: &str, service: &Service, context: &BrokerContext) {
    refused(peer, reason, context);
    if service.tls.is_some() || !service.proxies.is_empty() {
        // The ERROR would need a handshake first.
        return;
    }
    let frame = error_frame(reason, context.config.limits);
    let socket = socket2::SockRef::from(tcp);
    // The send buffer of a new connection has room; if it has not, there is no ERROR.
    let _ = socket.send(&frame);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}
