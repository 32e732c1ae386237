//! The transport of frames: a socket, the buffers that are read into, and what is taken out of
//! them.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::future::poll_fn;
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use crate::{
    client::{
        connect::connector::{Transport, TransportStatus},
        queue::in_flight::{InFlight, Written},
    },
    wire::{
        BatchEnd, DecodeError, Frame, FrameBatch, Limits, Opcode,
        extension::{ExtensionDecodeError, ExtensionHeader, ExtensionOpcode},
    },
};

/// How much room a read should find.
const READ: usize = 64 * 1024;

/// Messages are received into pieces of memory of this size.
pub(crate) const MEMORY: usize = 4 * READ;

/// Below this much room a read is not worth its system call, and there is other memory.
const READ_MIN: usize = 8 * 1024;

/// A PUBLISH frame above the limit that claims no more than this is passed over: several times what
/// brokers in use let through. One that claims more is taken for noise.
pub(super) const MAX_SKIPPED: u32 = 64 << 20;

/// The bytes of a frame before its body.
const HEADER_LEN: usize = 5;

/// The most slices in one vectored write.
const SLICES: usize = 32;

/// One connection: its socket and what has been read from it and not handed on.
pub(crate) struct FrameTransport {
    io: Box<dyn Transport>,
    limits: Limits,
    received: BytesMut,
    /// Memory that was received into before, to be used again when the program is done with it: the
    /// system takes memory that is freed, and gives it back page by page, for more than the reading
    /// costs.
    full: Option<BytesMut>,
    /// `received` is larger than usual.
    grown: bool,
    /// Our side is being closed.
    ending: bool,
    /// So many bytes still to come belong to a message that is passed over.
    skip: usize,
    /// The frames of the extension are known.
    extended: bool,
}

/// The next thing among the bytes received.
#[derive(Debug)]
pub(crate) enum Received {
    /// One or many whole PUBLISH frames, not yet taken apart.
    Batch(BytesMut),
    /// The beginning of a PUBLISH frame above the limit. Its bytes are thrown away as they come.
    TooLong(DecodeError),
    /// A frame of any other kind.
    Frame(Frame),
    /// The body of a frame of the extension.
    Extension(ExtensionOpcode, Bytes),
    /// A header that the extension does not allow.
    Malformed(ExtensionDecodeError),
}

impl FrameTransport {
    pub(crate) fn new(io: Box<dyn Transport>, limits: Limits) -> Self {
        Self {
            io,
            limits,
            received: BytesMut::new(),
            full: None,
            grown: false,
            ending: false,
            skip: 0,
            extended: false,
        }
    }

    /// From now on, frames of the extension are known.
    pub(crate) fn extend(&mut self) {
        self.extended = true;
    }

