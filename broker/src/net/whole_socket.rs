//! A whole socket as one stream of bytes, for a server that reads and writes it in one task.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::socket::Socket;

/// The most bytes of one read.
const READ: usize = 16 * 1024;

/// A socket that one task reads and writes.
pub(crate) struct WholeSocket {
    socket: Socket,
    /// Bytes that were read and not asked for yet.
    read: BytesMut,
    /// How much of the last write TLS has encrypted and not sent.
    taken: usize,
}

impl WholeSocket {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, read: BytesMut::new(), taken: 0 }
    }
}

impl AsyncRead for WholeSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, read, .. } = &mut *self;
        if read.is_empty() {
            read.reserve(READ);
            ready!(socket.split().0.poll_read(cx, read))?;
        }
        let len = read.len().min(buf.remaining());
        buf.put_slice(read.get(..len).unwrap_or_default());
        read.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WholeSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, taken, .. } = &mut *self;
        let mut write = socket.split().1.resumed(*taken);
        let written = write.poll_write(cx, &[IoSlice::new(bytes)]);
        *taken = write.committed();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A write is done only when the system has taken all of it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.split().1.poll_shutdown(cx)
    }
}
