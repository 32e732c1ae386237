//! A scripted broker that speaks the extension, over in-memory pipes.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hpfeeds::{
    SessionBuilder,
    wire::{
        DecodeError, Frame, Header, Limits, Nonce,
        extension::{
            BrokerFrame, BrokerHello, ClientFrame, Code, ExtensionHeader, Flags, Level, RefusedRange, StreamId, offer,
        },
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
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
    Consumed(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) flags: Flags,
    pub(crate) heartbeat: u16,
    pub(crate) stream: StreamId,
    pub(crate) next: u64,
    pub(crate) window: Option<u32>,
}

/// One connection, as a broker with the extension sees it.
pub(crate) struct Peer {
    io: DuplexStream,
    received: BytesMut,
}

impl Script {
    /// The next connection, to which the extension is offered, up to its HELLO.
    pub(crate) async fn greet(&mut self) -> (Peer, Hello) {
        let mut peer = self.offer().await;
        assert!(matches!(peer.heard().await, Heard::Frame(Frame::Auth { .. })));
        match peer.heard().await {
            Heard::Hello(hello) => (peer, hello),
            other => panic!("not HELLO: {other:?}"),
        }
    }

    /// The next connection, to which the extension is offered.
    pub(crate) async fn offer(&mut self) -> Peer {
        let mut peer = Peer { io: self.accept().await, received: BytesMut::new() };
        peer.send(Frame::Info { name: offer("scripted").into_owned(), nonce: Nonce::new(NONCE) }).await;
        peer
    }

    /// The next connection, whose HELLO is answered: this much of the stream is decided.
    pub(crate) async fn confirm(&mut self, decided: u64) -> (Peer, Hello) {
        let (mut peer, hello) = self.greet().await;
        peer.answer(BrokerHello { flags: hello.flags, decided, ..BrokerHello::default() }).await;
        (peer, hello)
    }
}

impl Peer {
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
                    ClientFrame::Consumed { bytes, .. } => Heard::Consumed(bytes),
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
