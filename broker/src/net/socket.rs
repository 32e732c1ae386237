//! The socket of a connection: TCP with TLS or without, or another stream.

use std::{
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};
use futures::future::poll_fn;
use hpfeeds::Keepalive;
use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWrite as _, Interest},
    net::{TcpStream, tcp},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::io::poll_read_buf;

use crate::net::{
    peekable::{PeekableStream, Stream},
    tls::stream::{self, Tls},
};

/// How long, after our own end of stream, that of the peer is waited for, and the most bytes that
/// are read meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;

/// The bytes of one read that are thrown away.
const DISCARD: usize = 16 * 1024;

/// The most bytes that were written and that the system has not sent (`TCP_NOTSENT_LOWAT`). Without
/// this bound a blocked socket becomes writable only once a third of its buffer is free, which is
/// megabytes: a subscriber that reads steadily would look as if it did not read at all.
pub(crate) const UNSENT: u32 = 64 * 1024;

/// A connection's socket. The rare parts are in boxes, so that a plain TCP connection stays small.
/// Both halves belong to one task: the locks are always free.
pub(crate) enum Socket {
    Tcp { tcp: TcpStream, tls: Option<Box<Mutex<Tls>>> },
    Stream(Box<Mutex<PeekableStream>>),
}

impl Socket {
    /// Sets the options of the endpoint, and no delay, as the Python broker does.
    pub(crate) fn new(tcp: TcpStream, keepalive: Option<Keepalive>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let options = SockRef::from(&tcp);
        if let Some(Keepalive { idle, interval, retries }) = keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
            options.set_tcp_keepalive(&keepalive)?;
        }
        // Elsewhere, and on a system that does not know it, what a subscriber drains is only seen
        // in larger steps.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        Ok(Self::Tcp { tcp, tls: None })
    }

    /// The socket of another stream than TCP.
    pub(crate) fn from_stream(stream: Box<dyn Stream>) -> Self {
        Self::Stream(Box::new(Mutex::new(PeekableStream::new(stream))))
    }

    /// Completes the TLS handshake, before which nothing else is read or written.
    pub(crate) async fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        match self {
            Self::Tcp { tcp, tls } => {
                *tls = Some(Box::new(Mutex::new(stream::accept(tcp, config).await?)));
                Ok(())
            }
            // A stream comes from the program around the broker, which has seen to that.
            Self::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The TCP connection, under TLS if there is any; `None` for another stream.
    pub(crate) fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Tcp { tcp, .. } => Some(tcp),
            Self::Stream(_) => None,
        }
    }

    /// See [`reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp { tcp, .. } = self {
            reset_on_close(tcp);
        }
    }

    /// Both halves borrow the socket.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        let (read, write) = match self {
            Self::Tcp { tcp, tls } => {
                let (read, write) = tcp.split();
                let tls = tls.as_deref();
                (ReadHalf::Tcp { tcp: read, tls }, Sink::Tcp { tcp: write, tls })
            }
            Self::Stream(stream) => (ReadHalf::Stream(stream), Sink::Stream(stream)),
        };
        (read, WriteHalf { sink: write, taken: 0 })
    }
}

