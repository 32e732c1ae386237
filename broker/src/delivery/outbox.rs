//! The bounded queue of one subscriber, and what happens when it is full.
//!
//! ```text
//!            above the low mark               under the floor rate
//!            for a publisher                  for a window
//!  flowing ────────────────────▶ pressed ─────────────────────▶ slow ──▶ high mark: policy
//!     ▲     publishers wait       │   ▲      nobody waits       │ │
//!     └──────── empty ────────────┘   └─ the floor rate for a ──┘ │
//!     │                                  window, or more          │
//!     └──────────────────────── at or below the low mark ─────────┘
//! ```
//!
//! While its writer waits because of our own limit ([`pause_for_rate_limit`](Outbox::pause_for_rate_limit)), it is none of these: nobody waits for it,
//! and it is not slow. At its high mark it loses messages as a slow one does, but it has no deadline.
//!
//! All connections of one ident and address together may hold publishers up for one window in ten minutes (see
//! [`SlowConsumerHistory`](super::slow_history::SlowConsumerHistory)): the time in which publishers wait and the subscriber takes less than the floor rate. After that, a new
//! connection, or one that took too little itself, is slow as soon as publishers would have to wait for it, until it has
//! drained the floor rate for [two windows](super::context::Rules::proof) while they had more. Others are waited for, but only for a quarter
//! of a window ([`slice`](super::context::Rules::slice)) when they stop; and after half a window of that, nobody waits.
//!
//! The price is paid by a healthy consumer that has ident and address in common with one that does not read: it loses
//! messages if its publishers outrun it by more than the high mark before it has shown that it reads.

use std::{
    collections::VecDeque,
    fmt, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use hpfeeds::wire::Ident;
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    delivery::{
        batch::FrameBatch,
        context::DeliveryContext,
        policy::Room,
        queue::OVERHEAD,
        reserve::Lent,
        slow_consumer::{ConsumerState, State},
        tally::Tally,
    },
    metrics::session::SessionMetrics,
};

/// How much the writer takes at once. What it has taken can no longer be dropped as the oldest.
pub(super) const TAKE_PIECES: usize = 64;
pub(super) const TAKE_BYTES: usize = 256 * 1024;

/// What became of a run that was offered to an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum EnqueueOutcome {
    /// It is queued; `more` says whether there is room for another.
    Queued { more: bool },
    /// The subscriber keeps up, but has enough: offer it again when there is room, at the latest at this time.
    Wait(Instant),
    /// It is not queued and never will be: the subscriber is slow, which has been counted, or gone.
    Refused,
}

/// The queue of one subscriber. Publishers put runs in, its connection's writer takes
/// them out.
pub(crate) struct Outbox {
    pub(super) session: SessionMetrics,
    pub(super) peer: SocketAddr,
    pub(super) delivery: Arc<DeliveryContext>,
    pub(super) state: Mutex<State>,
    /// The connection's task, when it waits for something to write or for the deadline.
    pub(super) writer: AtomicWaker,
    /// Publishers that wait for room, first come, first served.
    pub(super) room: Notify,
}

impl Outbox {
    pub(crate) fn new(session: SessionMetrics, peer: SocketAddr, delivery: Arc<DeliveryContext>) -> Arc<Self> {
        let rules = &delivery.rules;
        let is_known = delivery.slow_history.used(session.ident(), peer.ip(), Instant::now()) >= rules.window;
        if is_known {
            info!(ident = session.ident().as_str(), %peer, "was slow before: nobody waits for it until it has read for a while");
        }
        let proof = if is_known { Duration::ZERO } else { rules.proof() };
        let state = State { proof, ..State::default() };
        let (state, writer, room) = (Mutex::new(state), AtomicWaker::new(), Notify::const_new());
        Arc::new(Self { session, peer, delivery, state, writer, room })
    }

    pub(crate) fn ident(&self) -> &Ident {
        self.session.ident()
    }

