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
                    let committed = self.half.committed();
                    self.advance(committed);
                    self.outbox.expire(&mut self.taken, self.written, Instant::now());
                    // What is left of the first run may be written already.
                    self.advance(0);
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
        self.outbox.sent(n, runs, Instant::now);
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Also when the task is aborted: what is left is counted, and publishers do not wait for it.
        self.abandon();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use futures::future::poll_fn;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        metrics::Session,
        outbox::{Depot, Offer, Rules, Run},
        socket::Socket,
        stats::Counters,
    };

    const FRAME: &[u8] = b"\0\0\0\x0a\x03\x01i\x01cx";
    const ERROR: &[u8] = b"\0\0\0\x07\0no";
    const TICK: Duration = Duration::from_nanos(1);

    #[tokio::test]
    async fn a_last_word_is_written_when_the_deadline_falls_between_two_frames() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
        let (_read, mut write) = socket.split();
        // The system takes no more.
        let mut filled = 0;
        while let Poll::Ready(n) = poll_fn(|cx| Poll::Ready(write.poll_write(cx, &[IoSlice::new(&[0; 4096])]))).await {
            filled += n.unwrap();
        }
        let rules = Rules {
            low_mark: 0,
            high_mark: 0,
            window: TICK,
            deadline: Duration::ZERO,
            ..crate::config::Config::default().rules()
        };
        let depot = Depot { rules, buffered: AtomicUsize::new(0), counters: Counters::default() };
        let outbox = Outbox::new(Session::for_test("test"), ([127, 0, 0, 1], 1).into(), Arc::new(depot));
        let run = Run { bytes: [FRAME, FRAME].concat().into(), messages: 2, payload: 0 };
        let mut writer = Writer::new(write, outbox.clone());
        let now = Instant::now();
        assert!(matches!(outbox.offer(&run, now), Offer::Queued { .. }));
        assert!(poll_fn(|cx| Poll::Ready(writer.poll_run(cx))).await.is_pending());
        // It took exactly the first frame.
        writer.advance(FRAME.len());
        assert!(matches!(outbox.offer(&run, now), Offer::Wait(_)));
        assert_eq!(outbox.offer(&run, now + TICK), Offer::Refused);
        assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Slow));
        outbox.close(Some(Bytes::from_static(ERROR)));
        let mut got = vec![0; filled + ERROR.len()];
        let (end, read) = tokio::join!(poll_fn(|cx| writer.poll_run(cx)), client.read_exact(&mut got));
        read.unwrap();
        assert!(matches!(end, WriteEnd::Drained), "{end:?}");
        assert_eq!(got[filled..], *ERROR);
        assert_eq!(outbox.dropped(), 3);
    }
}
