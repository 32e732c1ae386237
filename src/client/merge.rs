//! Several sessions merged into one stream.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use futures::{Stream, future::join_all, stream::FusedStream};
use parking_lot::Mutex;
use tokio::{task::coop, time::Instant};

use super::{
    error::Error,
    session::{ClientSession, Message},
};

/// How long a session goes on while it has more. One connection that is read for longer is cheaper
/// than several in turns: its peer is woken up less often.
const TIME_SLICE: Duration = Duration::from_millis(2);

/// Receives from several sessions at once: a stream of messages, each with the index of the session
/// that it came from.
///
/// It does what [`select_all`](futures::stream::select_all()) does, for less: that moves a session
/// to the end of its queue, and allocates, for each message; this stays with a session while it has
/// more, for up to two milliseconds and then to the end of what one read of its socket brought (256
/// KiB, or one larger message). So a program that takes its time for each message gets that much of
/// one session before the next. Only sessions with something to read are looked at.
///
/// The messages of one session stay in order. The stream ends when all sessions have ended, and
/// goes on without those that end sooner. Cancel safe, as a session is.
///
/// A program that can take many messages at a time pays no more with `select_all` over chunks:
/// `select_all(sessions.into_iter().map(|session| session.ready_chunks(64)))`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (one, two) = (hpfeeds_broker::Broker::dev().await?, hpfeeds_broker::Broker::dev().await?);
/// # let addrs = [one.local_addr(), two.local_addr()];
/// use futures::StreamExt as _;
/// use hpfeeds::{ClientSession, merge};
///
/// let mut sessions = Vec::new();
/// for addr in addrs {
///     let session = ClientSession::connect(addr, "dev", "dev").await?;
///     session.subscribe("cowrie.sessions")?;
///     session.publish("cowrie.sessions", "to whom it may concern").await?;
///     sessions.push(session);
/// }
/// let mut merged = merge(sessions);
/// while let Some((index, (ident, channel, payload))) = merged.next().await {
///     let broker = merged.sessions()[index].addr();
///     println!("{broker}: {ident} on {channel}: {} bytes", payload.len());
///     # break;
/// }
/// # Ok(()) }
/// ```
#[must_use = "a stream does nothing until it is polled"]
pub fn merge(sessions: impl IntoIterator<Item = ClientSession>) -> Merged {
    let mut merged = Merged::default();
    for session in sessions {
        merged.push(session);
    }
    merged
}

/// Several sessions as one stream. Made by [`merge`].
#[derive(Debug, Default)]
#[must_use = "a stream does nothing until it is polled"]
pub struct Merged {
    sessions: Vec<ClientSession>,
    /// Each wakes up this stream and remembers the session that it belongs to.
    wakers: Vec<Waker>,
    ready: Arc<Mutex<Ready>>,
    /// The session whose turn it is, and since when.
    current: Option<(usize, Instant)>,
    /// How many sessions have not ended.
    live: usize,
}

impl Merged {
    /// Adds a session; its index is the number of those before it.
    pub fn push(&mut self, session: ClientSession) {
        let index = self.sessions.len();
        self.sessions.push(session);
        self.wakers.push(Arc::new(Member { index, ready: self.ready.clone() }).into());
        self.live += usize::from(!self.sessions[index].is_terminated());
        self.ready.lock().queued.push(false);
        self.wakers[index].wake_by_ref();
    }

    /// The sessions, in the order in which they were added; also those that have ended. To
    /// subscribe, to publish, to see their state.
    #[must_use]
    pub fn sessions(&self) -> &[ClientSession] {
        &self.sessions
    }

    /// The sessions, one by one again. Nothing is lost: what was not taken from the stream can be
    /// read from them.
    #[must_use]
    pub fn into_sessions(self) -> Vec<ClientSession> {
        self.sessions
    }

