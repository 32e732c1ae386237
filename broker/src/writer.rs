//! Writes an outbox to a socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::{outbox::Outbox, socket::WriteHalf};

/// How many runs one system call writes.
const SLICES: usize = 64;

/// The only one who takes out of an outbox.
pub(crate) struct Writer<'a> {
    half: WriteHalf<'a>,
    outbox: Arc<Outbox>,
    /// Taken from the outbox and not yet written, but for so many bytes of the first.
    taken: VecDeque<Bytes>,
    written: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The outbox was closed, and everything in it has been written.
    Drained,
    /// The subscriber was slow for too long. Only the rest of a frame that was begun is left to write.
    Slow,
    /// The connection is broken. Nothing is left.
    Failed,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(half: WriteHalf<'a>, outbox: Arc<Outbox>) -> Self {
        Self { half, outbox, taken: VecDeque::new(), written: 0, timer: None }
    }

    /// Writes until one of the ends above. It may be called again after [`WriteEnd::Slow`].
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        loop {
            if self.taken.is_empty() {
                match self.outbox.poll_take(cx, &mut self.taken) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(WriteEnd::Drained),
                    Poll::Pending => {
                        // An idle connection keeps nothing.
                        self.taken = VecDeque::new();
                        return Poll::Pending;
                    }
                }
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(n)) => self.advance(n),
                Poll::Ready(Err(_)) => {
                    self.outbox.abandon(&mut self.taken, self.written);
                    return Poll::Ready(WriteEnd::Failed);
                }
                Poll::Pending => {
                    if self.outbox.poll_deadline(cx, &mut self.timer).is_pending() {
                        return Poll::Pending;
                    }
                    self.timer = None;
                    self.outbox.expire(&mut self.taken, self.written, Instant::now());
                    return Poll::Ready(WriteEnd::Slow);
                }
            }
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The socket, once there is nothing more to write to it but its end.
    pub(crate) fn half(&mut self) -> &mut WriteHalf<'a> {
        &mut self.half
    }

    /// Gives up what has not been written.
    pub(crate) fn abandon(&mut self) {
        self.outbox.abandon(&mut self.taken, self.written);
        self.written = 0;
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut skip = self.written;
        let mut count = 0;
        for (slice, run) in slices.iter_mut().zip(&self.taken) {
            *slice = IoSlice::new(run.get(skip..).unwrap_or_default());
            skip = 0;
            count += 1;
        }
        self.half.poll_write(cx, &slices[..count])
    }

    fn advance(&mut self, n: usize) {
        let mut runs = 0;
        self.written += n;
        while let Some(run) = self.taken.front()
            && run.len() <= self.written
        {
            self.written -= run.len();
            runs += 1;
            self.taken.pop_front();
        }
        self.outbox.sent(n, runs);
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Also when the task is aborted: what is left is counted, and publishers do not wait for it.
        self.abandon();
    }
}
