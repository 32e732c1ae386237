//! A scripted broker that speaks the extension, over in-memory pipes.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hpfeeds::{
    SessionBuilder,
    wire::{
        DecodeError, Frame, Header, Limits, Nonce,
        extension::{
            BrokerFrame, BrokerHello, ClientFrame, Code, ExtensionHeader, Flags, Level, Mode, Position, RefusedRange,
            StreamId, offer,
        },
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::script::{NONCE, Script, text};

/// A script whose address no other test has: what is learnt about an address is the process's.
pub(crate) fn script() -> (Script, SessionBuilder) {
    Script::at_own_address(64 * 1024)
}

/// A frame that the session sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Frame(Frame),
    Hello(Hello),
    Heartbeat,
    /// Bytes that are taken, and nothing of a mailbox.
    Consumed(u64),
    /// A mailbox, and the last message of it that is processed.
    Processed(String, Position),
    /// A mode, a position, a mailbox and a channel.
    SubscribeFrom(Mode, Position, String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) flags: Flags,
    pub(crate) heartbeat: u16,
    pub(crate) stream: StreamId,
    pub(crate) next: u64,
    pub(crate) window: Option<u32>,
}

/// A pipe or a socket.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection, as a broker with the extension sees it.
pub(crate) struct Peer {
    io: Box<dyn Io>,
    received: BytesMut,
}

impl Script {
    /// The next connection, to which the extension is offered, up to its HELLO.
    pub(crate) async fn greet(&mut self) -> (Peer, Hello) {
        self.offer().await.greeted().await
    }

    /// The next connection, to which the extension is offered.
    pub(crate) async fn offer(&mut self) -> Peer {
        Peer::new(self.accept().await).await
    }

    /// The next connection, whose HELLO is answered: this much of the stream is decided.
    pub(crate) async fn confirm(&mut self, decided: u64) -> (Peer, Hello) {
        let (mut peer, hello) = self.greet().await;
        peer.answer(BrokerHello { flags: hello.flags, decided, ..BrokerHello::default() }).await;
        (peer, hello)
    }
}

impl Peer {
    /// A connection to which the extension is offered.
    async fn new(io: impl Io + 'static) -> Self {
        let mut peer = Self { io: Box::new(io), received: BytesMut::new() };
        peer.send(Frame::Info { name: offer("scripted").into_owned(), nonce: Nonce::new(NONCE) }).await;
        peer
    }

    /// A connection whose HELLO is answered.
    pub(crate) async fn greeting(io: impl Io + 'static) -> Self {
        let (mut peer, hello) = Self::new(io).await.greeted().await;
        peer.answer(grants(&hello, Level::ROUTED)).await;
        peer
    }