    /// [Closes](ClientSession::close) all sessions at the same time, and returns the first error of
    /// the first session that has one. Messages that were already received can still be read.
    /// Cancel safe, as closing one is.
    pub async fn close(&mut self) -> Result<(), Error> {
        join_all(self.sessions.iter_mut().map(ClientSession::close)).await.into_iter().collect()
    }
}

impl Stream for Merged {
    type Item = (usize, Message);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(usize, Message)>> {
        let this = &mut *self;
        loop {
            let Some((index, since)) = this.current else {
                let Some(index) = this.ready.lock().pop(cx) else {
                    return if this.live == 0 { Poll::Ready(None) } else { Poll::Pending };
                };
                if !this.sessions[index].is_terminated() {
                    this.current = Some((index, Instant::now()));
                }
                continue;
            };
            let session = &mut this.sessions[index];
            if let Some(message) = session.next_in_batch() {
                return Poll::Ready(Some((index, message)));
            }
            // With the budget used up, a session wakes itself up at once: asked again and again
            // here, it would never have anything. The runtime gives a new budget to those that
            // return. Nothing is taken from it here.
            drop(ready!(coop::poll_proceed(cx)));
            match session.poll_batch(&mut Context::from_waker(&this.wakers[index])) {
                Poll::Ready(true) if since.elapsed() >= TIME_SLICE => {
                    // It keeps this batch for when it is its turn again.
                    this.ready.lock().push(index);
                    this.current = None;
                }
                Poll::Ready(true) => {}
                Poll::Ready(false) => (this.current, this.live) = (None, this.live - 1),
                Poll::Pending => this.current = None,
            }
        }
    }
}

impl FusedStream for Merged {
    fn is_terminated(&self) -> bool {
        self.live == 0
    }
}

/// The sessions that may have something, in the order in which it came.
#[derive(Debug, Default)]
struct Ready {
    queue: VecDeque<usize>,
    /// For each session, whether it is in the queue: so the queue is never longer than there are
    /// sessions.
    queued: Vec<bool>,
    /// The reader that waits while the queue is empty.
    waiting: Option<Waker>,
}

impl Ready {
    fn push(&mut self, index: usize) {
        if !std::mem::replace(&mut self.queued[index], true) {
            self.queue.push_back(index);
        }
    }

    /// The next session; without one, `cx` is woken when there is.
    fn pop(&mut self, cx: &mut Context<'_>) -> Option<usize> {
        if let Some(index) = self.queue.pop_front() {
            self.queued[index] = false;
            return Some(index);
        }
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            waiting => *waiting = Some(cx.waker().clone()),
        }
        None
    }
}

/// Wakes up the stream for one of its sessions.
struct Member {
    index: usize,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.ready.lock();
        ready.push(self.index);
        let waiting = ready.waiting.take();
        drop(ready);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::io;

