//! A scripted client that speaks the extension `hpx/1` in raw frames.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use hpfeeds::wire::{
    DecodeError, Frame, Header, Limits, Nonce, Secret,
    extension::{
        BrokerFrame, ClientFrame, ClientHello, Code, ExtensionHeader, Flags, GapReason, NodeId, Position, RefusedRange,
        StreamId, StreamPosition, VERSION,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::within;

/// A frame from the broker, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Hello(Answer),
    Ack(u64),
    Refused {
        first: u64,
        count: u32,
        code: Code,
        channel: String,
        text: String,
    },
    SubAck {
        code: Code,
        channel: String,
    },
    Heartbeat,
    Origin {
        position: Position,
        count: u32,
        source: Option<StreamPosition>,
        mailbox: String,
    },
    /// Messages, reason, mailbox.
    Gap(u64, GapReason, String),
    /// Channel and payload.
    Publish(String, Bytes),
    Error(String),
    End,
}

/// The broker's HELLO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: u8,
    pub(crate) flags: Flags,
    pub(crate) heartbeat: u16,
    pub(crate) node: NodeId,
    pub(crate) decided: u64,
    pub(crate) level: u8,
    pub(crate) software: String,
    pub(crate) largest_message: Option<u32>,
    pub(crate) refused: Vec<RefusedRange>,
}

pub(crate) struct Scripted<S> {
    pub(crate) stream: S,
    received: BytesMut,
    nonce: Nonce,
    pub(crate) name: String,
    ident: String,
}

pub(crate) fn stream_id(n: u8) -> StreamId {
    StreamId::new([n; 16])
}

/// A HELLO with these flags for a stream.
pub(crate) fn hello(flags: Flags, stream: u8, next: u64) -> ClientHello<'static> {
    ClientHello { version: VERSION, flags, stream: stream_id(stream), next, software: "test", ..ClientHello::default() }
}

/// A HELLO of a publisher that confirms and takes REFUSED.
pub(crate) fn confirming(stream: u8, next: u64) -> ClientHello<'static> {
    hello(Flags::CONFIRM | Flags::REPLIES, stream, next)
}

pub(crate) fn encoded(frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    bytes.to_vec()
}

/// CONSUMED without a mailbox.
pub(crate) fn consumed(bytes: u64) -> Vec<u8> {
    encoded(&ClientFrame::Consumed { bytes, position: Position::NONE, mailbox: "" })
}

pub(crate) fn ack(number: u64) -> Got {
    Got::Ack(number)
}

/// REFUSED because the key does not allow it, for `dev` unless the ident is another.
pub(crate) fn refused(ident: &str, first: u64, count: u32, channel: &str) -> Got {
    let text = format!("Authkey not allowed to pub here. ident={ident}, chan={channel}");
    Got::Refused { first, count, code: Code::NOT_ALLOWED, channel: channel.to_owned(), text }
}

pub(crate) fn sub_ack(code: Code, channel: &str) -> Got {
    Got::SubAck { code, channel: channel.to_owned() }
}

