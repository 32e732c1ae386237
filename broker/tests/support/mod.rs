//! A client that speaks raw frames, so that the broker is tested against the protocol and not against our client.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{fmt::Debug, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{Codec, Frame, Nonce, Secret};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, Key};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_util::codec::Framed;

/// Nothing here takes that long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// Waits until something is true that nobody announces.
pub(crate) async fn until(mut is_true: impl FnMut() -> bool) {
    within(async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// `dev` may do everything; `alice` publishes to `a` and reads `b`.
pub(crate) fn builder() -> BrokerBuilder {
    let alice = Key::new("alice", "s3cret").unwrap().publish(["a"]).unwrap().subscribe(["b"]).unwrap();
    Broker::dev_builder().user(alice).endpoint(Endpoint::tcp("127.0.0.1", 0))
}

pub(crate) async fn start(builder: BrokerBuilder) -> Broker {
    builder.start().await.unwrap()
}

pub(crate) struct Peer {
    pub(crate) framed: Framed<TcpStream, Codec>,
    pub(crate) nonce: Nonce,
    pub(crate) ident: String,
    /// The name in the broker's INFO.
    pub(crate) name: String,
}

impl Peer {
    /// Connects and reads INFO.
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::greeted(within(TcpStream::connect(addr)).await.unwrap()).await
    }

    /// Subscribes like [`subscriber`](Self::subscriber), on a connection that the system buffers little for.
    pub(crate) async fn narrow_subscriber(broker: &Broker, channels: &[&str]) -> Self {
        let mut peer = Self::narrow(broker).await;
        // On a channel of its own: who settles next may come before the broker has seen it leave, and it reads that late.
        let channel = format!("private-{}", peer.framed.get_ref().local_addr().unwrap().port());
        peer.send_subscribe(channels).await;
        peer.settle_on(&channel).await;
        peer
    }

    /// On a connection that the system buffers little for.
    pub(crate) async fn narrow(broker: &Broker) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let peer = Self::greeted(within(socket.connect(broker.local_addr())).await.unwrap()).await;
        peer.authenticate("dev", "dev").await
    }

    /// Reads INFO.
    pub(crate) async fn greeted(stream: TcpStream) -> Self {
        Self::try_greeted(stream).await.unwrap()
    }

    /// Connects: the ERROR text if there is no INFO.
    pub(crate) async fn try_connect(addr: SocketAddr) -> Result<Self, String> {
        Self::try_greeted(within(TcpStream::connect(addr)).await.unwrap()).await
    }

    /// Reads INFO: the ERROR text if there is none.
    pub(crate) async fn try_greeted(stream: TcpStream) -> Result<Self, String> {
        let mut framed = Framed::new(stream, Codec::default());
        match within(framed.next()).await {
            Some(Ok(Frame::Info { name, nonce })) => Ok(Self { framed, nonce, ident: String::new(), name }),
            Some(Ok(Frame::Error { message })) => Err(String::from_utf8_lossy(&message).into_owned()),
            other => panic!("no INFO: {other:?}"),
        }
    }

    /// Connects and authenticates.
    pub(crate) async fn login(addr: SocketAddr, ident: &str, secret: &str) -> Self {
        Self::connect(addr).await.authenticate(ident, secret).await
    }

    pub(crate) async fn authenticate(mut self, ident: &str, secret: &str) -> Self {
        self.ident = ident.to_owned();
        let auth = self.auth(ident, secret);
        self.send(auth).await;
        self
    }

    pub(crate) async fn dev(broker: &Broker) -> Self {
        Self::login(broker.local_addr(), "dev", "dev").await
    }

    /// Subscribes, and returns once the broker has seen to it.
    pub(crate) async fn subscriber(broker: &Broker, channels: &[&str]) -> Self {
        Self::dev(broker).await.subscribe(channels).await
    }

    async fn subscribe(mut self, channels: &[&str]) -> Self {
        self.send_subscribe(channels).await;
        self.settle().await;
        self
    }

    pub(crate) async fn send_subscribe(&mut self, channels: &[&str]) {
        let ident = self.ident.clone();
        for channel in channels {
            self.send(subscribe(&ident, channel)).await;
        }
    }

    /// Returns once the broker has acted on everything that was sent before; nothing else may arrive meanwhile.
    pub(crate) async fn settle(&mut self) {
        self.settle_on("private").await;
    }

    pub(crate) async fn settle_on(&mut self, channel: &str) {
        let ident = self.ident.clone();
        self.send(subscribe(&ident, channel)).await;
        self.send(publish(&ident, channel, "settled")).await;
        assert_eq!(self.next().await, Some(publish(&ident, channel, "settled")));
        self.send(unsubscribe(&ident, channel)).await;
    }

    pub(crate) fn auth(&self, ident: &str, secret: &str) -> Frame {
        Frame::Auth { ident: ident.parse().unwrap(), digest: Secret::from(secret).sign(&self.nonce) }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        within(self.framed.send(frame)).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        within(self.framed.get_mut().write_all(bytes)).await.unwrap();
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within(self.framed.next()).await.map(Result::unwrap)
    }

    /// Says that nothing more will come.
    pub(crate) async fn finish(&mut self) {
        within(self.framed.get_mut().shutdown()).await.unwrap();
    }

    /// Says that nothing more will come, and returns once the broker has read and routed everything.
    pub(crate) async fn confirm(mut self) {
        self.finish().await;
        assert_eq!(self.next().await, None);
    }

    /// The ERROR that a publisher gets when a shutdown begins.
    pub(crate) async fn asked_to_end(&mut self) {
        let message = "The broker is shutting down; end your stream".into();
        assert_eq!(self.next().await, Some(Frame::Error { message }));
    }

    /// An ERROR, and then the end.
    pub(crate) async fn expect_error(mut self, expected: impl AsRef<str> + Debug) {
        let Some(Frame::Error { message }) = self.next().await else {
            panic!("no ERROR where {expected:?} should be");
        };
        assert_eq!(String::from_utf8_lossy(&message), expected.as_ref());
        assert_eq!(self.next().await, None);
    }
}

pub(crate) fn publish(ident: &str, channel: &str, payload: impl Into<Bytes>) -> Frame {
    Frame::Publish { ident: ident.parse().unwrap(), channel: channel.parse().unwrap(), payload: payload.into() }
}

pub(crate) fn subscribe(ident: &str, channel: &str) -> Frame {
    Frame::Subscribe { ident: ident.parse().unwrap(), channel: channel.parse().unwrap() }
}

pub(crate) fn unsubscribe(ident: &str, channel: &str) -> Frame {
    Frame::Unsubscribe { ident: ident.parse().unwrap(), channel: channel.parse().unwrap() }
}

/// The bytes of frames.
pub(crate) fn bytes(frames: impl IntoIterator<Item = Frame>) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes, hpfeeds::wire::Limits::default()).unwrap();
    }
    bytes.to_vec()
}

/// A payload that starts with a number.
pub(crate) fn numbered(number: u64, len: usize) -> Bytes {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(len.max(8), b'x');
    payload.into()
}

/// The number that a payload starts with.
pub(crate) fn number(frame: &Frame) -> u64 {
    let Frame::Publish { payload, .. } = frame else {
        panic!("no PUBLISH: {frame:?}");
    };
    u64::from_be_bytes(*payload.first_chunk().unwrap())
}