    use bytes::BytesMut;
    use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};

    use super::*;
    use crate::{
        BrokerAddr, Connector, Transport,
        wire::{Channel, Ident, Limits, encode_publish},
    };

    /// No broker ever answers: what is received comes from the test.
    struct Nowhere;

    impl Connector for Nowhere {
        fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
            Box::pin(std::future::pending())
        }
    }

    fn session() -> ClientSession {
        ClientSession::builder(("nowhere", 1), "me", "secret").connector(Nowhere).start().unwrap()
    }

    /// A batch of messages with these payloads.
    fn batch(payloads: &[&str]) -> BytesMut {
        let mut bytes = BytesMut::new();
        let (ident, channel) = (Ident::new("me").unwrap(), Channel::new("a").unwrap());
        for payload in payloads {
            encode_publish(&mut bytes, Limits::default(), &ident, &channel, payload.as_bytes()).unwrap();
        }
        bytes
    }

    /// The messages that can be taken without waiting.
    fn taken(merged: &mut Merged) -> Vec<String> {
        let mut taken = Vec::new();
        while let Some(Some((index, (_, _, payload)))) = merged.next().now_or_never() {
            taken.push(format!("{index}{}", str::from_utf8(&payload).unwrap()));
        }
        taken
    }

    #[tokio::test]
    async fn a_batch_that_has_been_read_keeps_no_memory() {
        let mut session = session();
        let mut memory = BytesMut::with_capacity(4096);
        let room = memory.capacity();
        memory.extend_from_slice(&batch(&["a", "b"]));
        session.shared().inbox.push(memory.split());
        for _ in 0..2 {
            assert!(!memory.try_reclaim(room));
            let message = session.next().await.unwrap();
            assert!(!memory.try_reclaim(room));
            drop(message);
        }
        assert!(memory.try_reclaim(room));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_take_turns_and_keep_their_order() {
        let mut merged = merge([session(), session(), session()]);
        let shared: Vec<_> = merged.sessions().iter().map(|session| session.shared().clone()).collect();
        shared[0].inbox.push(batch(&["a", "b"]));
        shared[0].inbox.push(batch(&["c"]));
        shared[0].inbox.push(batch(&["d"]));
        shared[2].inbox.push(batch(&["e", "f"]));
        assert_eq!(merged.next().await.unwrap().1.2, "a");
        // A time slice ends between batches, and only then.
        tokio::time::advance(TIME_SLICE / 2).await;
        assert_eq!(merged.next().await.unwrap().1.2, "b");
        assert_eq!(merged.next().await.unwrap().1.2, "c");
        tokio::time::advance(TIME_SLICE / 2).await;
        assert_eq!(taken(&mut merged), ["2e", "2f", "0d"]);
        // Sessions that had nothing are woken up by what comes.
        shared[1].inbox.push(batch(&["g"]));
        assert_eq!(taken(&mut merged), ["1g"]);
        merged.push(session());
        merged.sessions()[3].shared().inbox.push(batch(&["h"]));
        assert_eq!(taken(&mut merged), ["3h"]);
    }

    #[tokio::test]
    async fn a_message_that_comes_later_wakes_up_the_waiting_reader() {
        let mut merged = merge([session(), session()]);
        let late = merged.sessions()[1].shared().clone();
        let waiting = tokio::spawn(async move { merged.next().await.map(|(index, _)| index) });
        tokio::task::yield_now().await;
        late.inbox.push(batch(&["a"]));
        assert_eq!(waiting.await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn merged_stream_ends_with_the_last_session_and_not_before() {
        let mut merged = merge([session(), session()]);
        let shared: Vec<_> = merged.sessions().iter().map(|session| session.shared().clone()).collect();
        shared[0].inbox.end();
        shared[1].inbox.push(batch(&["a"]));
        assert_eq!(taken(&mut merged), ["1a"]);
        assert!(merged.next().now_or_never().is_none() && !merged.is_terminated());
        shared[1].inbox.push(batch(&["b", "c"]));
        shared[1].inbox.end();
        assert_eq!(taken(&mut merged), ["1b", "1c"]);
        assert!(merged.next().await.is_none() && merged.is_terminated());
        assert!(merge([]).next().await.is_none());
    }

    #[tokio::test]
    async fn untaken_messages_are_left_to_the_sessions() {
        let mut merged = merge([session()]);
        merged.sessions()[0].shared().inbox.push(batch(&["a", "b"]));
        merged.next().await.unwrap();
        let mut sessions = merged.into_sessions();
        assert_eq!(sessions[0].next().await.unwrap().2, "b");
    }

    #[tokio::test]
    async fn closing_closes_all() {
        let mut merged = merge([session(), session()]);
        merged.close().await.unwrap();
        assert!(merged.next().await.is_none());
    }

    #[tokio::test]
    async fn a_queue_that_is_always_full_lets_others_run() {
        let mut merged = merge([session()]);
        let shared = merged.sessions()[0].shared().clone();
        for _ in 0..1000 {
            shared.inbox.push(batch(&["a"]));
        }
        // Without the runtime's budget this would take all of them.
        assert!(taken(&mut merged).len() < 1000);
    }
}
