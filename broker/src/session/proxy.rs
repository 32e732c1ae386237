//! Connections that come through a proxy, which says in a header whose they are.

use std::{io, net::SocketAddr};

use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use crate::{
    context::BrokerContext,
    limits::{connections::Permit, log_sampler::Suppressed, pre_auth::PendingConnection},
    metrics::failures::Reason,
    net::{
        proxy_header::{self, Fault, MAX, Source},
        socket::{Socket, close},
    },
    session::error_frame::say,
};

/// How much room a header has at first, in bytes, and each time that it needs more.
const CHUNK: usize = 256;

/// Why it is not known whose a connection is.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Header(#[from] Fault),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header and nothing of what follows it.
async fn read_header(tcp: &mut TcpStream) -> Result<Source, ReadError> {
    let (mut bytes, mut end) = (Vec::new(), 0);
    loop {
        // Few are longer than this: what waits holds little. A header that is no longer than MAX has its end by then.
        bytes.resize((end + CHUNK).min(MAX), 0);
        // Looked at first: where the header ends is found in it.
        let seen = tcp.peek(&mut bytes[end..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = proxy_header::parse(&bytes[..end + seen])?;
        let header = parsed.map_or(end + seen, |(_, len)| len);
        // They are there.
        tcp.read_exact(&mut bytes[end..header]).await?;
        end = header;
        if let Some((source, _)) = parsed {
            return Ok(source);
        }
    }
}

/// Finds out whose a connection is, which its permit has from then on. `false` when it may not stay, which has been
/// logged; `plain` is whether it can be told so.
pub(crate) async fn identify(
    socket: &mut Socket,
    permit: &mut Permit,
    pending: &mut PendingConnection,
    plain: bool,
    context: &BrokerContext,
) -> bool {
    let (proxy, wait) = (permit.peer, context.config.handshake_timeout);
    let Some(tcp) = socket.tcp() else {
        // Whoever gives us a stream has said whose it is.
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
            context.admission.log_refusal(client.ip(), reason);
            if plain {
                let (mut read, mut write) = socket.split();
                say(&mut write, reason, context).await;
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
    // It may have sent what nobody will read, and would take an end of stream for our word.
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
        debug!(%proxy, %cause, "gone before its PROXY header");
    } else if let Some(Suppressed { here: unlogged, elsewhere }) =
        context.log.refused.sample(proxy.ip(), Instant::now())
    {
        info!(%proxy, %cause, unlogged, elsewhere, "PROXY header failed");
    }
}
