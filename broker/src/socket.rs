//! The one place that touches a connection's socket: TLS will be a second kind of each half.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use futures::future::poll_fn;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWrite as _, Interest},
    net::{TcpStream, tcp},
    time::{Instant, timeout_at},
};
use tokio_util::io::poll_read_buf;

/// How long after our own end of stream we wait for the peer's, and how much we read meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;

/// How much is read at once of what nobody wants.
const DISCARD: usize = 16 * 1024;

/// How much of what we wrote the system holds that it has not sent. Without this bound it says that a blocked socket
/// takes more only once a third of its buffer is free, which is megabytes: a subscriber that reads steadily would look
/// as if it did not read at all.
pub(crate) const UNSENT: u32 = 64 * 1024;

pub(crate) struct Socket {
    tcp: TcpStream,
}

impl Socket {
    /// Sets the options that the Python broker sets, and no delay.
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let options = SockRef::from(&tcp);
        options.set_tcp_keepalive(&keepalive)?;
        // Elsewhere, and on a system that does not know it, what a subscriber drains is only seen in larger steps.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        Ok(Self { tcp })
    }

    /// See [`reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(&self.tcp);
    }

    /// Both halves borrow the socket: they share no lock.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        let (read, write) = self.tcp.split();
        (ReadHalf(read), WriteHalf(write))
    }
}

/// From now on, whatever ends this connection without [`close`], be it the end of the process, resets it. Its peer
/// has sent something that we may not have acted on, and would take an end of stream for our word that we have.
fn reset_on_close(tcp: &TcpStream) {
    // It fails when the connection is gone already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

pub(crate) struct ReadHalf<'a>(tcp::ReadHalf<'a>);

impl ReadHalf<'_> {
    /// Ready when a read may find something, or the end, or an error.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_ref().poll_read_ready(cx)
    }

    /// See [`reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(self.0.as_ref());
    }

    /// Undoes [`reset_on_close`](Self::reset_on_close): an end of stream is what the peer may have now.
    pub(crate) fn finish_on_close(&self) {
        let _ = SockRef::from(self.0.as_ref()).set_linger(None);
    }

    /// Whether there is something that has not been read.
    pub(crate) fn has_unread(&self) -> bool {
        matches!(SockRef::from(self.0.as_ref()).peek(&mut [MaybeUninit::uninit()]), Ok(n) if n > 0)
    }

    /// Whether the peer's end of stream is known to have arrived; what came before it may still have to be read.
    pub(crate) fn is_finished(&self, cx: &mut Context<'_>) -> bool {
        let ready = pin!(self.0.ready(Interest::READABLE)).poll(cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Appends what is there to the spare room of the buffer; 0 is the peer's end of stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut self.0), cx, buf)
    }

    /// Cancel-safe: nothing has been read when it is dropped before it returns.
    pub(crate) async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Reads until the peer's end of stream, an error or a deadline, and forgets it. After `limit` bytes it only
    /// waits, so that nobody keeps us busy.
    pub(crate) async fn discard(&mut self, mut limit: usize, deadline: Instant) {
        let reading = async {
            let mut buf = BytesMut::with_capacity(DISCARD);
            while limit > 0 {
                match self.read(&mut buf).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => limit = limit.saturating_sub(n),
                }
                buf.clear();
                tokio::task::consume_budget().await;
            }
            std::future::pending::<()>().await;
        };
        timeout_at(deadline, reading).await.unwrap_or_default();
    }
}

pub(crate) struct WriteHalf<'a>(tcp::WriteHalf<'a>);

impl WriteHalf<'_> {
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.0).poll_write_vectored(cx, slices))?;
        Poll::Ready(if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) })
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = bytes.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.0).poll_shutdown(cx)).await
    }
}

/// Ends the connection so that the last thing we wrote arrives: an ERROR, or nothing after the peer's end of stream.
///
/// A socket that is closed while bytes of the peer are unread sends a reset, which may destroy an ERROR on its way.
/// So: our end of stream first, then read what comes, for a short while. When the peer is not expected to send, this
/// is only done if there is something to read already.
pub(crate) async fn close(read: &mut ReadHalf<'_>, write: &mut WriteHalf<'_>, expect: bool) {
    read.finish_on_close();
    if write.shutdown().await.is_err() {
        return;
    }
    let something = poll_fn(|cx| Poll::Ready(read.poll_readable(cx).is_ready())).await;
    if expect || something {
        read.discard(LINGER_BYTES, Instant::now() + LINGER).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn sockets_have_the_options_of_the_python_broker() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0).unwrap();
        let options = SockRef::from(&socket.tcp);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
        assert!(socket.tcp.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
