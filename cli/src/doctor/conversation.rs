//! A conversation with a broker: one connection, its frames in and out, each with a deadline.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use hpfeeds::{
    Limits, Transport, TransportStatus,
    tls_probe::TlsFault,
    wire::{
        DecodeError, Frame, Header,
        extension::{BrokerFrame, ClientFrame, Code, ExtensionHeader, Flags, Level},
    },
};
use tokio::{
    io::ReadBuf,
    time::{Instant, timeout_at},
};

use crate::words::{shown, time};

/// How much is read at once, in bytes.
const READ: usize = 64 * 1024;

/// The broker's HELLO, as far as it is of use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) flags: Flags,
    pub(super) level: Level,
    pub(super) software: String,
    /// The longest PUBLISH frame in bytes.
    pub(super) largest: Option<u32>,
    /// The stream number up to which everything is decided.
    pub(super) decided: u64,
}

/// A frame of a broker.
#[derive(Debug)]
pub(super) enum Heard {
    Frame(Frame),
    Hello(Hello),
    SubAck {
        code: Code,
        channel: String,
        text: String,
    },
    Ack(u64),
    Refused {
        code: Code,
        text: String,
    },
    /// A frame of the extension that is of no use here.
    Other,
}

/// Why nothing is heard.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing, or too little, until the deadline.
    TimedOut,
    Closed,
    Broken(io::Error),
    /// Bytes that are not hpfeeds, or a frame above the limit: the words for it.
    Malformed(String),
}

impl Fault {
    /// The fault as a part of a sentence; `wait` is the time that has passed.
    pub(super) fn words(&self, wait: Duration) -> String {
        match self {
            Self::TimedOut => format!("no answer in {}", time(wait)),
            Self::Closed => "the broker closed the connection".to_owned(),
            Self::Broken(cause) => match TlsFault::of(cause) {
                Some(TlsFault::ClientCertificateMissing) => "the broker asks for a certificate of ours".to_owned(),
                Some(TlsFault::ClientCertificateRefused(alert)) => {
                    format!("the broker does not take our certificate ({alert})")
                }
                Some(fault) => tls_words(&fault),
                None => format!("the connection broke: {}", shown(cause.to_string().as_bytes())),
            },
            Self::Malformed(what) => format!("not hpfeeds: {what}"),
        }
    }
}

/// A fault of TLS that is not about the broker's certificate, as a part of a sentence.
pub(super) fn tls_words(fault: &TlsFault) -> String {
    match fault {
        TlsFault::Other(words) | TlsFault::Certificate(words) => format!("TLS failed: {}", shown(words.as_bytes())),
        TlsFault::Closed => "the connection was closed in the TLS handshake".to_owned(),
        _ => "TLS failed".to_owned(),
    }
}

/// A connection on which frames go both ways.
pub(super) struct Conversation {
    transport: Box<dyn Transport>,
    limits: Limits,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Whether frames of the extension can come.
    pub(super) extended: bool,
    /// All bytes that were ever read.
    received: u64,
    flushed: bool,
    scratch: Box<[u8]>,
}

impl Conversation {
    pub(super) fn new(transport: Box<dyn Transport>, limits: Limits) -> Self {
        Self {
            transport,
            limits,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            extended: false,
            received: 0,
            flushed: true,
            scratch: vec![0; READ].into(),
        }
    }

    /// Takes a frame to be written while something is waited for. `false`: it is above the limit.
    pub(super) fn say(&mut self, frame: &Frame) -> bool {
        self.flushed = false;
        frame.encode(&mut self.outgoing, self.limits).is_ok()
    }

    /// As [`say`](Self::say), for a frame of the extension.
    pub(super) fn say_extended(&mut self, frame: ClientFrame<'_>) -> bool {
        self.flushed = false;
        frame.encode(&mut self.outgoing).is_ok()
    }