    /// What is counted for the exporter.
    pub(crate) fn session(&self) -> &SessionMetrics {
        &self.session
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Queues a run, or says what else to do with it. The time is asked for only when it matters.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        run: &mut FrameBatch<'_>,
        clock: impl FnOnce() -> Instant,
    ) -> EnqueueOutcome {
        let mut state = self.lock();
        if state.closed {
            self.discard(run);
            return EnqueueOutcome::Refused;
        }
        let rules = &self.delivery.rules;
        // At the most.
        let cost = run.len() + OVERHEAD;
        let excess = self.delivery.excess(cost);
        let low = if excess > 0 { 0 } else { rules.low_mark };
        let mut unlisted = false;
        if state.queued > low || excess > 0 {
            let now = clock();
            let pressed = state.queued > low && state.consumer != ConsumerState::RateLimited;
            if pressed && let Some(until) = self.on_backlog(&mut state, now) {
                return EnqueueOutcome::Wait(until);
            }
            let lent = match self.make_room(&mut state, cost, excess, now) {
                Room::Enough => Lent::Yes { unlisted: false },
                Room::None => Lent::No,
                Room::Empty => self.lend(&mut state, cost, now),
            };
            match lent {
                Lent::Yes { unlisted: not } => unlisted = not,
                Lent::Wait => {
                    drop(state);
                    return EnqueueOutcome::Wait(self.delivery.call_in(now));
                }
                refused @ (Lent::Full | Lent::No) => {
                    self.drop_messages(&mut state, &Tally::of(run.contents()), false, now);
                    drop(state);
                    if refused == Lent::Full {
                        self.delivery.call_in(now);
                    }
                    return EnqueueOutcome::Refused;
                }
            }
        }
        let cost = state.queue.push(run);
        state.queued += cost;
        self.session.queued(run.len(), run.payload);
        self.delivery.buffered.fetch_add(cost, Relaxed);
        self.delivery.counters.queued.add(run.messages.into());
        let more = state.queued <= low || state.consumer == ConsumerState::RateLimited;
        let wake = mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.writer.wake();
        }
        if unlisted {
            self.list();
        }
        EnqueueOutcome::Queued { more }
    }

    /// Queues a run as soon as there is room, after [`enqueue`](Self::enqueue) has said to wait. It takes no longer than
    /// the subscriber drains at the floor rate: once that is no longer so, nobody waits.
    ///
    /// When it is dropped before it returns, the run has been neither queued nor counted.
    pub(crate) async fn enqueue_waiting(self: &Arc<Self>, run: &mut FrameBatch<'_>, mut until: Instant) {
        let mut room = pin!(self.room.notified());
        loop {
            // Either there is room, or it is time to measure again: then its turn stays.
            if timeout_at(until, room.as_mut()).await.is_ok() {
                room.set(self.room.notified());
            }
            match self.enqueue(run, Instant::now) {
                EnqueueOutcome::Wait(later) => until = later,
                // The next one has no reason to wait, either.
                EnqueueOutcome::Queued { more: true } | EnqueueOutcome::Refused => return self.room.notify_one(),
                EnqueueOutcome::Queued { more: false } => return,
            }
        }
    }

    /// The writer waits because of a limit of ours, so the subscriber takes all that it is given: whatever it has been
    /// before, it is not slow, and publishers that wait for it wait no longer.
    pub(crate) fn pause_for_rate_limit(&self) {
        let mut state = self.lock();
        if state.window.is_some() {
            state.end_window(&self.delivery.rules, Instant::now());
            self.settle(&mut state);
        }
        state.consumer = ConsumerState::RateLimited;
        let recovered = state.deadline.take().is_some();
        drop(state);
        if recovered {
            self.log_recovery();
        }
        self.room.notify_waiters();
        // And whoever has been told to wait, but does not yet.
        self.room.notify_one();
    }

    /// The writer waits for the subscriber again.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        if state.consumer == ConsumerState::RateLimited {
            state.consumer = ConsumerState::KeepingUp;
        }
    }

    /// Has the connection's task woken up by [`wake`](Self::wake).
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }

    /// Wakes up the connection's task.
    pub(crate) fn wake(&self) {
        self.writer.wake();
    }

    /// Counts a run that will not be queued because a connection ends.
    pub(crate) fn discard(&self, run: &FrameBatch<'_>) {
        self.delivery.counters.discarded.add(run.messages.into());
    }

    /// Moves what is queued, up to a limit, to the end of `batch`; `false` when the outbox is closed and empty.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut VecDeque<Bytes>) -> Poll<bool> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            if state.closed {
                return Poll::Ready(false);
            }
            state.queue.shrink();
            state.idle = true;
            self.writer.register(cx.waker());
            return Poll::Pending;
        }
        let mut bytes = 0;
        while bytes < TAKE_BYTES
            && batch.len() < TAKE_PIECES
            && let Some(piece) = state.queue.pop()
        {
            bytes += piece.frames.len();
            batch.push_back(piece.frames);
        }
        Poll::Ready(true)
    }

    /// Accounts for what the writer has written: bytes, and pieces of which the last byte was among them. The time is
    /// asked for only when it matters.
    pub(crate) fn sent(&self, bytes: usize, pieces: usize, clock: impl FnOnce() -> Instant) {
        let rules = &self.delivery.rules;
        self.delivery.counters.sent_bytes.add(bytes as u64);
        let buffered = self.delivery.buffered.fetch_sub(bytes + pieces * OVERHEAD, Relaxed);
        let low = if buffered > rules.max_buffered { 0 } else { rules.low_mark };
        let mut state = self.lock();
        self.session.sent(bytes);
        let last = state.window.is_some() && state.queued == bytes + pieces * OVERHEAD;
        let now = (last || state.consumer == ConsumerState::Slow).then(clock);
        let recovered = state.sent(bytes, pieces, rules, now);
        self.settle(&mut state);
        let room = state.queued <= low;
        drop(state);
        if recovered {
            self.log_recovery();
        }
        if room {
            self.room.notify_one();
        }
    }

    /// Ready when the subscriber has been slow for too long, or is called in. Otherwise the task is woken when there is a
    /// deadline to wait for, or when it has passed.
    pub(crate) fn poll_deadline(&self, cx: &mut Context<'_>, timer: &mut Option<Pin<Box<Sleep>>>) -> Poll<()> {
        self.writer.register(cx.waker());
        if self.is_called_in() {
            return Poll::Ready(());
        }
        let Some(deadline) = self.lock().deadline else {
            *timer = None;
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// Queues a frame of the broker itself behind what is there.
    pub(crate) fn say(&self, frame: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            self.push_own(&mut state, frame);
            drop(state);
            self.writer.wake();
        }
    }

    fn push_own(&self, state: &mut State, frame: Bytes) {
        self.session.queued(frame.len(), 0);
        let cost = state.queue.push_alone(frame.into());
        state.queued += cost;
        self.delivery.buffered.fetch_add(cost, Relaxed);
    }

    /// Takes nothing more from publishers. What is queued can still be written, and then, if given, one last frame.
    pub(crate) fn close(&self, last: Option<Bytes>) {
        let now = Instant::now();
        let mut state = self.lock();
        if !mem::replace(&mut state.closed, true) {
            if state.consumer == ConsumerState::Slow && state.queued > self.delivery.rules.low_mark {
                self.exhaust(now);
            }
            state.end_window(&self.delivery.rules, now);
            self.settle(&mut state);
        }
        state.deadline = None;
        if let Some(last) = last {
            self.push_own(&mut state, last);
        }
        drop(state);
        self.writer.wake();
        self.room.notify_waiters();
        // And whoever has been told to wait, but does not yet.
        self.room.notify_one();
    }

    /// How many messages it has dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().drops.total
    }

    /// A publisher finds more than the low mark queued: until when it has to wait, or `None` when the subscriber is
    /// slow.
    fn on_backlog(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let rules = &self.delivery.rules;
        if state.measure(rules, now) {
            self.log_recovery();
        }
        let until = state.on_backlog(rules, now, || self.delivery.slow_history.used(self.ident(), self.peer.ip(), now));
        self.settle(state);
        until
    }

    /// Charges it with the time in which publishers have waited for it in vain.
    pub(super) fn settle(&self, state: &mut State) {
        if let Some(time) = state.in_vain.take() {
            self.delivery.slow_history.charge(self.ident(), self.peer.ip(), time);
        }
    }

    /// It was slow to the end: nobody waits for the next ones for a while.
    pub(super) fn exhaust(&self, now: Instant) {
        self.delivery.slow_history.exhaust(self.ident(), self.peer.ip(), self.delivery.rules.window, now);
    }

    pub(super) fn unqueue(&self, state: &mut State, bytes: usize, pieces: usize) {
        let cost = bytes + pieces * OVERHEAD;
        self.session.unqueued(bytes);
        state.queued -= cost;
        self.delivery.buffered.fetch_sub(cost, Relaxed);
    }

    /// Counts messages that a slow subscriber does not get, and logs that now and then.
    pub(super) fn drop_messages(&self, state: &mut State, tally: &Tally<'_>, was_queued: bool, now: Instant) {
        let Some(channel) = tally.last else {
            return;
        };
        let messages = tally.messages;
        self.delivery.counters.drops.add(self.ident(), tally.channels());
        self.session.dropped(messages);
        if was_queued {
            self.delivery.counters.unqueued.add(messages);
        }
        if let Some(dropped) = state.drops.count(messages, now) {
            warn!(ident = self.ident().as_str(), peer = %self.peer, channel, dropped, total = state.drops.total,
                consumer = ?state.consumer, "messages dropped for a slow subscriber");
        }
    }

    fn log_recovery(&self) {
        self.session.recovered();
        info!(ident = self.ident().as_str(), peer = %self.peer, "slow subscriber has recovered");
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // What a task that was aborted has left behind.
        let left = self.lock().queued;
        self.delivery.buffered.fetch_sub(left, Relaxed);
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("ident", self.ident()).field("peer", &self.peer).finish_non_exhaustive()
    }
}
