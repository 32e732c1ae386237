//! Connections through a proxy: its PROXY header, which names the client, and how that fails.

use std::{io, net::SocketAddr};

use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use crate::{
    context::BrokerContext,
    incidents::IncidentKind,
    limits::{connections::Permit, log_sampler::Suppressed, pre_auth::PendingConnection},
    metrics::failures::Reason,
    net::{
        proxy_header::{self, Fault, MAX, Source},
        socket::{Socket, close},
    },
    session::error_frame::send_error,
};

/// Number of bytes by which the buffer for a header grows. Few headers are longer, so a waiting
/// connection holds little.
const CHUNK: usize = 256;

/// Why the client of a connection is not known.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Header(#[from] Fault),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header, and nothing behind it.
async fn read_header(tcp: &mut TcpStream) -> Result<Source, ReadError> {
    let (mut bytes, mut end) = (Vec::new(), 0);
    loop {
        // A header has at most MAX bytes, so its end is in the buffer by then.
        bytes.resize((end + CHUNK).min(MAX), 0);
        // The bytes stay in the socket until it is known where the header ends.
        let seen = tcp.peek(&mut bytes[end..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = proxy_header::parse(&bytes[..end + seen])?;
        let header = parsed.map_or(end + seen, |(_, len)| len);
        // These bytes are there, so this does not wait.
        tcp.read_exact(&mut bytes[end..header]).await?;
        end = header;
        if let Some((source, _)) = parsed {
            return Ok(source);
        }
    }
}

/// Reads the PROXY header and counts the connection for its client, whose address the permit has
/// from then on. `false` when that fails, which has been logged. `plain` is whether an ERROR can be
/// sent, which it cannot before TLS.
pub(crate) async fn identify(
    socket: &mut Socket,
    permit: &mut Permit,
    pending: &mut PendingConnection,
    plain: bool,
    context: &BrokerContext,
) -> bool {
    let (proxy, wait) = (permit.peer, context.config.handshake_timeout);
    let Some(tcp) = socket.tcp() else {
        // The program that handed the stream over has named the client.
        return true;
    };
    pending.silent = true;
    let cause = match timeout(wait, read_header(tcp)).await {
        Ok(Ok(source)) => {
            let client = match source {
                Source::Client(client) => client,
                Source::Proxy => proxy,
            };
            pending.silent = false;
            let Err(reason) = permit.identify(client) else {
                return true;
            };
            pending.end_without_session();
            context.metrics.counters.rejected.add(1);
            context.incidents.add(IncidentKind::TurnedAway, None, client.ip(), None, reason);
            context.admission.log_refusal(client.ip(), reason);
            if plain {
                let (mut read, mut write) = socket.split();
                send_error(&mut write, reason, context).await;
                close(&mut read, &mut write, true, context.config.write_timeout).await;
            }
            return false;
        }
        Ok(Err(cause)) => cause,
        Err(_) => {
            let text = format!("no header of the PROXY protocol within {} s", wait.as_secs_f32());
            io::Error::new(io::ErrorKind::TimedOut, text).into()
        }
    };
    pending.end_without_session();
    refuse(proxy, &cause, context);
    // An end of stream would confirm messages that the client may have sent.
    socket.reset_on_close();
    false
}

fn refuse(proxy: SocketAddr, cause: &ReadError, context: &BrokerContext) {
    let reason = match cause {
        ReadError::Header(_) => Reason::Malformed,
        ReadError::Io(cause) if cause.kind() == io::ErrorKind::TimedOut => Reason::Timeout,
        ReadError::Io(_) => Reason::Closed,
    };
    context.metrics.failed(reason);
    if let Reason::Closed = reason {
        debug!(%proxy, %cause, "closed before the PROXY header");
    } else if let Some(Suppressed { here: unlogged, elsewhere }) =
        context.log.refused.sample(proxy.ip(), Instant::now())
    {
        info!(%proxy, %cause, unlogged, elsewhere, "PROXY header failed");
    }
}
