//! A broker that a test plays by hand, over in-memory pipes: no sockets, so tokio's paused time can run ahead.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture};
use hpfeeds::{
    BrokerAddr, ClientSession, Connector, SessionBuilder, SessionEvent, Transport,
    wire::{Codec, Frame, Nonce, Secret},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::Framed;

pub(crate) const NONCE: [u8; 4] = [1, 2, 3, 4];
pub(crate) const SECRET: &str = "hunter2";

/// The test's side: peers arrive here as the session dials.
pub(crate) struct Script {
    peers: mpsc::UnboundedReceiver<DuplexStream>,
    dials: Arc<AtomicUsize>,
    aborts: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
}

/// The session's end of a pipe, which tells of resets.
struct Piped {
    io: DuplexStream,
    aborted: AtomicBool,
    aborts: Arc<AtomicUsize>,
}

impl Transport for Piped {
    fn abort(&self) {
        if !self.aborted.swap(true, Ordering::Relaxed) {
            self.aborts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Piped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

struct Dialer {
    peers: mpsc::UnboundedSender<DuplexStream>,
    dials: Arc<AtomicUsize>,
    aborts: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    pipe: usize,
}

impl Connector for Dialer {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            self.dials.fetch_add(1, Ordering::Relaxed);
            if self.down.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(self.pipe);
            self.peers.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(Piped { io: ours, aborted: AtomicBool::new(false), aborts: Arc::clone(&self.aborts) }) as _)
        })
    }
}

impl Script {
    /// A session builder whose connections come to this script, through pipes of 64 KiB.
    pub(crate) fn new() -> (Self, SessionBuilder) {
        Self::with_pipe(64 * 1024)
    }

    pub(crate) fn with_pipe(pipe: usize) -> (Self, SessionBuilder) {
        Self::at(20000, pipe)
    }

    /// At an address that no other script has: some of what is learnt about one is kept by the process.
    pub(crate) fn at_own_address(pipe: usize) -> (Self, SessionBuilder) {
        static PORT: AtomicU16 = AtomicU16::new(20001);
        Self::at(PORT.fetch_add(1, Ordering::Relaxed), pipe)
    }

    fn at(port: u16, pipe: usize) -> (Self, SessionBuilder) {
        let (sender, peers) = mpsc::unbounded_channel();
        let (dials, aborts, down) = (Arc::default(), Arc::default(), Arc::default());
        let dialer = Dialer {
            peers: sender,
            dials: Arc::clone(&dials),
            aborts: Arc::clone(&aborts),
            down: Arc::clone(&down),
            pipe,
        };
        let builder = ClientSession::builder(("broker.test", port), "me", SECRET).connector(dialer);
        (Self { peers, dials, aborts, down }, builder)
    }

    /// How often the session dialled.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    /// How often the session reset a connection.
    pub(crate) fn aborts(&self) -> usize {
        self.aborts.load(Ordering::Relaxed)
    }

    /// Refuses connections from now on, or accepts them again.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// The next connection, before any byte.
    pub(crate) async fn accept(&mut self) -> DuplexStream {
        // Virtual time: far longer than any delay of a session.
        timeout(Duration::from_secs(3600), self.peers.recv()).await.expect("the session did not dial").unwrap()
    }

    /// The next connection, to which only INFO is said.
    pub(crate) async fn info_alone(&mut self) -> Peer {
        let mut peer = Peer::new(self.accept().await);
        peer.send(Frame::Info { name: "scripted".to_owned(), nonce: Nonce::new(NONCE) }).await;
        peer
    }

    /// The next connection, greeted, with its AUTH checked.
    pub(crate) async fn login(&mut self) -> Peer {
        let mut peer = self.info_alone().await;
        match peer.frame().await {
            Frame::Auth { ident, digest } => {
                assert_eq!(ident, "me");
                assert!(Secret::from(SECRET).verify(&Nonce::new(NONCE), &digest));
            }
            other => panic!("not AUTH: {other:?}"),
        }
        peer
    }
}

/// One connection, as the broker sees it.
pub(crate) struct Peer {
    framed: Framed<DuplexStream, Codec>,
}

impl Peer {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self { framed: Framed::new(io, Codec::default()) }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        self.framed.send(frame).await.unwrap();
    }

    pub(crate) async fn error(&mut self, text: &str) {
        self.send(Frame::Error { message: Bytes::copy_from_slice(text.as_bytes()) }).await;
    }

    pub(crate) async fn publish(&mut self, channel: &str, payload: impl Into<Bytes>) {
        let (ident, channel) = ("them".parse().unwrap(), channel.parse().unwrap());
        self.send(Frame::Publish { ident, channel, payload: payload.into() }).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.framed.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next frame; waits, in virtual time.
    pub(crate) async fn frame(&mut self) -> Frame {
        self.next().await.expect("the session closed the connection")
    }

    /// The next frame, or `None` at the session's EOF.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let next = timeout(Duration::from_secs(3600), self.framed.next()).await.expect("the session is silent");
        next.map(|frame| frame.unwrap())
    }

    /// `None` when nothing comes within this much virtual time.
    pub(crate) async fn frame_within(&mut self, limit: Duration) -> Option<Frame> {
        timeout(limit, self.framed.next()).await.ok().map(|frame| frame.unwrap().unwrap())
    }

    pub(crate) async fn expect_subscribe(&mut self, channel: &str) {
        assert!(matches!(self.frame().await, Frame::Subscribe { channel: c, .. } if c == channel), "{channel}");
    }

    pub(crate) async fn expect_unsubscribe(&mut self, channel: &str) {
        assert!(matches!(self.frame().await, Frame::Unsubscribe { channel: c, .. } if c == channel), "{channel}");
    }

    pub(crate) async fn expect_publish(&mut self, payload: &str) {
        assert_eq!(text(&self.frame().await), payload);
    }

    pub(crate) async fn expect_eof(&mut self) {
        assert_eq!(self.next().await, None);
    }

    /// The connection itself, without what was read from it with the last frame.
    pub(crate) fn into_inner(self) -> DuplexStream {
        self.framed.into_inner()
    }

    /// Reads so many bytes as they come, then drops the connection with whatever is left in the pipe.
    pub(crate) async fn read_then_drop(self, bytes: usize) -> Vec<u8> {
        let parts = self.framed.into_parts();
        let mut read = parts.read_buf.to_vec();
        let mut io = parts.io;
        while read.len() < bytes {
            read.push(io.read_u8().await.unwrap());
        }
        read
    }
}

/// The payload of a PUBLISH frame, as text.
pub(crate) fn text(frame: &Frame) -> String {
    match frame {
        Frame::Publish { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
        other => panic!("not PUBLISH: {other:?}"),
    }
}

/// The events of the session since it was made.
pub(crate) fn events_so_far(session: &ClientSession) -> Vec<SessionEvent> {
    let mut events = session.events();
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}