    /// The bytes that were read and belong to no frame yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.incoming
    }

    /// Bytes of ours that are not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.outgoing.len()
    }

    /// All bytes that were ever read.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The system's knowledge of the connection, where it tells.
    pub(super) fn status(&self) -> Option<TransportStatus> {
        self.transport.status()
    }

    /// Waits for the next frame, and writes meanwhile. Cancel safe: what was read stays.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Heard, Fault> {
        loop {
            if let Some(heard) = self.next_buffered()? {
                return Ok(heard);
            }
            self.receive(deadline).await?;
        }
    }

    /// Waits for the next frame as long as silence means consent. One that has begun to arrive by
    /// then is waited for until `longest`: it may be the refusal.
    pub(super) async fn next_before_consent(&mut self, grace: Instant, longest: Instant) -> Result<Heard, Fault> {
        match self.next(grace).await {
            Err(Fault::TimedOut) if !self.incoming.is_empty() => self.next(longest).await,
            heard => heard,
        }
    }

    /// Waits for more bytes, and writes meanwhile. Cancel safe.
    pub(super) async fn receive(&mut self, deadline: Instant) -> Result<(), Fault> {
        // A peer that never stops would otherwise be read from for ever.
        if Instant::now() >= deadline {
            return Err(Fault::TimedOut);
        }
        match timeout_at(deadline, poll_fn(|cx| self.poll(cx))).await {
            Err(_elapsed) => Err(Fault::TimedOut),
            Ok(Err(cause)) if cause.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Closed),
            Ok(Err(cause)) => Err(Fault::Broken(cause)),
            Ok(Ok(0)) => Err(Fault::Closed),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Writes what there is to write, and reads once. A broker that refuses something closes while
    /// we write: what it said before is read all the same.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut broken = None;
        while !self.outgoing.is_empty() {
            match Pin::new(&mut *self.transport).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(0)) => broken = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    self.outgoing.advance(n);
                    continue;
                }
                Poll::Ready(Err(cause)) => broken = Some(cause),
                Poll::Pending => {}
            }
            break;
        }
        if self.outgoing.is_empty() && !self.flushed {
            match Pin::new(&mut *self.transport).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(cause)) => broken = Some(cause),
                Poll::Pending => {}
            }
        }
        let mut buffer = ReadBuf::new(&mut self.scratch);
        match Pin::new(&mut *self.transport).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let read = buffer.filled();
                self.incoming.extend_from_slice(read);
                self.received += read.len() as u64;
                Poll::Ready(Ok(read.len()))
            }
            Poll::Ready(Err(cause)) => Poll::Ready(Err(broken.unwrap_or(cause))),
            Poll::Pending => broken.map_or(Poll::Pending, |cause| Poll::Ready(Err(cause))),
        }
    }

    /// Takes a whole frame off what was read.
    pub(super) fn next_buffered(&mut self) -> Result<Option<Heard>, Fault> {
        match Header::parse(&self.incoming, self.limits) {
            Ok(None) => Ok(None),
            Ok(Some(header)) if self.incoming.len() < header.length => Ok(None),
            Ok(Some(header)) => {
                let bytes = self.incoming.split_to(header.length).freeze();
                let frame = Frame::from_bytes(&bytes, header).map_err(|cause| Fault::Malformed(cause.to_string()))?;
                Ok(Some(Heard::Frame(frame)))
            }
            Err(DecodeError::UnknownOpcode(_)) if self.extended => self.parse_extended(),
            Err(cause) => Err(Fault::Malformed(cause.to_string())),
        }
    }

    fn parse_extended(&mut self) -> Result<Option<Heard>, Fault> {
        let malformed = |cause: hpfeeds::wire::extension::ExtensionDecodeError| Fault::Malformed(cause.to_string());
        let Some(header) = ExtensionHeader::parse(&self.incoming).map_err(malformed)? else {
            return Ok(None);
        };
        let Some(body) = header.body(&self.incoming) else {
            return Ok(None);
        };
        let heard = match BrokerFrame::parse(header.opcode, body).map_err(malformed)? {
            BrokerFrame::Hello(hello) => Heard::Hello(Hello {
                flags: hello.flags,
                level: hello.level,
                software: hello.software.to_owned(),
                largest: hello.largest_message,
                decided: hello.decided,
            }),
            BrokerFrame::SubAck { code, channel, text } => {
                Heard::SubAck { code, channel: channel.to_owned(), text: text.to_owned() }
            }
            BrokerFrame::Ack { number } => Heard::Ack(number),
            BrokerFrame::Refused { range, text, .. } => Heard::Refused { code: range.code, text: text.to_owned() },
            _ => Heard::Other,
        };
        self.incoming.advance(header.length);
        Ok(Some(heard))
    }
}
