//! Handshake of a connection: TLS, INFO and AUTH, and how each fails.

use std::{fmt, io, net::SocketAddr, task::Poll, time::Duration};

use bytes::{Buf as _, BytesMut};
use futures::{FutureExt as _, future::poll_fn};
use hpfeeds::wire::{DecodeError, Digest, Frame, FrameRef, Header, Ident, Limits, Nonce, Opcode, OtherProtocol};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::{
    auth::AuthError,
    context::BrokerContext,
    identity::Membership,
    incidents::IncidentKind,
    limits::{
        connections::TOO_MANY, log_sampler::Suppressed, pre_auth::PendingConnection, tls_handshakes::HandshakePermit,
    },
    metrics::{category::Category, failures::Reason},
    net::{
        endpoint::open::Service,
        socket::{ReadHalf, Socket, WriteHalf, close},
        tls::certificate::Certificate,
    },
    session::error_frame::{SHUTTING_DOWN, error_frame, send_error},
};

/// Size of the buffer in bytes: AUTH has at most 281, and a client may send a little along with it.
const BUFFER: usize = 512;

/// A connection that ends within this time, before TLS, is a probe of whether the port is open.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// A client that has proved its ident.
pub(crate) struct Authenticated {
    pub(crate) membership: Membership,
    /// Bytes that it sent behind AUTH.
    pub(crate) received: BytesMut,
}

/// Why there is no session.
enum Failure {
    /// It sent something else than AUTH, or nothing in time: the ERROR text, and the protocol of
    /// its bytes if that is known.
    Refused(Reason, String, Option<OtherProtocol>),
    /// Its ident or secret is wrong, or could not be checked.
    Rejected(Ident, Cause),
    /// Its ident has as many connections as it may have.
    TooMany(Ident),
    /// The client closed the connection, or it broke.
    Closed(Option<io::Error>),
}

/// Why a client is refused: for the metrics, and the ERROR text.
type Refusal = (Reason, String);

/// Why an authentication failed: for the log, and not for the client.
enum Cause {
    UnknownIdent,
    WrongSecret,
    /// The key has no secret that can be used: why.
    Unusable(&'static str),
    Lookup(AuthError),
    LookupTimeout,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownIdent => f.write_str("unknown ident"),
            Self::WrongSecret => f.write_str("wrong secret"),
            Self::Unusable(why) => f.write_str(why),
            Self::Lookup(cause) => cause.fmt(f),
            Self::LookupTimeout => f.write_str("the key store did not answer in time"),
        }
    }
}

impl Cause {
    /// The cause in the metrics.
    fn kind(&self) -> (Reason, Category) {
        match self {
            Self::UnknownIdent => (Reason::UnknownIdent, Category::InvalidIdent),
            Self::WrongSecret | Self::Unusable(_) => (Reason::WrongSecret, Category::InvalidSecret),
            Self::Lookup(_) => (Reason::LookupFailed, Category::ErrorCheckingIdent),
            Self::LookupTimeout => (Reason::LookupTimeout, Category::ErrorCheckingIdent),
        }
    }

    fn incident(&self) -> IncidentKind {
        match self {
            Self::UnknownIdent => IncidentKind::UnknownIdent,
            Self::WrongSecret | Self::Unusable(_) => IncidentKind::WrongSecret,
            Self::Lookup(_) | Self::LookupTimeout => IncidentKind::StoreFailed,
        }
    }

    fn log(&self, ident: &Ident, peer: SocketAddr, unlogged: &Suppressed) {
        let ident = ident.as_str();
        let Suppressed { here: unlogged, elsewhere } = *unlogged;
        match self {
            Self::UnknownIdent | Self::WrongSecret | Self::Unusable(_) => {
                info!(ident, %peer, unlogged, elsewhere, "authentication failed: {self}");
            }
            Self::Lookup(cause) => {
                warn!(ident, %peer, unlogged, elsewhere, %cause, "authentication failed: cannot look up the key");
            }
            Self::LookupTimeout => warn!(ident, %peer, unlogged, elsewhere, "authentication failed: {self}"),
        }
    }
}

