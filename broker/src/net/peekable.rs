//! A peekable stream: what a TCP socket can tell without reading, another stream tells by reading
//! ahead.

use std::{
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BytesMut};
use futures::future::poll_fn;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::unconstrained,
};
use tokio_util::io::poll_read_buf;

/// The bytes read ahead at once, to find out whether there are any.
const PEEK: usize = 2 * 1024;

/// The most bytes read ahead to find out whether the end of the stream has come.
const LOOK: usize = 64 * 1024;

/// A stream of bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that can be asked whether there is something to read.
pub(crate) struct PeekableStream {
    stream: Box<dyn Stream>,
    /// Bytes that were read ahead.
    ahead: BytesMut,
    /// The end of the stream behind those bytes, or the error, which is returned once.
    end: Option<io::Result<()>>,
}

impl PeekableStream {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, ahead: BytesMut::new(), end: None }
    }

    /// Ready when a read returns bytes, the end, or an error.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ahead.is_empty() {
            return Poll::Ready(());
        }
        self.poll_ahead(cx)
    }

    /// Whether a read returns bytes now. Afterwards, no task is woken when more bytes come.
    pub(crate) fn has_unread(&mut self) -> bool {
        // As a system call would: outside of the budget of the task.
        let peek = unconstrained(poll_fn(|cx| self.poll_readable(cx)));
        let _ = pin!(peek).poll(&mut Context::from_waker(Waker::noop()));
        !self.ahead.is_empty()
    }

    /// Whether the end of the stream is known to have come.
    pub(crate) fn is_finished(&mut self, cx: &mut Context<'_>) -> bool {
        while self.end.is_none() && self.ahead.len() < LOOK {
            if self.poll_ahead(cx).is_pending() {
                return false;
            }
        }
        self.end.is_some()
    }

    /// Appends to the spare room of the buffer, and returns how many bytes; 0 is the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() {
            if let Some(end) = &mut self.end {
                return Poll::Ready(mem::replace(end, Ok(())).map(|()| 0));
            }
            let n = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, buf))?;
            if n == 0 {
                self.end = Some(Ok(()));
            }
            return Poll::Ready(Ok(n));
        }
        let n = self.ahead.len().min(buf.capacity() - buf.len());
        buf.extend_from_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        if self.ahead.is_empty() {
            // An idle connection keeps no memory.
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(n))
    }

    /// Reads at most [`PEEK`] bytes ahead, or the end.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.end.is_some() {
            return Poll::Ready(());
        }
        let mut piece = [0; PEEK];
        let mut piece = ReadBuf::new(&mut piece);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece)) {
            Ok(()) if piece.filled().is_empty() => self.end = Some(Ok(())),
            Ok(()) => self.ahead.extend_from_slice(piece.filled()),
            Err(cause) => self.end = Some(Err(cause)),
        }
        Poll::Ready(())
    }

    /// Writes, and returns how many bytes once they have been flushed: until then they are `taken`,
    /// and the slices must start with the same bytes.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        taken: &mut usize,
    ) -> Poll<io::Result<usize>> {
        if *taken == 0 {
            *taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(mem::take(taken)))
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Writes a frame to a stream and closes it, as far as that takes no waiting.
pub(crate) fn turn_away(mut stream: impl Stream, frame: &[u8]) {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut stream = Pin::new(&mut stream);
    if let Poll::Ready(Ok(_)) = stream.as_mut().poll_write(cx, frame)
        && stream.as_mut().poll_flush(cx).is_ready()
    {
        let _ = stream.poll_shutdown(cx);
    }
}
