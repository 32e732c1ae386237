//! From INFO to an authenticated client.

use std::{io, net::SocketAddr, task::Poll, time::Duration};

use bytes::{Buf as _, BytesMut};
use futures::{FutureExt as _, future::poll_fn};
use hpfeeds::wire::{DecodeError, Digest, Frame, FrameRef, Header, Ident, Limits, Nonce, Opcode, OtherProtocol};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::{
    auth::AuthError,
    context::BrokerContext,
    identity::Membership,
    limits::{
        connections::TOO_MANY, log_sampler::Suppressed, pre_auth::PendingConnection, tls_handshakes::HandshakePermit,
    },
    metrics::{category::Category, failures::Reason},
    net::{
        socket::{ReadHalf, Socket, WriteHalf, close},
        tls::certificate::Certificate,
    },
    session::error_frame::{SHUTTING_DOWN, error_frame, say},
};

/// Room for AUTH, which has at most 281 bytes, and for a little that a client sends along with it.
const BUFFER: usize = 512;

/// A connection that ends sooner, before TLS has come about, is a probe of whether the port is open, or has lost its way.
const PROBE: Duration = Duration::from_secs(1);

/// A client that has proved who it is.
pub(crate) struct Admitted {
    pub(crate) membership: Membership,
    /// What it sent after AUTH.
    pub(crate) received: BytesMut,
}

/// Why there is no session.
enum Failure {
    /// It sent something else than AUTH, or nothing in time: the ERROR text, and what its bytes are if that is known.
    Refused(Reason, String, Option<OtherProtocol>),
    /// Wrong ident or secret, or nobody could tell.
    Rejected(Ident, Cause),
    /// Its ident has as many connections as it may have.
    Full(Ident),
    /// It is gone.
    Gone(Option<io::Error>),
}

/// Why a client is refused, and the ERROR text.
type Refusal = (Reason, String);

/// Why an authentication failed: for the log, as the client is not told.
enum Cause {
    UnknownIdent,
    WrongSecret,
    /// No secret opens it: why.
    Unusable(&'static str),
    Lookup(AuthError),
    LookupTimeout,
}

impl Cause {
    /// What it is for the exporter.
    fn kind(&self) -> (Reason, Category) {
        match self {
            Self::UnknownIdent => (Reason::UnknownIdent, Category::InvalidIdent),
            Self::WrongSecret | Self::Unusable(_) => (Reason::WrongSecret, Category::InvalidSecret),
            Self::Lookup(_) => (Reason::LookupFailed, Category::ErrorCheckingIdent),
            Self::LookupTimeout => (Reason::LookupTimeout, Category::ErrorCheckingIdent),
        }
    }

    fn log(&self, ident: &Ident, peer: SocketAddr, unlogged: &Suppressed) {
        let ident = ident.as_str();
        let Suppressed { here: unlogged, elsewhere } = *unlogged;
        match self {
            Self::UnknownIdent => info!(ident, %peer, unlogged, elsewhere, "authentication failed: unknown ident"),
            Self::WrongSecret => info!(ident, %peer, unlogged, elsewhere, "authentication failed: wrong secret"),
            Self::Unusable(why) => info!(ident, %peer, unlogged, elsewhere, "authentication failed: {why}"),
            Self::Lookup(cause) => {
                warn!(ident, %peer, unlogged, elsewhere, %cause, "authentication failed: cannot look up the key");
            }
            Self::LookupTimeout => {
                warn!(ident, %peer, unlogged, elsewhere, "authentication failed: the key store did not answer in time");
            }
        }
    }
}

/// Waits until a client of TLS has its turn; `None` when that takes too long, or the client has not waited.
pub(crate) async fn turn(socket: &mut Socket, peer: SocketAddr, context: &BrokerContext) -> Option<HandshakePermit> {
    let Ok(turn) = timeout(context.config.handshake_timeout, context.tls_handshakes.acquire(peer.ip())).await else {
        context.metrics.counters.rejected.add(1);
        context.admission.log_refusal(peer.ip(), "Too many TLS handshakes from your address");
        return None;
    };
    let (read, _) = socket.split();
    if poll_fn(|cx| Poll::Ready(read.is_finished(cx))).await {
        context.metrics.failed(Reason::Closed);
        debug!(%peer, "gone before TLS");
        return None;
    }
    Some(turn)
}

/// Speaks TLS with a client whose turn it is. `false` when that has failed, which has been logged.
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
    if cause.kind() == io::ErrorKind::UnexpectedEof && begun.elapsed() < PROBE {
        debug!(%peer, %cause, "TLS handshake failed");
    } else if let Some(Suppressed { here: unlogged, elsewhere }) = context.log.refused.sample(peer.ip(), Instant::now())
    {
        info!(%peer, %cause, unlogged, elsewhere, "TLS handshake failed");
    }
    // Not with TLS: the alert that says why is on its way.
    let (mut read, mut write) = socket.split();
    close(&mut read, &mut write, true, context.config.write_timeout).await;
    false
}

