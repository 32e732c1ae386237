//! TLS over the halves of a socket.
//!
//! rustls is driven by hand, not by a stream around it, for three reasons: a connection that does nothing keeps no
//! buffer that can be given back, the socket is read and written in large pieces, and it is known whether what was
//! written has left the process.

use std::{
    cell::RefCell,
    io::{self, BufRead as _, IoSlice, Read, Write},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures::future::poll_fn;
use hpfeeds::wire::OtherProtocol;
use rustls::{ServerConfig, ServerConnection};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::{TcpStream, tcp},
};

use crate::net::tls::fault;

/// How much is encrypted at once, and so the most that a connection holds encrypted: four of the largest records, so
/// that full ones are made of a long queue.
const BATCH: usize = 64 * 1024;

/// How much is read from a socket at once.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 64 * 1024;

thread_local! {
    /// What has been read from a socket, on its way to rustls: it never outlives a call.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_READ]);
}

/// The TLS of one connection, after its handshake.
pub(crate) struct Tls {
    connection: ServerConnection,
    /// Read from the socket, but not yet given to rustls: there was no room for what it decrypts to. Rarely anything.
    encrypted: Vec<u8>,
    /// Why nothing more will be read, once what came before has been taken.
    failed: Option<io::Error>,
    close_notify_sent: bool,
    records: Records,
}

/// Finds the ends of records. rustls keeps the part of one that has come, and does not tell.
#[derive(Default)]
struct Records {
    /// How much of the header has come.
    header: usize,
    /// How much of the body is to come, as far as the header says.
    body: usize,
}

impl Records {
    const HEADER: usize = 5;

    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.header < Self::HEADER {
                // Type and version, then the length.
                if self.header >= 3 {
                    self.body = self.body << 8 | usize::from(*first);
                }
                self.header += 1;
                bytes = rest;
            } else {
                let n = self.body.min(bytes.len());
                self.body -= n;
                bytes = &bytes[n..];
            }
            if self.header == Self::HEADER && self.body == 0 {
                self.header = 0;
            }
        }
    }

    /// Whether a part of a record has come, and not all of it.
    fn is_inside(&self) -> bool {
        self.header > 0
    }
}

/// Greets a client.
pub(crate) async fn accept(tcp: &mut TcpStream, config: Arc<ServerConfig>) -> io::Result<Tls> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut tls =
        Tls { connection, encrypted: Vec::new(), failed: None, close_notify_sent: false, records: Records::default() };
    tls.connection.set_buffer_limit(Some(BATCH));
    let (mut read, mut write) = tcp.split();
    let mut first = Vec::with_capacity(OtherProtocol::LEN);
    let handshake = poll_fn(|cx| {
        loop {
            ready!(tls.poll_flush(&mut write, cx))?;
            if !tls.connection.is_handshaking() {
                return Poll::Ready(io::Result::Ok(()));
            }
            ready!(tls.poll_handshake(&mut read, cx, &mut first))?;
        }
    });
    if let Err(cause) = handshake.await {
        return Err(fault::of_handshake(cause, &first));
    }
    tls.release();
    Ok(tls)
}

impl Tls {
    /// Whether a read gives something, or the end, without the socket.
    pub(crate) fn is_readable(&mut self) -> bool {
        // Only when there is nothing is this an error of that kind.
        self.failed.is_some() || !self.encrypted.is_empty() || !is_blocked(&self.connection.reader().fill_buf())
    }

    /// Whether something has come that has not been read, be it a part of a record.
    pub(crate) fn has_unread(&mut self) -> bool {
        self.records.is_inside() || self.is_readable()
    }

    /// Appends what is there to the spare room of the buffer; 0 is the end that the peer has announced.
    pub(crate) fn poll_read(
        &mut self,
        tcp: &mut tcp::ReadHalf<'_>,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let before = buf.len();
        if let Some(cause) = self.failed.take() {
            return Poll::Ready(Err(cause));
        }
        let filled = self.poll_fill(tcp, cx, buf);
        match filled {
            Poll::Ready(Err(cause)) => {
                // The last word says why. If there is no room for it, the peer will not read it, either.
                let _ = self.connection.write_tls(&mut Direct(tcp.as_ref()));
                if buf.len() == before {
                    return Poll::Ready(Err(cause));
                }
                self.failed = Some(cause);
            }
            Poll::Ready(Ok(())) => {}
            Poll::Pending => {
                self.release();
                if buf.len() == before {
                    return Poll::Pending;
                }
            }
        }
        if self.connection.wants_write() {
            // An answer to the peer's TLS. What there is no room for goes out before what is written next.
            let _ = self.connection.write_tls(&mut Direct(tcp.as_ref()));
        }
        Poll::Ready(Ok(buf.len() - before))
    }