/// From now on, the connection is reset when it ends without [`close`], even by the end of the
/// process. Its peer has sent bytes that may not have been processed, and would take an end of
/// stream for the confirmation that they have been.
fn reset_on_close(tcp: &TcpStream) {
    // It fails when the connection is gone already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

pub(crate) enum ReadHalf<'a> {
    Tcp { tcp: tcp::ReadHalf<'a>, tls: Option<&'a Mutex<Tls>> },
    Stream(&'a Mutex<PeekableStream>),
}

impl ReadHalf<'_> {
    /// Ready when a read may return bytes, the end, or an error.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp { tls: Some(tls), .. } if tls.lock().is_readable() => Poll::Ready(Ok(())),
            Self::Tcp { tcp, .. } => tcp.as_ref().poll_read_ready(cx),
            Self::Stream(stream) => stream.lock().poll_readable(cx).map(Ok),
        }
    }

    /// The bytes that there are to read, where the system can be asked.
    #[cfg_attr(not(unix), allow(clippy::unused_self, reason = "it cannot be asked"))]
    pub(crate) fn available(&self) -> Option<usize> {
        #[cfg(unix)]
        if let Self::Tcp { tcp, tls: None } = self {
            return rustix::io::ioctl_fionread(tcp.as_ref()).ok().and_then(|n| usize::try_from(n).ok());
        }
        None
    }

    /// See [`reset_on_close`]. Another stream is dropped without a shutdown, which is all that can
    /// be done.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp { tcp, .. } = self {
            reset_on_close(tcp.as_ref());
        }
    }

    /// Undoes [`reset_on_close`](Self::reset_on_close): the peer may have an end of stream now.
    pub(crate) fn finish_on_close(&self) {
        if let Self::Tcp { tcp, .. } = self {
            let _ = SockRef::from(tcp.as_ref()).set_linger(None);
        }
    }

    /// Whether there are bytes that have not been read. No task may wait to read meanwhile.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Tcp { tls: Some(tls), .. } if tls.lock().has_unread() => true,
            Self::Tcp { tcp, .. } => {
                matches!(SockRef::from(tcp.as_ref()).peek(&mut [MaybeUninit::uninit()]), Ok(n) if n > 0)
            }
            Self::Stream(stream) => stream.lock().has_unread(),
        }
    }

    /// Whether the peer's end of stream is known to have arrived; bytes before it may still be
    /// unread.
    pub(crate) fn is_finished(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp { tcp, .. } => {
                let ready = pin!(tcp.ready(Interest::READABLE)).poll(cx);
                matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
            }
            Self::Stream(stream) => stream.lock().is_finished(cx),
        }
    }

    /// Appends to the spare room of the buffer, and returns how many bytes; 0 is the peer's end of
    /// stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp { tcp, tls: Some(tls) } => tls.lock().poll_read(tcp, cx, buf),
            _ => self.poll_read_raw(cx, buf),
        }
    }

    /// The same, and at most `limit` bytes from a plain connection.
    pub(crate) fn poll_read_up_to(
        &mut self,
        limit: usize,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp { tcp, tls: None } => poll_read_buf(Pin::new(tcp), cx, &mut buf.limit(limit)),
            _ => self.poll_read(cx, buf),
        }
    }

    /// The same, without decrypting it.
    fn poll_read_raw(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp { tcp, .. } => poll_read_buf(Pin::new(tcp), cx, buf),
            Self::Stream(stream) => stream.lock().poll_read(cx, buf),
        }
    }

    /// Cancel-safe: nothing has been read when the future is dropped before it returns.
    pub(crate) async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Reads and throws away, without decrypting, until the peer has closed, an error or a
    /// deadline. After `limit` bytes it only waits, so that a peer cannot keep the broker busy.
    pub(crate) async fn discard(&mut self, mut limit: usize, deadline: Instant) {
        let reading = async {
            let mut buf = BytesMut::with_capacity(DISCARD);
            while limit > 0 {
                match poll_fn(|cx| self.poll_read_raw(cx, &mut buf)).await {
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
    sink: Sink<'a>,
    /// The bytes that TLS has encrypted, or another stream has taken, and that have not all been
    /// sent.
    taken: usize,
}

enum Sink<'a> {
    Tcp { tcp: tcp::WriteHalf<'a>, tls: Option<&'a Mutex<Tls>> },
    Stream(&'a Mutex<PeekableStream>),
}

impl WriteHalf<'_> {
    /// After `Pending`, the caller comes again with the same bytes, or asks how many of them are
    /// [committed](Self::committed).
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let n = ready!(match &mut self.sink {
            // A single slice goes a shorter way through the system.
            Sink::Tcp { tcp, tls: None } => match slices {
                [slice] => Pin::new(tcp).poll_write(cx, slice),
                _ => Pin::new(tcp).poll_write_vectored(cx, slices),
            },
            Sink::Tcp { tcp, tls: Some(tls) } => tls.lock().poll_write(tcp, cx, slices, &mut self.taken),
            Sink::Stream(stream) => stream.lock().poll_write(cx, slices, &mut self.taken),
        })?;
        Poll::Ready(if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) })
    }

    /// Lets the system take little more than so many bytes that the peer has not.
    pub(crate) fn limit_send_buffer(&self, bytes: usize) {
        if let Sink::Tcp { tcp, .. } = &self.sink {
            // It fails when the connection is gone already.
            let _ = SockRef::from(tcp.as_ref()).set_send_buffer_size(bytes);
        }
    }

    /// The half goes on with a write of which so many bytes are [committed](Self::committed).
    #[cfg(feature = "dashboard")]
    pub(crate) fn resumed(self, taken: usize) -> Self {
        Self { taken, ..self }
    }

    /// How many bytes of the last write will be sent whatever comes next: TLS has encrypted them,
    /// or the stream has taken them.
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

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sink {
            Sink::Tcp { tcp, tls: None } => Pin::new(tcp).poll_shutdown(cx),
            Sink::Tcp { tcp, tls: Some(tls) } => tls.lock().poll_shutdown(tcp, cx),
            Sink::Stream(stream) => stream.lock().poll_shutdown(cx),
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }
}

/// Ends the connection so that the last write arrives: an ERROR, or nothing after the peer's end of
/// stream.
///
/// A socket that is closed while bytes of the peer are unread sends a reset, which may destroy an
/// ERROR on its way. So: our end of stream first, then read for at most [`LINGER`]. When the peer
/// is not expected to send, this is only done if there is something to read already.
///
/// TLS ends its stream with a record, which may take as long as `patience`. Without it, the end of
/// the connection means nothing.
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

    fn tcp(socket: &Socket) -> &TcpStream {
        match socket {
            Socket::Tcp { tcp, .. } => tcp,
            Socket::Stream(_) => unreachable!("it was accepted"),
        }
    }

    #[test]
    fn socket_of_a_tcp_connection_is_small() {
        assert!(size_of::<Socket>() <= size_of::<(TcpStream, Option<Box<Mutex<Tls>>>)>());
        assert!(size_of::<ReadHalf<'_>>() <= 2 * size_of::<usize>());
        assert!(size_of::<WriteHalf<'_>>() <= 3 * size_of::<usize>());
    }

    #[tokio::test]
    async fn sockets_have_the_options_of_the_python_broker() {
        let (socket, _client) = accepted(Some(Keepalive::default())).await;
        let options = SockRef::from(tcp(&socket));
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
        assert!(tcp(&socket).nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[tokio::test]
    async fn keepalive_is_what_the_endpoint_says() {
        let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(7), retries: 9 };
        let (socket, _client) = accepted(Some(keepalive)).await;
        let options = SockRef::from(tcp(&socket));
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 9);
        let (socket, _client) = accepted(None).await;
        assert!(!SockRef::from(tcp(&socket)).keepalive().unwrap());
    }
}