impl Scripted<TcpStream> {
    /// Connects and reads INFO.
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::greeted(within(TcpStream::connect(addr)).await.unwrap()).await
    }

    /// The same on a connection for which the system buffers little.
    pub(crate) async fn narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        Self::greeted(within(socket.connect(addr)).await.unwrap()).await
    }

    /// Connects as `dev`, with AUTH and HELLO in one segment, and reads the answer.
    pub(crate) async fn dev(addr: SocketAddr, hello: ClientHello<'_>) -> (Self, Answer) {
        Self::connect(addr).await.login("dev", "dev", hello).await
    }

    /// The same for `alice`, who may publish to `a` and read `b`.
    pub(crate) async fn alice(addr: SocketAddr, hello: ClientHello<'_>) -> (Self, Answer) {
        Self::connect(addr).await.login("alice", "s3cret", hello).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Scripted<S> {
    /// Reads INFO.
    pub(crate) async fn greeted(stream: S) -> Self {
        within(Self::try_greeted(stream)).await.expect("INFO")
    }

    /// The same; `None` if the connection ends before that.
    pub(crate) async fn try_greeted(stream: S) -> Option<Self> {
        let (name, nonce) = (String::new(), Nonce::new([]));
        let mut client = Self { stream, received: BytesMut::new(), nonce, name, ident: String::new() };
        let (header, frame) = client.read_frame().await?;
        let Frame::Info { name, nonce } = Frame::from_bytes(&frame, header.ok()?).ok()? else { return None };
        (client.name, client.nonce) = (name, nonce);
        Some(client)
    }

    /// AUTH and HELLO in one segment, and the answer.
    pub(crate) async fn login(mut self, ident: &str, secret: &str, hello: ClientHello<'_>) -> (Self, Answer) {
        let mut bytes = self.auth(ident, secret);
        bytes.extend(encoded(&ClientFrame::Hello(hello)));
        self.send(&bytes).await;
        let answer = self.answer().await;
        (self, answer)
    }

    /// The bytes of AUTH.
    pub(crate) fn auth(&mut self, ident: &str, secret: &str) -> Vec<u8> {
        ident.clone_into(&mut self.ident);
        let digest = Secret::from(secret).sign(&self.nonce);
        crate::support::bytes([Frame::Auth { ident: ident.parse().unwrap(), digest }])
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn hello(&mut self, hello: ClientHello<'_>) {
        self.send(&encoded(&ClientFrame::Hello(hello))).await;
    }

    /// So many messages on a channel, in one segment.
    pub(crate) fn messages(&self, channel: &str, payloads: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let frame = |n: u64| crate::support::publish(&self.ident, channel, n.to_be_bytes().to_vec());
        crate::support::bytes(payloads.into_iter().map(frame))
    }

    pub(crate) async fn publish(&mut self, channel: &str, payloads: impl IntoIterator<Item = u64>) {
        let bytes = self.messages(channel, payloads);
        self.send(&bytes).await;
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) {
        let frame = crate::support::subscribe(&self.ident, channel);
        self.send(&crate::support::bytes([frame])).await;
    }

    pub(crate) async fn unsubscribe(&mut self, channel: &str) {
        let frame = crate::support::unsubscribe(&self.ident, channel);
        self.send(&crate::support::bytes([frame])).await;
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        match self.next().await {
            Got::Hello(answer) => answer,
            other => panic!("no HELLO: {other:?}"),
        }
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Got {
        within(self.read_next()).await
    }

    /// Reads until an ACK of this number; all that came before it.
    pub(crate) async fn until_ack(&mut self, number: u64) -> Vec<Got> {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Got::Ack(n) if n == number => return before,
                Got::Ack(n) => assert!(n < number, "ACK {n} where {number} is expected"),
                end @ (Got::End | Got::Error(_)) => panic!("{end:?} before ACK {number}"),
                other => before.push(other),
            }
        }
    }

    /// An ERROR, and then the end.
    pub(crate) async fn expect_error(&mut self, text: &str) {
        assert_eq!(self.next().await, Got::Error(text.to_owned()));
        assert_eq!(self.next().await, Got::End);
    }

    /// Says that nothing more will come.
    pub(crate) async fn finish(&mut self) {
        within(self.stream.shutdown()).await.unwrap();
    }

    /// The next frame, without a limit of time.
    pub(crate) async fn read_next(&mut self) -> Got {
        let Some((header, frame)) = self.read_frame().await else {
            return Got::End;
        };
        match header {
            Ok(header) => match Frame::from_bytes(&frame, header).unwrap() {
                Frame::Publish { channel, payload, .. } => Got::Publish(channel.to_string(), payload),
                Frame::Error { message } => Got::Error(String::from_utf8_lossy(&message).into_owned()),
                other => panic!("{other:?}"),
            },
            Err(header) => match BrokerFrame::parse(header.opcode, header.body(&frame).unwrap()).unwrap() {
                BrokerFrame::Hello(hello) => Got::Hello(Answer {
                    version: hello.version,
                    flags: hello.flags,
                    heartbeat: hello.heartbeat,
                    node: hello.node,
                    decided: hello.decided,
                    level: hello.level.0,
                    software: hello.software.to_owned(),
                    largest_message: hello.largest_message,
                    refused: hello.refused,
                }),
                BrokerFrame::Ack { number } => Got::Ack(number),
                BrokerFrame::Refused { range, channel, text } => Got::Refused {
                    first: range.first,
                    count: range.count,
                    code: range.code,
                    channel: channel.to_owned(),
                    text: text.to_owned(),
                },
                BrokerFrame::SubAck { code, channel, .. } => Got::SubAck { code, channel: channel.to_owned() },
                BrokerFrame::Heartbeat => Got::Heartbeat,
                BrokerFrame::Origin { position, count, source, mailbox } => {
                    Got::Origin { position, count, source, mailbox: mailbox.to_owned() }
                }
                BrokerFrame::Gap { messages, reason, mailbox, .. } => Got::Gap(messages, reason, mailbox.to_owned()),
                other => panic!("{other:?}"),
            },
        }
    }

    /// The header of the next frame, of one kind or the other, and the frame. Cancel-safe.
    async fn read_frame(&mut self) -> Option<(Result<Header, ExtensionHeader>, Bytes)> {
        loop {
            let header = match Header::parse(&self.received, Limits::new(u32::MAX)) {
                Ok(header) => header.map(Ok),
                Err(DecodeError::UnknownOpcode(_)) => ExtensionHeader::parse(&self.received).unwrap().map(Err),
                Err(cause) => panic!("{cause}"),
            };
            let length = header.as_ref().map(|header| match header {
                Ok(header) => header.length,
                Err(header) => header.length,
            });
            if let (Some(header), Some(length)) = (header, length)
                && self.received.len() >= length
            {
                return Some((header, self.received.split_to(length).freeze()));
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) => {
                    assert!(self.received.is_empty(), "cut inside of a frame: {:?}", self.received);
                    return None;
                }
                Ok(_) => {}
                // A reset is an end as well.
                Err(_) => return None,
            }
        }
    }
}