/// Waits for a permit for the TLS handshake; `None` when that takes too long, or the client has not
/// waited.
pub(crate) async fn acquire_permit(
    socket: &mut Socket,
    peer: SocketAddr,
    context: &BrokerContext,
) -> Option<HandshakePermit> {
    let Ok(permit) = timeout(context.config.handshake_timeout, context.tls_handshakes.acquire(peer.ip())).await else {
        context.metrics.counters.rejected.add(1);
        turned_away(None, peer, "Too many TLS handshakes from your address", context);
        return None;
    };
    let (read, _) = socket.split();
    if poll_fn(|cx| Poll::Ready(read.is_finished(cx))).await {
        context.metrics.failed(Reason::Closed);
        debug!(%peer, "closed before TLS");
        return None;
    }
    Some(permit)
}

/// Performs the TLS handshake. `false` when it has failed, which has been logged.
pub(crate) async fn secure(
    socket: &mut Socket,
    certificate: &Certificate,
    peer: SocketAddr,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> bool {
    let begun = Instant::now();
    let wait = context.config.handshake_timeout;
    let cause = match timeout(wait, socket.secure(certificate.config())).await {
        Ok(Ok(())) => {
            pending.silent = false;
            return true;
        }
        Ok(Err(cause)) => cause,
        Err(_) => {
            let text =
                format!("no TLS within {} s: a client without TLS waits for the broker to begin", wait.as_secs_f32());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
    };
    pending.end_without_session();
    context.metrics.failed(Reason::Tls);
    let is_probe = cause.kind() == io::ErrorKind::UnexpectedEof && begun.elapsed() < PROBE_TIME;
    if !is_probe {
        context.incidents.add(IncidentKind::TlsFailed, None, peer.ip(), None, &cause.to_string());
    }
    if is_probe {
        debug!(%peer, %cause, "TLS handshake failed");
    } else if let Some(Suppressed { here: unlogged, elsewhere }) = context.log.refused.sample(peer.ip(), Instant::now())
    {
        info!(%peer, %cause, unlogged, elsewhere, "TLS handshake failed");
    }
    // Not over TLS, which has not come about: its alert that says why is on its way.
    let (mut read, mut write) = socket.split();
    close(&mut read, &mut write, true, context.config.write_timeout).await;
    false
}

/// Authenticates a client. `None` when that fails: the client has got an ERROR then, and the log a
/// line. The handshake timeout counts from `begun`.
pub(crate) async fn authenticate(
    socket: &mut Socket,
    peer: SocketAddr,
    begun: Instant,
    service: &Service,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Option<Authenticated> {
    let (mut read, mut write) = socket.split();
    let failure = match exchange(&mut read, &mut write, peer, begun, service, pending, context).await {
        Ok(authenticated) => return Some(authenticated),
        Err(failure) => failure,
    };
    pending.end_without_session();
    match failure {
        Failure::Refused(reason, text, other) => {
            context.metrics.failed(reason);
            context.incidents.add(IncidentKind::NoAuth, None, peer.ip(), None, &text);
            if let Some(Suppressed { here: unlogged, elsewhere }) =
                context.log.refused.sample(peer.ip(), Instant::now())
            {
                let hint = other.map(hint);
                info!(%peer, reason = text, hint, unlogged, elsewhere, "handshake failed");
            }
            send_error(&mut write, &text, context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::Rejected(ident, cause) => {
            let (reason, category) = cause.kind();
            context.metrics.failed(reason);
            context.metrics.rejected(&ident, category);
            context.incidents.add(cause.incident(), Some(&ident), peer.ip(), None, &cause.to_string());
            let now = Instant::now();
            context.auth_failures.failed(peer.ip(), now);
            if let Some(unlogged) = context.log.rejected.sample(peer.ip(), now) {
                cause.log(&ident, peer, &unlogged);
            }
            send_error(&mut write, &format!("Authentication failed for {ident}"), context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::TooMany(ident) => {
            context.metrics.counters.rejected.add(1);
            let reason = format!("Too many connections for {ident}");
            turned_away(Some(&ident), peer, &reason, context);
            // A client that connects again at once has to wait.
            context.auth_failures.failed(peer.ip(), Instant::now());
            send_error(&mut write, &reason, context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::Closed(cause) => {
            context.metrics.failed(Reason::Closed);
            debug!(%peer, cause = cause.map(tracing::field::display), "closed before authentication");
        }
    }
    None
}

/// Counts and logs a connection for which there is no room.
fn turned_away(ident: Option<&Ident>, peer: SocketAddr, reason: &str, context: &BrokerContext) {
    context.incidents.add(IncidentKind::TurnedAway, ident, peer.ip(), None, reason);
    context.admission.log_refusal(peer.ip(), reason);
}

/// Ends a handshake because the broker shuts down.
pub(crate) async fn end_for_shutdown(socket: &mut Socket, context: &BrokerContext) {
    let (mut read, mut write) = socket.split();
    send_error(&mut write, SHUTTING_DOWN, context).await;
    close(&mut read, &mut write, false, context.config.write_timeout).await;
}

/// Evicts the connection, whose place another one has taken already. The ERROR is sent if it can be
/// at once.
pub(crate) fn evict(socket: &mut Socket, peer: SocketAddr, pending: &PendingConnection, context: &BrokerContext) {
    // Its failure has been counted, and it has got an ERROR.
    if pending.is_ending() {
        return;
    }
    context.metrics.counters.rejected.add(1);
    turned_away(None, peer, TOO_MANY, context);
    // An end of stream without an ERROR would confirm messages that the client may have sent.
    socket.reset_on_close();
    let (mut read, mut write) = socket.split();
    let frame = error_frame(TOO_MANY, context.config.limits);
    if !pending.silent && write.write_all(&frame).now_or_never().is_some_and(|written| written.is_ok()) {
        close(&mut read, &mut write, false, context.config.write_timeout).now_or_never();
    }
}

/// INFO, AUTH, and the check of the key.
async fn exchange(
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    peer: SocketAddr,
    begun: Instant,
    service: &Service,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Result<Authenticated, Failure> {
    let wait = context.config.handshake_timeout;
    let left = wait.saturating_sub(begun.elapsed());
    let mut received = BytesMut::with_capacity(BUFFER);
    if let Some(until) = context.auth_failures.until(peer.ip(), Instant::now()) {
        context.metrics.counters.throttled.add(1);
        if timeout_at(until, closed_early(read, &mut received)).await.is_ok() {
            return Err(Failure::Closed(None));
        }
    }
    let hello = timeout(left, exchange_hello(read, write, received, service, pending, context)).await;
    let late = |_| Failure::Refused(Reason::Timeout, format!("No AUTH within {} s", wait.as_secs_f32()), None);
    let (nonce, ident, digest, received) = hello.map_err(late)??;
    if !pending.begin_lookup() {
        // It has been evicted, which ends this future.
        return std::future::pending().await;
    }
    let _timing = context.metrics.time_authentication();
    let key = match timeout(context.config.auth_timeout, context.store.lookup(&ident)).await {
        Ok(Ok(Some(key))) => key.current(),
        Ok(Ok(None)) => return Err(Failure::Rejected(ident, Cause::UnknownIdent)),
        Ok(Err(cause)) => return Err(Failure::Rejected(ident, Cause::Lookup(cause))),
        Err(_) => return Err(Failure::Rejected(ident, Cause::LookupTimeout)),
    };
    if let Some(why) = key.unusable() {
        return Err(Failure::Rejected(ident, Cause::Unusable(why)));
    }
    let Some(secret) = key.proved(&nonce, &digest).cloned() else {
        return Err(Failure::Rejected(ident, Cause::WrongSecret));
    };
    let membership = context.identities.join(ident.clone(), key, secret).ok_or(Failure::TooMany(ident))?;
    Ok(Authenticated { membership, received })
}

/// Completes when the client closes the connection before it has got INFO.
async fn closed_early(read: &mut ReadHalf<'_>, buf: &mut BytesMut) {
    while buf.len() < buf.capacity() {
        if let Ok(0) | Err(_) = read.read(buf).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Sends INFO and receives AUTH.
async fn exchange_hello(
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    mut buf: BytesMut,
    service: &Service,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Result<(Nonce, Ident, Digest, BytesMut), Failure> {
    let closed = |cause| Failure::Closed(Some(cause));
    let mut nonce = vec![0; context.config.nonce_len];
    getrandom::fill(&mut nonce).map_err(|cause| closed(io::Error::other(cause)))?;
    let nonce = Nonce::new(nonce);
    let mut frame = BytesMut::new();
    let name = if service.extensions { context.config.greeting() } else { context.config.name.as_str().into() };
    let info = Frame::Info { name: name.into_owned(), nonce: nonce.clone() };
    info.encode(&mut frame, Limits::default()).map_err(|cause| closed(io::Error::other(cause)))?;
    pending.silent = true;
    write.write_all(&frame).await.map_err(closed)?;
    pending.silent = false;
    loop {
        match first_frame(&buf, context.config.limits) {
            Ok(Some((ident, digest, len))) => {
                buf.advance(len);
                return Ok((nonce, ident, digest, buf));
            }
            Ok(None) => {}
            Err((reason, text)) => return Err(Failure::Refused(reason, text, OtherProtocol::of(&buf))),
        }
        // AUTH is shorter than the buffer, so there is room until all of it is there.
        match read.read(&mut buf).await {
            Ok(0) if buf.is_empty() => return Err(Failure::Closed(None)),
            Ok(0) => {
                let text = "the connection ended inside AUTH".to_owned();
                return Err(Failure::Refused(Reason::Closed, text, None));
            }
            Ok(_) => {}
            Err(cause) => return Err(closed(cause)),
        }
    }
}

/// The ident, digest and length of AUTH; `None` while a part of it is missing, an error for
/// anything else.
fn first_frame(bytes: &[u8], limits: Limits) -> Result<Option<(Ident, Digest, usize)>, Refusal> {
    let fault = |cause: DecodeError| (Reason::Malformed, cause.to_string());
    let other = || (Reason::InvalidFirstMessage, "First message was not AUTH".to_owned());
    let Some(header) = Header::parse(bytes, limits).map_err(fault)? else {
        return Ok(None);
    };
    if header.opcode != Opcode::Auth {
        return Err(other());
    }
    let Some(body) = header.body(bytes) else {
        return Ok(None);
    };
    match FrameRef::parse(header.opcode, body).map_err(fault)? {
        FrameRef::Auth { ident, digest } => {
            let ident = Ident::new(ident).map_err(|cause| (Reason::Malformed, format!("ident {cause}")))?;
            Ok(Some((ident, *digest, header.length)))
        }
        _ => Err(other()),
    }
}

/// Log hint for a client that speaks another protocol at an endpoint without TLS.
fn hint(other: OtherProtocol) -> String {
    match other {
        OtherProtocol::Tls => "the client speaks TLS: it needs an endpoint tls:, or has to do without".to_owned(),
        OtherProtocol::Proxy => {
            "a proxy sends its header: the endpoint needs proxy=yes and proxyfrom=ADDRESS".to_owned()
        }
        other => format!("the client speaks {other}: it looks for something else at this port"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn first_frame_other_than_auth_is_refused_at_its_header() {
        let refusal = |bytes: &[u8]| first_frame(bytes, Limits::default()).unwrap_err().1;
        assert_eq!(refusal(&[0, 0, 1, 0, 4]), "First message was not AUTH");
        assert_eq!(refusal(&[0, 0, 0, 4, 2]), "frame length 4 is too short: a frame has at least 5 bytes");
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n"), "unknown opcode 47");
        assert_eq!(first_frame(&[0, 0, 0, 27, 2, 1, b'i'], Limits::default()).unwrap(), None);
    }
}
