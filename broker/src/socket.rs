//! The one place that touches a connection's socket, with TLS or without.

use std::{
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use futures::future::poll_fn;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWrite as _, Interest},
    net::{TcpStream, tcp},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::io::poll_read_buf;

use crate::{
    endpoint::Keepalive,
    tls::{self, Tls},
};

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
    /// In a box, so that connections without it stay small. Both halves belong to one task: the lock is always free.
    tls: Option<Box<Mutex<Tls>>>,
}

impl Socket {
    /// Sets the options of the endpoint, and no delay, as the Python broker does.
    pub(crate) fn new(tcp: TcpStream, keepalive: Option<Keepalive>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let options = SockRef::from(&tcp);
        if let Some(Keepalive { idle, interval, probes }) = keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes);
            options.set_tcp_keepalive(&keepalive)?;
        }
        // Elsewhere, and on a system that does not know it, what a subscriber drains is only seen in larger steps.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        Ok(Self { tcp, tls: None })
    }

    /// Greets the client with TLS, without which nothing more is said.
    pub(crate) async fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let tls = tls::accept(&mut self.tcp, config).await?;
        self.tls = Some(Box::new(Mutex::new(tls)));
        Ok(())
    }

    /// See [`reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(&self.tcp);
    }

    /// Both halves borrow the socket.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        let (read, write) = self.tcp.split();
        let tls = self.tls.as_deref();
        (ReadHalf { tcp: read, tls }, WriteHalf { tcp: write, tls, taken: 0 })
    }
}

/// From now on, whatever ends this connection without [`close`], be it the end of the process, resets it. Its peer
/// has sent something that we may not have acted on, and would take an end of stream for our word that we have.
fn reset_on_close(tcp: &TcpStream) {
    // It fails when the connection is gone already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

fn lock(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct ReadHalf<'a> {
    tcp: tcp::ReadHalf<'a>,
    tls: Option<&'a Mutex<Tls>>,
}

impl ReadHalf<'_> {
    /// Ready when a read may find something, or the end, or an error.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls_is_readable() {
            return Poll::Ready(Ok(()));
        }
        self.tcp.as_ref().poll_read_ready(cx)
    }

    fn tls_is_readable(&self) -> bool {
        self.tls.is_some_and(|tls| lock(tls).is_readable())
    }

    /// See [`reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(self.tcp.as_ref());
    }

    /// Undoes [`reset_on_close`](Self::reset_on_close): an end of stream is what the peer may have now.
    pub(crate) fn finish_on_close(&self) {
        let _ = SockRef::from(self.tcp.as_ref()).set_linger(None);
    }

    /// Whether there is something that has not been read.
    pub(crate) fn has_unread(&self) -> bool {
        self.tls.is_some_and(|tls| lock(tls).has_unread())
            || matches!(SockRef::from(self.tcp.as_ref()).peek(&mut [MaybeUninit::uninit()]), Ok(n) if n > 0)
    }

    /// Whether the peer's end of stream is known to have arrived; what came before it may still have to be read.
    pub(crate) fn is_finished(&self, cx: &mut Context<'_>) -> bool {
        let ready = pin!(self.tcp.ready(Interest::READABLE)).poll(cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Appends what is there to the spare room of the buffer; 0 is the peer's end of stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self.tls {
            None => self.poll_read_tcp(cx, buf),
            Some(tls) => lock(tls).poll_read(&mut self.tcp, cx, buf),
        }
    }

    fn poll_read_tcp(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut self.tcp), cx, buf)
    }

    /// Cancel-safe: nothing has been read when it is dropped before it returns.
    pub(crate) async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Reads until the peer has closed, an error or a deadline, and forgets it, without decrypting it. After `limit`
    /// bytes it only waits, so that nobody keeps us busy.
    pub(crate) async fn discard(&mut self, mut limit: usize, deadline: Instant) {
        let reading = async {
            let mut buf = BytesMut::with_capacity(DISCARD);
            while limit > 0 {
                match poll_fn(|cx| self.poll_read_tcp(cx, &mut buf)).await {
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

pub(crate) struct WriteHalf<'a> {
    tcp: tcp::WriteHalf<'a>,
    tls: Option<&'a Mutex<Tls>>,
    /// What TLS has taken and encrypted, but not all of it has left.
    taken: usize,
}

impl WriteHalf<'_> {
    /// Whoever was told to wait comes again with the same bytes, or asks how many of them are [committed](Self::committed).
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let n = ready!(match self.tls {
            None => Pin::new(&mut self.tcp).poll_write_vectored(cx, slices),
            Some(tls) => lock(tls).poll_write(&mut self.tcp, cx, slices, &mut self.taken),
        })?;
        Poll::Ready(if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) })
    }

    /// Of what was to be written last, how many bytes will be, whatever comes next: they are encrypted already.
    pub(crate) fn committed(&mut self) -> usize {
        mem::take(&mut self.taken)
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = bytes.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| match self.tls {
            None => Pin::new(&mut self.tcp).poll_shutdown(cx),
            Some(tls) => lock(tls).poll_shutdown(&mut self.tcp, cx),
        })
        .await
    }
}

/// Ends the connection so that the last thing we wrote arrives: an ERROR, or nothing after the peer's end of stream.
///
/// A socket that is closed while bytes of the peer are unread sends a reset, which may destroy an ERROR on its way.
/// So: our end of stream first, then read what comes, for a short while. When the peer is not expected to send, this
/// is only done if there is something to read already.
///
/// TLS ends its stream with a few bytes, which may take as long as `patience`. Without them the end means nothing.
pub(crate) async fn close(read: &mut ReadHalf<'_>, write: &mut WriteHalf<'_>, expect: bool, patience: Duration) {
    read.finish_on_close();
    if !matches!(timeout(patience, write.shutdown()).await, Ok(Ok(()))) {
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

    async fn accepted(keepalive: Option<Keepalive>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0, keepalive).unwrap(), client)
    }

    #[tokio::test]
    async fn sockets_have_the_options_of_the_python_broker() {
        let (socket, _client) = accepted(Some(Keepalive::default())).await;
        let options = SockRef::from(&socket.tcp);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
        assert!(socket.tcp.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[tokio::test]
    async fn keepalive_is_what_the_endpoint_says() {
        let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(7), probes: 9 };
        let (socket, _client) = accepted(Some(keepalive)).await;
        let options = SockRef::from(&socket.tcp);
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 9);
        let (socket, _client) = accepted(None).await;
        assert!(!SockRef::from(&socket.tcp).keepalive().unwrap());
    }
}