    /// Takes all of the slices, or as much as is encrypted at once, and says how much that is once it has all left.
    /// `taken` is what has been taken and has not left: while it is not 0, the slices must start with the same bytes.
    pub(crate) fn poll_write(
        &mut self,
        tcp: &mut tcp::WriteHalf<'_>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        taken: &mut usize,
    ) -> Poll<io::Result<usize>> {
        if *taken == 0 {
            ready!(self.poll_flush(tcp, cx))?;
            *taken = self.connection.writer().write_vectored(slices)?;
        }
        ready!(self.poll_flush(tcp, cx))?;
        Poll::Ready(Ok(mem::take(taken)))
    }

    /// Tells the peer that nothing more will come, and ends our direction of the socket.
    pub(crate) fn poll_shutdown(&mut self, tcp: &mut tcp::WriteHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !mem::replace(&mut self.close_notify_sent, true) {
            self.connection.send_close_notify();
        }
        ready!(self.poll_flush(tcp, cx))?;
        Pin::new(tcp).poll_shutdown(cx)
    }

    fn poll_flush(&mut self, tcp: &mut tcp::WriteHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Polled(tcp, cx)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(cause) => return Poll::Ready(Err(cause)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the buffer is full, the socket empty, or the stream at its end.
    fn poll_fill(
        &mut self,
        tcp: &mut tcp::ReadHalf<'_>,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        let mut held = mem::take(&mut self.encrypted);
        let mut rest = held.as_slice();
        loop {
            if self.decrypt(&mut rest, buf)? {
                let len = rest.len();
                held.drain(..held.len() - len);
                self.encrypted = held;
                return Poll::Ready(Ok(()));
            }
            let room = buf.capacity() - buf.len();
            let full = READ.with_borrow_mut(|space| {
                let mut read = ReadBuf::new(&mut space[..room.clamp(MIN_READ, MAX_READ)]);
                ready!(Pin::new(&mut *tcp).poll_read(cx, &mut read))?;
                let mut rest = read.filled();
                if rest.is_empty() {
                    self.connection.read_tls(&mut io::empty())?;
                }
                let full = self.decrypt(&mut rest, buf)?;
                self.encrypted.extend_from_slice(rest);
                Poll::Ready(io::Result::Ok(full))
            });
            if ready!(full)? {
                return Poll::Ready(Ok(()));
            }
            rest = &[];
        }
    }

    /// Gives rustls what was read, and moves what it makes of it to the buffer. Whether the buffer is full, or the stream
    /// at its end; otherwise nothing is left.
    fn decrypt(&mut self, encrypted: &mut &[u8], buf: &mut BytesMut) -> io::Result<bool> {
        loop {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                Ok([]) => return Ok(true),
                Ok(chunk) => {
                    let n = chunk.len().min(buf.capacity() - buf.len());
                    if n == 0 {
                        return Ok(true);
                    }
                    buf.extend_from_slice(&chunk[..n]);
                    reader.consume(n);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    if encrypted.is_empty() {
                        return Ok(false);
                    }
                    self.feed(encrypted)?;
                }
                Err(_) => return Err(truncated()),
            }
        }
    }

    /// One step of the handshake. The first bytes that come are kept, to tell what they are if they are no TLS.
    fn poll_handshake(
        &mut self,
        tcp: &mut tcp::ReadHalf<'_>,
        cx: &mut Context<'_>,
        first: &mut Vec<u8>,
    ) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|space| {
            let mut read = ReadBuf::new(space);
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut read))?;
            let mut rest = read.filled();
            if rest.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            first.extend(rest.iter().take(OtherProtocol::LEN - first.len()));
            while self.connection.is_handshaking() && !rest.is_empty() {
                if let Err(cause) = self.feed(&mut rest) {
                    let _ = self.connection.write_tls(&mut Direct(tcp.as_ref()));
                    return Poll::Ready(Err(cause));
                }
            }
            // What came along with the end of the handshake.
            self.encrypted.extend_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }

    fn feed(&mut self, encrypted: &mut &[u8]) -> io::Result<()> {
        // After the peer's last word it takes nothing more, and nothing more counts.
        let before = *encrypted;
        let n = self.connection.read_tls(encrypted)?;
        if n == 0 {
            *encrypted = &[];
        }
        self.records.pass(&before[..n]);
        self.connection.process_new_packets().map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        Ok(())
    }

    /// Lets rustls shrink its buffer of received records: it only does so when it is about to read.
    fn release(&mut self) {
        let _ = self.connection.read_tls(&mut WouldBlockReader);
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
}

/// Whoever can write to the network can end a connection like this, and make us believe that nothing more was sent.
fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed without the end that TLS requires (close_notify)")
}

/// A reader that has nothing yet.
struct WouldBlockReader;

impl Read for WouldBlockReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Writes to a socket, and wakes the task when more can be written.
struct Polled<'a, 'b, 'c>(&'a mut tcp::WriteHalf<'b>, &'a mut Context<'c>);

impl Write for Polled<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.0).poll_write_vectored(self.1, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a socket if there is room now.
struct Direct<'a>(&'a TcpStream);

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