    /// Reads once from the socket; 0 is its end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.reserve();
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.received)
    }

    /// Memory for the next read. Messages that the program keeps are never moved.
    fn reserve(&mut self) {
        // When the program is done with all messages, the next ones come to where they were: that
        // is in the processor's cache, and a session that receives little touches little memory.
        if self.received.is_empty() && self.received.try_reclaim(MEMORY) {
            return;
        }
        let room = self.received.capacity() - self.received.len();
        if room >= READ || self.received.try_reclaim(READ) || room >= READ_MIN {
            return;
        }
        if self.received.len() > READ {
            // Twice what is there: a large frame is not copied over and over, and a header alone
            // reserves little.
            self.received.reserve(self.received.len());
            self.grown = true;
            return;
        }
        let mut next = self.full.take().unwrap_or_default();
        if !next.try_reclaim(MEMORY) {
            next = BytesMut::with_capacity(MEMORY);
        }
        next.extend_from_slice(&self.received);
        let mut full = mem::replace(&mut self.received, next);
        full.clear();
        self.full = Some(full).filter(|_| !mem::take(&mut self.grown));
    }

    /// The bytes that have been read and are not a whole frame, or not hpfeeds.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.received
    }

    /// The next thing among the bytes already read: as many PUBLISH frames as stand together, or
    /// one other frame.
    pub(crate) fn next(&mut self) -> Result<Option<Received>, DecodeError> {
        if !self.pass_over() {
            return Ok(None);
        }
        // All messages that stand together are one batch; whatever stops it comes at the next call.
        let (len, end) = FrameBatch::new(&self.received, self.limits).publishes();
        if len > 0 {
            return Ok(Some(Received::Batch(self.received.split_to(len))));
        }
        match end {
            BatchEnd::Incomplete => Ok(None),
            BatchEnd::Other(header) => {
                let bytes = self.received.split_to(header.length).freeze();
                Frame::from_bytes(&bytes, header).map(|frame| Some(Received::Frame(frame)))
            }
            BatchEnd::Malformed(fault @ DecodeError::TooLong { opcode: Opcode::Publish, length, .. })
                if length <= MAX_SKIPPED =>
            {
                self.skip = length as usize;
                Ok(Some(Received::TooLong(fault)))
            }
            BatchEnd::Malformed(DecodeError::UnknownOpcode(_)) if self.extended => Ok(self.next_of_extension()),
            BatchEnd::Malformed(fault) => Err(fault),
        }
    }

    fn next_of_extension(&mut self) -> Option<Received> {
        match ExtensionHeader::parse(&self.received) {
            Ok(Some(header)) if header.length <= self.received.len() => {
                let mut frame = self.received.split_to(header.length).freeze();
                let body = frame.split_off(HEADER_LEN);
                Some(Received::Extension(header.opcode, body))
            }
            Ok(_) => None,
            Err(fault) => Some(Received::Malformed(fault)),
        }
    }

    /// Throws away what has come of a message above the limit; false while more of it is to come.
    fn pass_over(&mut self) -> bool {
        if self.skip > 0 {
            let come = self.skip.min(self.received.len());
            self.received.advance(come);
            self.skip -= come;
        }
        self.skip == 0
    }

    /// Waits for one frame, whatever it is; for the handshake. `None`: the broker closed first.
    pub(crate) async fn first_frame(&mut self) -> io::Result<Option<Result<Received, DecodeError>>> {
        loop {
            match self.next() {
                Ok(None) => {}
                Ok(Some(received)) => return Ok(Some(Ok(received))),
                Err(error) => return Ok(Some(Err(error))),
            }
            if poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Writes once what is in flight: there must be something.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        in_flight: &mut InFlight,
        control_only: bool,
    ) -> Poll<io::Result<Written>> {
        // The system would take the bytes, and nobody would read them.
        if self.io.peer_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = in_flight.chunks(&mut slices, control_only);
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..filled]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(in_flight.advance(n)))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Closes our side; the broker's stays open. Fails when the broker's is closed already: its end
    /// of stream would look like an answer to ours.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ending && self.io.peer_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.ending = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// See [`Transport::abort`].
    pub(crate) fn abort(&self) {
        self.io.abort();
    }

    /// See [`Transport::hears_heartbeats`].
    pub(crate) fn hears_heartbeats(&self) {
        self.io.hears_heartbeats();
    }

    /// See [`Transport::status`].
    pub(crate) fn status(&self) -> Option<TransportStatus> {
        self.io.status()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use bytes::Bytes;

    use super::*;
    use crate::wire::{Channel, Ident, encode_publish};

    fn transport() -> (FrameTransport, DuplexStream) {
        let (ours, theirs) = duplex(READ);
        (FrameTransport::new(Box::new(ours), Limits::default()), theirs)
    }

    /// A frame of some thousand bytes that divide no piece of memory.
    fn frame(number: u8, payload: usize) -> Bytes {
        let mut bytes = BytesMut::new();
        let (ident, channel) = (Ident::new("me").unwrap(), Channel::new("a").unwrap());
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, &vec![number; payload]).unwrap();
        bytes.freeze()
    }

    async fn receive(transport: &mut FrameTransport) -> BytesMut {
        match transport.first_frame().await.unwrap().unwrap() {
            Ok(Received::Batch(batch)) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn memory_of_messages_that_are_done_with_is_used_again() {
        let (mut transport, mut peer) = transport();
        let mut places = BTreeSet::new();
        for number in 0..250 {
            let frame = frame(number, 30_001);
            // Cut anywhere: the rest comes behind a part that has been received.
            let (head, tail) = frame.split_at(usize::from(number) * 100);
            peer.write_all(head).await.unwrap();
            if !head.is_empty() {
                poll_fn(|cx| transport.poll_fill(cx)).await.unwrap();
            }
            peer.write_all(tail).await.unwrap();
            let batch = receive(&mut transport).await;
            assert_eq!(batch, frame);
            places.insert(batch.as_ptr() as usize / MEMORY);
        }
        // One piece, which may begin anywhere.
        assert!(places.len() <= 2, "{places:?}");
    }

    #[tokio::test]
    async fn messages_that_the_program_keeps_stay_what_they_are() {
        let (mut transport, mut peer) = transport();
        let mut kept = Vec::new();
        for number in 0..200 {
            peer.write_all(&frame(number, 5_003)).await.unwrap();
            let batch = receive(&mut transport).await;
            // All but every third for long.
            if number % 3 > 0 {
                kept.push((number, batch));
            }
        }
        for large in [300_000, 600_000, 20] {
            let frame = frame(7, large);
            let (batch, ()) = tokio::join!(receive(&mut transport), async { peer.write_all(&frame).await.unwrap() });
            assert_eq!(batch, frame);
        }
        for (number, batch) in kept {
            assert_eq!(batch, frame(number, 5_003));
        }
    }

    #[tokio::test]
    async fn a_batch_ends_where_something_else_begins_or_is_missing() {
        let frames: Vec<_> = [3, 3, 3, 8, 3, 3].map(|payload| frame(1, payload)).concat();
        let mut error = BytesMut::new();
        Frame::Error { message: "no".into() }.encode(&mut error, Limits::default()).unwrap();
        let cut = frame(1, 3);
        for tail in [&error[..], b"\0\0\0\x09\x09", b"\0\0\0\x04\x03", &cut[..cut.len() - 1], &cut[..3]] {
            let (mut transport, mut peer) = transport();
            peer.write_all(&[&frames, tail].concat()).await.unwrap();
            assert_eq!(receive(&mut transport).await, frames);
            match (transport.next(), tail) {
                (Ok(Some(Received::Frame(Frame::Error { message }))), _) => assert_eq!(message, "no"),
                (Err(_), [.., 9 | 3]) => {}
                (Ok(None), _) => assert!(cut.starts_with(tail)),
                (other, _) => panic!("{tail:?}: {other:?}"),
            }
        }
    }
}