/// Greets a client and finds out who it is. `None` when it may not stay: that has been said to it, and logged.
/// What it had to say before, such as TLS, it began at `begun`.
pub(crate) async fn run(
    socket: &mut Socket,
    peer: SocketAddr,
    begun: Instant,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Option<Admitted> {
    let (mut read, mut write) = socket.split();
    let failure = match authenticate(&mut read, &mut write, peer, begun, pending, context).await {
        Ok(admitted) => return Some(admitted),
        Err(failure) => failure,
    };
    pending.end_without_session();
    match failure {
        Failure::Refused(reason, text, other) => {
            context.metrics.failed(reason);
            if let Some(Suppressed { here: unlogged, elsewhere }) =
                context.log.refused.sample(peer.ip(), Instant::now())
            {
                let hint = other.map(hint);
                info!(%peer, reason = text, hint, unlogged, elsewhere, "handshake failed");
            }
            say(&mut write, &text, context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::Rejected(ident, cause) => {
            let (reason, category) = cause.kind();
            context.metrics.failed(reason);
            context.metrics.rejected(&ident, category);
            let now = Instant::now();
            context.auth_failures.failed(peer.ip(), now);
            if let Some(unlogged) = context.log.rejected.sample(peer.ip(), now) {
                cause.log(&ident, peer, &unlogged);
            }
            say(&mut write, &format!("Authentication failed for {ident}"), context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::Full(ident) => {
            context.metrics.counters.rejected.add(1);
            let reason = format!("Too many connections for {ident}");
            context.admission.log_refusal(peer.ip(), &reason);
            // Clients come back at once.
            context.auth_failures.failed(peer.ip(), Instant::now());
            say(&mut write, &reason, context).await;
            close(&mut read, &mut write, true, context.config.write_timeout).await;
        }
        Failure::Gone(cause) => {
            context.metrics.failed(Reason::Closed);
            debug!(%peer, cause = cause.map(tracing::field::display), "gone before authentication");
        }
    }
    None
}

/// The broker shuts down before a client has authenticated.
pub(crate) async fn cut(socket: &mut Socket, context: &BrokerContext) {
    let (mut read, mut write) = socket.split();
    say(&mut write, SHUTTING_DOWN, context).await;
    close(&mut read, &mut write, false, context.config.write_timeout).await;
}

/// Another client takes the place of this one. It is told so if that takes no time, as its place is gone already.
pub(crate) fn evict(socket: &mut Socket, peer: SocketAddr, pending: &PendingConnection, context: &BrokerContext) {
    // It has been counted, and told what is wrong.
    if pending.is_ending() {
        return;
    }
    context.metrics.counters.rejected.add(1);
    context.admission.log_refusal(peer.ip(), TOO_MANY);
    // An end of stream without an ERROR would confirm what it may have sent.
    socket.reset_on_close();
    let (mut read, mut write) = socket.split();
    let frame = error_frame(TOO_MANY, context.config.limits);
    if !pending.silent && write.write_all(&frame).now_or_never().is_some_and(|written| written.is_ok()) {
        close(&mut read, &mut write, false, context.config.write_timeout).now_or_never();
    }
}

async fn authenticate(
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    peer: SocketAddr,
    begun: Instant,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Result<Admitted, Failure> {
    let wait = context.config.handshake_timeout;
    let left = wait.saturating_sub(begun.elapsed());
    let mut received = BytesMut::with_capacity(BUFFER);
    if let Some(until) = context.auth_failures.until(peer.ip(), Instant::now()) {
        context.metrics.counters.throttled.add(1);
        if timeout_at(until, gone(read, &mut received)).await.is_ok() {
            return Err(Failure::Gone(None));
        }
    }
    let greeting = timeout(left, greet(read, write, received, pending, context)).await;
    let late = |_| Failure::Refused(Reason::Timeout, format!("No AUTH within {} s", wait.as_secs_f32()), None);
    let (nonce, ident, digest, received) = greeting.map_err(late)??;
    if !pending.begin_lookup() {
        // It is being told so.
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
    let membership = context.identities.join(ident.clone(), key, secret).ok_or(Failure::Full(ident))?;
    Ok(Admitted { membership, received })
}

/// Returns when a client has not waited for INFO.
async fn gone(read: &mut ReadHalf<'_>, buf: &mut BytesMut) {
    while buf.len() < buf.capacity() {
        if let Ok(0) | Err(_) = read.read(buf).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Sends INFO and waits for AUTH.
async fn greet(
    read: &mut ReadHalf<'_>,
    write: &mut WriteHalf<'_>,
    mut buf: BytesMut,
    pending: &mut PendingConnection,
    context: &BrokerContext,
) -> Result<(Nonce, Ident, Digest, BytesMut), Failure> {
    let gone = |cause| Failure::Gone(Some(cause));
    let mut nonce = vec![0; context.config.nonce_len];
    getrandom::fill(&mut nonce).map_err(|cause| gone(io::Error::other(cause)))?;
    let nonce = Nonce::new(nonce);
    let mut greeting = BytesMut::new();
    let info = Frame::Info { name: context.config.name.clone(), nonce: nonce.clone() };
    info.encode(&mut greeting, Limits::default()).map_err(|cause| gone(io::Error::other(cause)))?;
    pending.silent = true;
    write.write_all(&greeting).await.map_err(gone)?;
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
        // AUTH is shorter than the buffer, so there is room until it is complete.
        match read.read(&mut buf).await {
            Ok(0) if buf.is_empty() => return Err(Failure::Gone(None)),
            Ok(0) => {
                let text = "the connection ended inside AUTH".to_owned();
                return Err(Failure::Refused(Reason::Closed, text, None));
            }
            Ok(_) => {}
            Err(cause) => return Err(gone(cause)),
        }
    }
}

/// The ident, digest and length of AUTH when it is all there, or what to say about something else.
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

/// What to do about a client that speaks something else at an endpoint without TLS.
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
    fn what_is_not_auth_is_refused_at_its_header() {
        let refusal = |bytes: &[u8]| first_frame(bytes, Limits::default()).unwrap_err().1;
        assert_eq!(refusal(&[0, 0, 1, 0, 4]), "First message was not AUTH");
        assert_eq!(refusal(&[0, 0, 0, 4, 2]), "frame length 4 is too short: a frame has at least 5 bytes");
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n"), "unknown opcode 47");
        assert_eq!(first_frame(&[0, 0, 0, 27, 2, 1, b'i'], Limits::default()).unwrap(), None);
    }
}
