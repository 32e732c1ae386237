//! The writer of a connection: writes an outbox to a socket, no faster than its account may
//! receive.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hpfeeds::wire::FrameBatch;
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    delivery::outbox::Outbox, identity::quota::Quota, limits::rate::Limiter, link::Link, net::socket::WriteHalf,
};

/// How many batches one system call writes.
const SLICES: usize = 64;

/// An idle connection keeps room for so many batches: one message at a time needs no allocation.
const KEEP_CAPACITY: usize = 4;

/// The writer of one connection, which alone takes batches out of its outbox.
pub(crate) struct Writer<'a> {
    half: WriteHalf<'a>,
    outbox: Arc<Outbox>,
    /// The batches that were taken from the outbox and are not yet written as a whole.
    taken: VecDeque<Bytes>,
    /// How many bytes of the first are written.
    written: usize,
    timer: Option<Pin<Box<Sleep>>>,
    /// The quota of the account, if that limits deliveries.
    quota: Option<Arc<Quota>>,
    /// How many bytes of `taken` may be written. Without a limit, all.
    granted: usize,
    /// The timer is for the limit, and not for the deadline.
    pacing: bool,
    /// The outbox knows that the writer waits because of the limit.
    held: bool,
    /// The client speaks the extension.
    control: Option<Box<ControlWriter>>,
}

/// The part of a writer that writes control frames. They go out between two batches, and no limit
/// puts them off.
struct ControlWriter {
    link: Arc<Link>,
    /// The frames that are being written, and how many of their bytes are.
    chunk: BytesMut,
    written: usize,
    /// What the socket took no more of: it has to be offered the same bytes again.
    blocked: Option<Offer>,
}

/// What was offered to the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offer {
    Batches,
    Control,
}

