use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::{
    Transport,
    flight::{Flight, Written},
};
use crate::wire::{DecodeError, Frame, Header, Limits, Opcode};

/// How much is asked of the socket at once.
const READ: usize = 64 * 1024;

/// Below this much free room a read is not worth its system call, and the buffer gets more.
const READ_MIN: usize = 8 * 1024;

/// Segments in one vectored write.
const SLICES: usize = 32;

/// One connection: its socket and what has been read from it and not handed on.
pub(crate) struct Link {
    io: Box<dyn Transport>,
    limits: Limits,
    received: BytesMut,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Received {
    /// One or many whole PUBLISH frames, not yet taken apart.
    Run(Bytes),
    /// A frame of any other kind.
    Frame(Frame),
}

impl Link {
    pub(crate) fn new(io: Box<dyn Transport>, limits: Limits) -> Self {
        Self { io, limits, received: BytesMut::new() }
    }

    /// Reads once from the socket; 0 is its end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.received.capacity() - self.received.len() < READ_MIN {
            // Twice what is there: a large frame is not copied over and over, and a header alone reserves little.
            self.received.reserve(READ.max(self.received.len()));
        }
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.received)
    }

    /// The next thing among the bytes already read: as many PUBLISH frames as stand together, or one other frame.
    pub(crate) fn next(&mut self) -> Result<Option<Received>, DecodeError> {
        let mut end = 0;
        let mut fault = None;
        loop {
            let rest = &self.received[end..];
            match Header::parse(rest, self.limits) {
                Ok(Some(header)) if header.length <= rest.len() => match header.opcode {
                    Opcode::Publish => end += header.length,
                    _ if end > 0 => break,
                    _ => {
                        let bytes = self.received.split_to(header.length).freeze();
                        return Frame::from_bytes(&bytes, header).map(|frame| Some(Received::Frame(frame)));
                    }
                },
                Ok(_) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        match fault {
            _ if end > 0 => Ok(Some(Received::Run(self.received.split_to(end).freeze()))),
            Some(fault) => Err(fault),
            None => Ok(None),
        }
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

    /// Writes once from the flight, which must have something to write.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        flight: &mut Flight,
        control_only: bool,
    ) -> Poll<io::Result<Written>> {
        if self.io.peer_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = flight.chunks(&mut slices, control_only);
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..filled]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(flight.advance(n)))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Closes our side; the broker's stays open.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
