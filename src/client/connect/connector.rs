//! The connector and the transport of a session: what TCP and TLS implement, and what programs may.

use std::{io, time::Duration};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::addr::BrokerAddr;

/// The operating system's knowledge of the way to the peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStatus {
    /// Bytes that were written and that the peer's system has not acknowledged.
    pub unacknowledged: u64,
    /// The peer's system has acknowledged the end of our stream, or what stands for it in another
    /// protocol over it. Looked at only when our side has been shut down.
    pub end_acknowledged: bool,
    /// For how long the peer's system has answered nothing although it was asked several times;
    /// zero while it answers. A peer that reads nothing answers: its window is closed, and its
    /// system says so.
    pub unanswered: Duration,
}

/// A connection to a broker: any byte stream.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether the peer is known to have closed its side, asked before each write so that a message
    /// is not handed to a connection that is already dead. `false` when it cannot be told; must not
    /// block.
    fn peer_closed(&self) -> bool {
        false
    }

    /// The system's knowledge of the way to the peer, asked a few times a second while something is
    /// on it. `None` when it cannot be told, and then asked once a minute; must not block.
    fn status(&self) -> Option<TransportStatus> {
        None
    }

    /// The session gives this connection up since nothing is acknowledged any more, and drops it
    /// next: what is still on its way must not arrive later, behind messages of the next
    /// connection. Does nothing by default; must not block.
    fn abort(&self) {}

    /// The broker sends heartbeats, by which the session knows that it is alive: a limit of the
    /// system on unacknowledged bytes, which also ends connections whose peer is alive and reads
    /// nothing, may be lifted. Called once. Does nothing by default; must not block.
    fn hears_heartbeats(&self) {}
}

impl Transport for tokio::io::DuplexStream {}

#[cfg(unix)]
impl Transport for tokio::net::UnixStream {}

/// How a session reaches its broker. Give your own to go through a proxy, over a Unix socket or
/// into a simulation.
pub trait Connector: Send + Sync + 'static {
    /// Opens a connection. The session puts its own deadline around it, and drops the future when
    /// that has passed or the session ends.
    fn connect<'a>(&'a self, addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>>;
}
