//! How the session reaches the broker of the play.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use hpfeeds::{BrokerAddr, Connector, Transport};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::Peer;

/// The state that the dialler and the play share.
#[derive(Default)]
pub(super) struct Dials {
    pub(super) new: Vec<Peer>,
    pub(super) down: bool,
    pub(super) pipe: usize,
}

pub(super) struct Dialer(pub(super) Arc<Mutex<Dials>>);

impl Connector for Dialer {
    fn connect<'a>(&'a self, _: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let mut dials = self.0.lock().expect("one thread");
        if dials.down {
            return async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed();
        }
        let (ours, theirs) = duplex(dials.pipe);
        let dropped = Arc::new(AtomicBool::new(false));
        dials.new.push(Peer { io: Some(theirs), dropped: dropped.clone(), ..Peer::default() });
        async { Ok(Box::new(Line { io: ours, dropped }) as _) }.boxed()
    }
}

/// The session's end of a connection: it shows when that has been dropped.
struct Line {
    io: DuplexStream,
    dropped: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.dropped.store(true, Relaxed);
    }
}

impl Transport for Line {}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