    async fn greeted(mut self) -> (Self, Hello) {
        assert!(matches!(self.heard().await, Heard::Frame(Frame::Auth { .. })));
        match self.heard().await {
            Heard::Hello(hello) => (self, hello),
            other => panic!("not HELLO: {other:?}"),
        }
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes, Limits::default()).unwrap();
        self.raw(&bytes).await;
    }

    pub(crate) async fn say(&mut self, frame: BrokerFrame<'_>) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        self.raw(&bytes).await;
    }

    pub(crate) async fn answer(&mut self, hello: BrokerHello<'_>) {
        self.say(BrokerFrame::Hello(BrokerHello { version: 1, ..hello })).await;
    }

    pub(crate) async fn ack(&mut self, number: u64) {
        self.say(BrokerFrame::Ack { number }).await;
    }

    pub(crate) async fn refuse(&mut self, first: u64, count: u32, channel: &str) {
        let range = RefusedRange { first, count, code: Code::NOT_ALLOWED };
        self.say(BrokerFrame::Refused { range, channel, text: "not for you" }).await;
    }

    pub(crate) async fn suback(&mut self, code: Code, channel: &str) {
        self.say(BrokerFrame::SubAck { code, channel, text: if code == Code::DONE { "" } else { "not yours" } }).await;
    }

    pub(crate) async fn error(&mut self, text: &str) {
        self.send(Frame::Error { message: Bytes::copy_from_slice(text.as_bytes()) }).await;
    }

    pub(crate) async fn publish(&mut self, channel: &str, payload: impl Into<Bytes>) {
        let (ident, channel) = ("them".parse().unwrap(), channel.parse().unwrap());
        self.send(Frame::Publish { ident, channel, payload: payload.into() }).await;
    }

    /// Messages of a mailbox: their first number in epoch 7, and their payloads.
    pub(crate) async fn deliver(&mut self, mailbox: &str, number: u64, channel: &str, payloads: &[&str]) {
        let (position, count) = (Position::new(7, number), payloads.len().try_into().unwrap());
        self.say(BrokerFrame::Origin { position, count, source: None, mailbox }).await;
        for payload in payloads {
            self.publish(channel, payload.to_string()).await;
        }
    }

    /// The next thing that is said about a mailbox.
    pub(crate) async fn processed(&mut self) -> (String, u64) {
        loop {
            match self.heard().await {
                Heard::Processed(mailbox, position) => {
                    assert_eq!(position.epoch, 7);
                    return (mailbox, position.number);
                }
                Heard::Consumed(_) | Heard::Heartbeat => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Nothing is said about a mailbox for a while.
    pub(crate) async fn processed_nothing(&mut self) {
        let quiet = async {
            loop {
                match self.read().await.expect("the session closed the connection") {
                    Heard::Consumed(_) | Heard::Heartbeat => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        assert!(timeout(Duration::from_secs(5), quiet).await.is_err());
    }

    pub(crate) async fn expect_from(&mut self, mode: Mode, number: u64, mailbox: &str, channel: &str) {
        let position = if number == 0 { Position::NONE } else { Position::new(7, number) };
        let expected = Heard::SubscribeFrom(mode, position, mailbox.to_owned(), channel.to_owned());
        assert_eq!(self.heard().await, expected);
        self.suback(Code::DONE, channel).await;
    }

    /// The next frame; waits, in virtual time.
    pub(crate) async fn heard(&mut self) -> Heard {
        self.next().await.expect("the session closed the connection")
    }

    /// The next frame, or `None` at the end of the session's stream.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        timeout(Duration::from_secs(3600), self.read()).await.expect("the session is silent")
    }

    pub(crate) async fn heard_within(&mut self, limit: Duration) -> Option<Heard> {
        timeout(limit, self.read()).await.ok().map(|heard| heard.expect("the session closed the connection"))
    }

    async fn read(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.parse() {
                return Some(heard);
            }
            if self.io.read_buf(&mut self.received).await.unwrap() == 0 {
                assert_eq!(self.received.len(), 0, "a frame was cut");
                return None;
            }
        }
    }

    fn parse(&mut self) -> Option<Heard> {
        match Header::parse(&self.received, Limits::default()) {
            Ok(None) => None,
            Ok(Some(header)) if header.length > self.received.len() => None,
            Ok(Some(header)) => {
                let bytes = self.received.split_to(header.length).freeze();
                Some(Heard::Frame(Frame::from_bytes(&bytes, header).unwrap()))
            }
            Err(DecodeError::UnknownOpcode(_)) => {
                let header = ExtensionHeader::parse(&self.received).unwrap().unwrap();
                let heard = match ClientFrame::parse(header.opcode, header.body(&self.received)?).unwrap() {
                    ClientFrame::Hello(hello) => Heard::Hello(Hello {
                        flags: hello.flags,
                        heartbeat: hello.heartbeat,
                        stream: hello.stream,
                        next: hello.next,
                        window: hello.window(),
                    }),
                    ClientFrame::Heartbeat => Heard::Heartbeat,
                    ClientFrame::Consumed { bytes, position: Position::NONE, mailbox: "" } => Heard::Consumed(bytes),
                    ClientFrame::Consumed { position, mailbox, .. } => Heard::Processed(mailbox.to_owned(), position),
                    ClientFrame::SubscribeFrom { mode, position, mailbox, channel } => {
                        Heard::SubscribeFrom(mode, position, mailbox.to_owned(), channel.to_owned())
                    }
                    other => panic!("{other:?}"),
                };
                self.received.advance(header.length);
                Some(heard)
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn expect_publish(&mut self, payload: &str) {
        match self.heard().await {
            Heard::Frame(frame) => assert_eq!(text(&frame), payload),
            other => panic!("not PUBLISH: {other:?}"),
        }
    }

    /// The payloads of so many messages.
    pub(crate) async fn payloads(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        while payloads.len() < count {
            match self.heard().await {
                Heard::Frame(frame) => payloads.push(text(&frame)),
                other => panic!("not PUBLISH: {other:?}"),
            }
        }
        payloads
    }

    pub(crate) async fn expect_subscribe(&mut self, name: &str) {
        match self.heard().await {
            Heard::Frame(Frame::Subscribe { channel, .. }) => assert_eq!(channel, name),
            other => panic!("not SUBSCRIBE: {other:?}"),
        }
    }

    pub(crate) async fn expect_eof(&mut self) {
        assert_eq!(self.next().await, None);
    }
}

/// A broker's HELLO that grants all that was asked, at a level.
pub(crate) fn grants(hello: &Hello, level: Level) -> BrokerHello<'static> {
    BrokerHello { flags: hello.flags, level, ..BrokerHello::default() }
}
