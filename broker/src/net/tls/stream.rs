//! The TLS stream over the halves of a socket: drives rustls.
//!
//! Not tokio-rustls, for three reasons: it reads from the socket in pieces of 4 KiB, not of up to
//! 64 KiB; the socket stays visible under TLS here (its end of stream, the part of a record that has
//! come, a reset instead of an end); and it is known whether the bytes written have left the process.
//! The figures stand beside `rustls` in the manifest.

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

/// The most bytes that are encrypted at once, and so the most that a connection holds encrypted:
/// four of the largest records, so that a long queue makes full records.
const BATCH: usize = 64 * 1024;

/// The bytes of one read from a socket.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 64 * 1024;

thread_local! {
    /// The bytes of one read from a socket, on their way to rustls: they never outlive a call.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_READ]);
}

/// The TLS of one connection, after its handshake.
pub(crate) struct Tls {
    connection: ServerConnection,
    /// Bytes read from the socket, but not yet given to rustls, as there was no room for their
    /// plaintext. Rarely any.
    encrypted: Vec<u8>,
    /// The error that ends reading, once the bytes before it have been taken.
    failed: Option<io::Error>,
    close_notify_sent: bool,
    records: Records,
}

/// Finds the ends of records: rustls does not tell whether it keeps a part of one.
#[derive(Default)]
struct Records {
    /// The bytes of the header that have come.
    header: usize,
    /// The bytes of the body that are to come, as far as the header says.
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

    /// Whether a part of a record has come, but not all of it.
    fn is_inside(&self) -> bool {
        self.header > 0
    }
}

/// Completes the handshake with a client.
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
    /// Whether a read returns bytes, the end or an error without the socket.
    pub(crate) fn is_readable(&mut self) -> bool {
        // rustls blocks only when it has no plaintext.
        self.failed.is_some() || !self.encrypted.is_empty() || !is_blocked(&self.connection.reader().fill_buf())
    }

    /// Whether bytes have come that have not been read, be they a part of a record.
    pub(crate) fn has_unread(&mut self) -> bool {
        self.records.is_inside() || self.is_readable()
    }

    /// Appends plaintext to the spare room of the buffer, and returns how many bytes; 0 is the end
    /// that the peer has announced.
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
                // The alert says why. If the socket has no room for it, the peer would not read it,
                // either.
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
            // An answer to the peer's TLS. Without room in the socket it leaves before the next
            // write.
            let _ = self.connection.write_tls(&mut Direct(tcp.as_ref()));
        }
        Poll::Ready(Ok(buf.len() - before))
    }

    /// Encrypts the slices, at most [`BATCH`] bytes, and returns how many once all of them have
    /// been sent. Until then they are `taken`: while that is not 0, the slices must start with the
    /// same bytes.
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

    /// Announces the end to the peer (`close_notify`), and ends our direction of the socket.
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

    /// Reads until the buffer is full, the socket is empty, or the stream has ended.
    fn poll_fill(
        &mut self,
        tcp: &mut tcp::ReadHalf<'_>,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        // Bytes that the call before had no room for come first, and then those that rustls still holds.
        let mut held = mem::take(&mut self.encrypted);
        let mut rest = held.as_slice();
        loop {
            if self.decrypt(&mut rest, buf)? {
                let len = rest.len();
                held.drain(..held.len() - len);
                self.encrypted = held;
                return Poll::Ready(Ok(()));
            }
            // One read of about as much as the buffer has room for, through the space of this thread.
            let room = buf.capacity() - buf.len();
            let full = READ.with_borrow_mut(|space| {
                let mut read = ReadBuf::new(&mut space[..room.clamp(MIN_READ, MAX_READ)]);
                ready!(Pin::new(&mut *tcp).poll_read(cx, &mut read))?;
                let mut rest = read.filled();
                if rest.is_empty() {
                    // Tells rustls that the connection has ended.
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

    /// Moves bytes through rustls into the buffer. Whether the buffer is full or the stream has
    /// ended; otherwise all bytes have been decrypted.
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
                    // No plaintext is left: rustls needs more records.
                    if encrypted.is_empty() {
                        return Ok(false);
                    }
                    self.feed(encrypted)?;
                }
                Err(_) => return Err(truncated()),
            }
        }
    }

    /// One step of the handshake. The first bytes are kept, to recognize another protocol than TLS.
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
            // Bytes that came along with the end of the handshake.
            self.encrypted.extend_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }

    /// Gives rustls some of the bytes, and decrypts the records that are complete with them.
    fn feed(&mut self, encrypted: &mut &[u8]) -> io::Result<()> {
        // After the peer's `close_notify`, rustls takes nothing more, and nothing more counts.
        let before = *encrypted;
        let n = self.connection.read_tls(encrypted)?;
        if n == 0 {
            *encrypted = &[];
        }
        self.records.pass(&before[..n]);
        self.connection.process_new_packets().map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        Ok(())
    }

    /// Lets rustls shrink its buffer of received records, which it does only before a read.
    fn release(&mut self) {
        let _ = self.connection.read_tls(&mut WouldBlockReader);
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(cause) if cause.kind() == io::ErrorKind::WouldBlock)
}

/// The error of a connection that ends without `close_notify`: an attacker on the network can end
/// one like this, and hide that the peer sent more.
fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "closed without the end that TLS requires (close_notify)")
}

/// A reader without bytes: each read would block.
struct WouldBlockReader;

impl Read for WouldBlockReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A writer to a socket that wakes the task when more can be written.
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

/// A writer to a socket as far as it has room now.
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
