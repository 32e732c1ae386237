//! A pipe in memory, both ways, whose buffers neither grow nor move: it costs the same whatever was sent
//! before, which that of tokio does not.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The room of each way, in bytes.
const ROOM: usize = 2 << 20;

/// One end.
pub(crate) struct Pipe {
    from: Arc<Way>,
    to: Arc<Way>,
}

type Way = Mutex<State>;

struct State {
    bytes: Box<[u8]>,
    /// Bytes that were written and not read; from the beginning again when all are.
    start: usize,
    end: usize,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Both ends.
pub(crate) fn pipe() -> (Pipe, Pipe) {
    let way = || {
        let bytes = vec![0; ROOM].into();
        Arc::new(Mutex::new(State { bytes, start: 0, end: 0, is_closed: false, reader: None, writer: None }))
    };
    let (one, other) = (way(), way());
    (Pipe { from: one.clone(), to: other.clone() }, Pipe { from: other, to: one })
}

fn lock(way: &Way) -> MutexGuard<'_, State> {
    way.lock().unwrap()
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.from);
        if state.start == state.end {
            if state.is_closed {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buf.remaining().min(state.end - state.start);
        buf.put_slice(&state.bytes[state.start..state.start + n]);
        state.start += n;
        if state.start == state.end {
            (state.start, state.end) = (0, 0);
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.to);
        if state.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = 0;
        for buf in bufs {
            let end = state.end;
            let n = buf.len().min(ROOM - end);
            state.bytes[end..end + n].copy_from_slice(&buf[..n]);
            state.end += n;
            written += n;
        }
        if written == 0 && bufs.iter().any(|buf| !buf.is_empty()) {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        close(&self.to);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        close(&self.to);
        close(&self.from);
    }
}

fn close(way: &Way) {
    let mut state = lock(way);
    state.is_closed = true;
    let (reader, writer) = (state.reader.take(), state.writer.take());
    reader.into_iter().chain(writer).for_each(Waker::wake);
}