/// Why the writer has stopped.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The outbox was closed, and everything in it has been written.
    Drained,
    /// The subscriber was slow for too long. Only the rest of a frame that was begun is left to
    /// write.
    Slow,
    /// The subscriber did not read, and its memory was needed for others. Nothing is left.
    Evicted,
    /// The connection is broken. Nothing is left.
    Failed,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(half: WriteHalf<'a>, outbox: Arc<Outbox>) -> Self {
        let (taken, timer, quota) = (VecDeque::new(), None, None);
        let (granted, control) = (usize::MAX, None);
        Self { half, outbox, taken, written: 0, timer, quota, granted, pacing: false, held: false, control }
    }

    /// Keeps to the limit of an account, if it has one.
    pub(crate) fn limited(mut self, quota: &Arc<Quota>) -> Self {
        if quota.deliver.is_some() {
            self.quota = Some(quota.clone());
            self.granted = 0;
        }
        self
    }

    /// Writes until one of the ends above. It may be called again after [`WriteEnd::Slow`].
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        loop {
            if self.control.is_some() {
                match self.poll_control(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.abandon();
                        return Poll::Ready(WriteEnd::Failed);
                    }
                    Poll::Pending => return self.poll_blocked(cx),
                }
            }
            // The next batches, or a registration for them.
            if self.taken.is_empty() {
                match self.outbox.poll_take(cx, &mut self.taken) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(WriteEnd::Drained),
                    Poll::Pending => {
                        if self.taken.capacity() > KEEP_CAPACITY {
                            self.taken = VecDeque::new();
                        }
                        return Poll::Pending;
                    }
                }
            }
            if self.quota.is_some() {
                ready!(self.poll_grant(cx));
            }
            // One system call, until the socket takes no more.
            match self.poll_write(cx) {
                Poll::Ready(Ok(n)) => {
                    self.block(None);
                    self.advance(n);
                }
                Poll::Ready(Err(_)) => {
                    self.abandon();
                    return Poll::Ready(WriteEnd::Failed);
                }
                Poll::Pending => {
                    self.block(Some(Offer::Batches));
                    return self.poll_blocked(cx);
                }
            }
        }
    }

    /// The subscriber is waited for, and may be slow for too long.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        if mem::take(&mut self.held) {
            self.outbox.resume();
        }
        if self.outbox.poll_deadline(cx, &mut self.timer).is_pending() {
            return Poll::Pending;
        }
        self.timer = None;
        self.commit();
        let called_in = self.outbox.is_called_in();
        self.outbox.expire(&mut self.taken, self.written, Instant::now());
        self.lift_limit();
        // The rest of the first batch may be written already.
        self.advance(0);
        if called_in {
            self.abandon();
            return Poll::Ready(WriteEnd::Evicted);
        }
        Poll::Ready(WriteEnd::Slow)
    }

    /// Follows what HELLO has agreed on: from the first one on, the writer has control frames.
    pub(crate) fn follow(&mut self, link: &Arc<Link>) {
        self.control.get_or_insert_with(|| {
            Box::new(ControlWriter { link: link.clone(), chunk: BytesMut::new(), written: 0, blocked: None })
        });
    }

    /// Writes the control frames, if it is their turn. Ready when there is none to write now.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let between = self.is_between_frames();
        let Some(control) = &mut self.control else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if control.chunk.is_empty() {
                let is_turn = between && control.blocked.is_none();
                if !is_turn || !control.link.take(&mut control.chunk) {
                    return Poll::Ready(Ok(()));
                }
            }
            let rest = control.chunk.get(control.written..).unwrap_or_default();
            match self.half.poll_write(cx, &[IoSlice::new(rest)]) {
                Poll::Ready(Ok(n)) => {
                    control.blocked = None;
                    control.advance(n);
                    self.outbox.sent_control(n);
                }
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    control.blocked = Some(Offer::Control);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether the next byte of the batches begins a frame.
    fn is_between_frames(&self) -> bool {
        self.written == 0 || self.is_limited() && self.granted == 0
    }

    /// Notes what the socket took no more of.
    fn block(&mut self, offer: Option<Offer>) {
        if let Some(control) = &mut self.control {
            control.blocked = offer;
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The socket, once there is nothing more to write to it but its end.
    pub(crate) fn half(&mut self) -> &mut WriteHalf<'a> {
        &mut self.half
    }

    /// Gives up all that has not been written.
    pub(crate) fn abandon(&mut self) {
        if let Some(control) = &mut self.control {
            control.chunk.clear();
            control.link.control().close();
        }
        self.outbox.abandon(&mut self.taken, self.written);
        self.written = 0;
    }

    /// Gives up all that has not been written, but for the rest of a frame that was begun: the
    /// connection must not get it.
    pub(crate) fn revoke(&mut self) {
        self.commit();
        self.outbox.revoke(&mut self.taken, self.written);
        self.lift_limit();
        // The rest of the first batch may be written already.
        self.advance(0);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.quota.is_some()
    }

    /// Counts encrypted bytes as written: they cannot be taken back.
    fn commit(&mut self) {
        let committed = self.half.committed();
        match &mut self.control {
            Some(control) if control.blocked == Some(Offer::Control) => {
                control.advance(committed);
                self.outbox.sent_control(committed);
            }
            _ => self.advance(committed),
        }
        self.block(None);
    }

    /// Ends the limit: the rest ends the connection, which no limit puts off.
    fn lift_limit(&mut self) {
        (self.quota, self.granted) = (None, usize::MAX);
        (self.timer, self.pacing) = (None, false);
    }

    /// Waits until bytes may be delivered.
    fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.granted == 0
            && let Some(limiter) = self.quota.as_ref().and_then(|quota| quota.deliver.as_ref())
        {
            let now = Instant::now();
            let (granted, until) = self.reserve(limiter, now);
            self.granted = granted;
            if until > now {
                self.timer = Some(Box::pin(sleep_until(until)));
                self.pacing = true;
            }
        }
        if let Some(timer) = self.timer.as_mut().filter(|_| self.pacing) {
            if timer.as_mut().poll(cx).is_pending() {
                if !mem::replace(&mut self.held, true) {
                    self.outbox.pause_for_rate_limit();
                }
                self.outbox.register(cx);
                return Poll::Pending;
            }
            self.timer = None;
            self.pacing = false;
        }
        Poll::Ready(())
    }

    /// Reserves a portion of `taken`. Returns its length in bytes, and when it may be written.
    fn reserve(&self, limiter: &Limiter, now: Instant) -> (usize, Instant) {
        let (messages, bytes) = limiter.rate().portion();
        let (mut all_messages, mut all_bytes) = (0, 0);
        let mut skip = self.written;
        for batch in &self.taken {
            let rest = batch.get(skip..).unwrap_or_default();
            skip = 0;
            let (messages_left, bytes_left) = (messages - all_messages, bytes.saturating_sub(all_bytes as u64));
            let more = FrameBatch::checked(rest).portion(messages_left, bytes_left);
            if all_bytes > 0 && more.len as u64 > bytes_left {
                break;
            }
            all_messages += u64::from(more.messages);
            all_bytes += more.len;
            if all_messages >= messages || more.len < rest.len() {
                break;
            }
        }
        (all_bytes, limiter.reserve(all_messages, all_bytes as u64, now))
    }

    /// Writes as much of `taken` as is granted with one system call.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A slice for each batch: most often there is one.
        let mut slices: SmallVec<[IoSlice<'_>; SLICES]> = SmallVec::new();
        let mut skip = self.written;
        let mut granted = self.granted;
        for batch in self.taken.iter().take(SLICES) {
            // Without the part of the first that is written, and no more than is granted.
            let rest = batch.get(skip..).unwrap_or_default();
            let slice = rest.get(..granted).unwrap_or(rest);
            slices.push(IoSlice::new(slice));
            granted -= slice.len();
            skip = 0;
            if granted == 0 {
                break;
            }
        }
        self.half.poll_write(cx, &slices)
    }

    /// So many bytes have been written.
    fn advance(&mut self, n: usize) {
        let mut batches = 0;
        self.written += n;
        if self.quota.is_some() {
            self.granted -= n;
        }
        while let Some(batch) = self.taken.front()
            && batch.len() <= self.written
        {
            self.written -= batch.len();
            batches += 1;
            self.taken.pop_front();
        }
        self.outbox.sent(n, batches, Instant::now);
    }
}

impl ControlWriter {
    /// So many bytes have been written.
    fn advance(&mut self, n: usize) {
        self.written += n;
        if self.written >= self.chunk.len() {
            self.chunk.clear();
            self.written = 0;
            self.link.control().written();
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Also when the task is aborted: the rest is counted, and publishers do not wait for it. A
        // task that has come to its end has left nothing.
        self.abandon();
        while self.outbox.clear_portion() {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{sync::atomic::Ordering::Relaxed, time::Duration};

    use bytes::BytesMut;
    use futures::future::poll_fn;
    use hpfeeds::wire::{Frame, Limits};
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        delivery::{batch::FrameBatch, context::DeliveryContext, outbox::EnqueueOutcome, policy::Rules},
        metrics::session::SessionMetrics,
        net::socket::Socket,
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
        let delivery = DeliveryContext::new(rules, Arc::default());
        let outbox = Outbox::new(SessionMetrics::for_test("test"), ([127, 0, 0, 1], 1).into(), delivery);
        let mut batch = FrameBatch::new([FRAME, FRAME].concat().into(), 2, 0);
        let mut writer = Writer::new(write, outbox.clone());
        let now = Instant::now();
        assert!(matches!(outbox.enqueue(&mut batch, || now), EnqueueOutcome::Queued { .. }));
        assert!(poll_fn(|cx| Poll::Ready(writer.poll_run(cx))).await.is_pending());
        // It took exactly the first frame.
        writer.advance(FRAME.len());
        assert!(matches!(outbox.enqueue(&mut batch, || now), EnqueueOutcome::Wait(_)));
        assert_eq!(outbox.enqueue(&mut batch, || now + TICK), EnqueueOutcome::Refused);
        assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Slow));
        outbox.close(Some(Bytes::from_static(ERROR)));
        let mut got = vec![0; filled + ERROR.len()];
        let (end, read) = tokio::join!(poll_fn(|cx| writer.poll_run(cx)), client.read_exact(&mut got));
        read.unwrap();
        assert!(matches!(end, WriteEnd::Drained), "{end:?}");
        assert_eq!(got[filled..], *ERROR);
        assert_eq!(outbox.dropped(), 3);
    }

    #[tokio::test]
    async fn a_last_word_that_comes_after_the_connection_broke_inside_a_frame_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
        let (_read, write) = socket.split();
        let delivery = DeliveryContext::new(crate::config::Config::default().rules(), Arc::default());
        let outbox = Outbox::new(SessionMetrics::for_test("test"), ([127, 0, 0, 1], 1).into(), delivery.clone());
        let mut frame = BytesMut::new();
        let (ident, channel) = ("i".parse().unwrap(), "c".parse().unwrap());
        let publish = Frame::Publish { ident, channel, payload: vec![0; 16 << 20].into() };
        publish.encode(&mut frame, Limits::new(u32::MAX)).unwrap();
        let mut batch = FrameBatch::new(frame.freeze(), 1, 16 << 20);
        assert!(matches!(outbox.enqueue(&mut batch, Instant::now), EnqueueOutcome::Queued { .. }));
        let mut writer = Writer::new(write, outbox.clone());
        assert!(poll_fn(|cx| Poll::Ready(writer.poll_run(cx))).await.is_pending());
        assert!(writer.written > ERROR.len());
        // With bytes that it has not read: a reset.
        drop(client);
        assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Failed));
        outbox.close(Some(Bytes::from_static(ERROR)));
        assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Failed));
        assert_eq!(delivery.buffered.load(Relaxed), 0);
    }
}
