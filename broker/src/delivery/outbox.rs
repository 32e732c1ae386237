//! The outbox of one subscriber: a queue bounded in bytes, filled by publishers and emptied by a
//! writer.
//!
//! A publisher that finds more than the low mark queued waits, unless the subscriber is slow: see
//! [`slow_consumer`](super::slow_consumer) for the states. While the writer waits because of a rate
//! limit of the broker, or for CONSUMED that the broker does not read yet
//! ([`pause_for_rate_limit`](Outbox::pause_for_rate_limit)), publishers do not wait, and the subscriber is not slow: at its high mark it loses messages as a slow one does, but
//! it has no deadline.
//!
//! All connections of one ident and network together may hold publishers up for one window in ten
//! minutes (see [`SlowConsumerHistory`](super::slow_history::SlowConsumerHistory)): the time in
//! which publishers wait and the subscriber takes less than the floor rate. After that, a new
//! connection, or one that took too little itself, is slow as soon as publishers would have to wait
//! for it, until it has drained the floor rate for [two windows](super::policy::Rules::proof) while
//! they had more. For other connections publishers wait, but only for a quarter of a window
//! ([`slice`](super::policy::Rules::slice)) when these stop; and after half a window of that, not
//! at all.
//!
//! The price is paid by a healthy consumer that has ident and network in common with one that does
//! not read: it loses messages if its publishers outrun it by more than the high mark before it has
//! proved that it reads.

use std::{
    collections::VecDeque,
    fmt, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hpfeeds::wire::Ident;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    delivery::{
        batch::FrameBatch,
        context::DeliveryContext,
        queue::{OVERHEAD, QueuedBatch},
        slow_consumer::{ConsumerState, SlowConsumerDetector},
        state::{OutboxState, Pressure, Room},
        tally::Tally,
        withheld::Withheld,
    },
    metrics::session::SessionMetrics,
};

/// How many batches and bytes the writer takes at once, and at most one batch more. A batch that it
/// has taken can no longer be dropped as the oldest.
pub(super) const TAKE_BATCHES: usize = 64;
pub(super) const TAKE_BYTES: usize = 256 * 1024;

/// The outcome for a batch that was offered to an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum EnqueueOutcome {
    /// It is queued; `more` says whether there is room for another.
    Queued { more: bool },
    /// The subscriber keeps up, but has enough: offer it again when there is room, at the latest at
    /// this time.
    Wait(Instant),
    /// It is not queued and never will be: the subscriber is slow, which has been counted, or gone.
    Refused,
}

/// The queue of one subscriber. Publishers put batches in, the writer of its connection takes them
/// out.
pub(crate) struct Outbox {
    pub(super) session: SessionMetrics,
    pub(super) peer: SocketAddr,
    pub(super) delivery: Arc<DeliveryContext>,
    state: Mutex<OutboxState>,
    /// The connection's task, when it waits for something to write or for the deadline.
    pub(super) writer: AtomicWaker,
    /// Publishers that wait for room, first come, first served.
    room: Notify,
    /// The channels that the connection gets from its mailbox alone, where they are stored.
    withheld: ArcSwapOption<Vec<Withheld>>,
}

impl Outbox {
    pub(crate) fn new(session: SessionMetrics, peer: SocketAddr, delivery: Arc<DeliveryContext>) -> Arc<Self> {
        let mut state = OutboxState::default();
        let rules = &delivery.rules;
        if delivery.slow_history.used(session.ident(), peer.ip(), Instant::now()) >= rules.window {
            state.pressure().detector = SlowConsumerDetector::unproven(rules);
            info!(ident = session.ident().as_str(), %peer,
                "reconnecting slow consumer: publishers do not wait for it (probation)");
        }
        let (state, writer, room) = (Mutex::new(state), AtomicWaker::new(), Notify::const_new());
        Arc::new(Self { session, peer, delivery, state, writer, room, withheld: ArcSwapOption::empty() })
    }

    pub(crate) fn ident(&self) -> &Ident {
        self.session.ident()
    }

    /// The counters of the connection for the exporter.
    pub(crate) fn session(&self) -> &SessionMetrics {
        &self.session
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Queues a batch, or says what else to do with it. The clock is read only at a mark.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        batch: &mut FrameBatch<'_>,
        clock: impl FnOnce() -> Instant,
    ) -> EnqueueOutcome {
        let mut state = self.lock();
        // The connection is about to end.
        if state.closed {
            self.discard(batch);
            return EnqueueOutcome::Refused;
        }
        // The marks: of this queue, and of all queues together. The cost is at most this.
        let cost = batch.len() + OVERHEAD;
        let excess = self.delivery.excess(cost);
        let low = if excess > 0 { 0 } else { self.delivery.rules.low_mark };
        let mut unlisted = false;
        if state.queued > low || excess > 0 {
            // The rare case: wait, drop or borrow.
            let now = clock();
            match self.find_room(&mut state, cost, excess, low, now) {
                Room::Free => {}
                Room::Lent { unlisted: not } => unlisted = not,
                Room::AfterWait(until) => return EnqueueOutcome::Wait(until),
                Room::AfterCallIn => {
                    drop(state);
                    return EnqueueOutcome::Wait(self.delivery.call_in(now));
                }
                refused @ (Room::Exhausted | Room::None) => {
                    self.drop_messages(&mut state, &Tally::of(batch.channel_runs()), false, now);
                    drop(state);
                    if refused == Room::Exhausted {
                        self.delivery.call_in(now);
                    }
                    return EnqueueOutcome::Refused;
                }
            }
        }
        // Shared by reference if it is long, copied behind other short batches otherwise.
        let cost = state.queue.push(batch);
        // Its bytes and messages, in each of the books.
        state.queued += cost;
        self.session.queued(batch.len(), batch.payload);
        self.delivery.buffered.fetch_add(cost, Relaxed);
        self.delivery.counters.queued.add(batch.messages.into());
        let more = state.queued <= low || state.consumer() == ConsumerState::RateLimited;
        // A writer that has more to write looks here again by itself.
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

    /// Queues a batch as soon as there is room, after [`enqueue`](Self::enqueue) has said to wait.
    /// It takes no longer than the subscriber drains at the floor rate: publishers do not wait for
    /// one that drains less.
    ///
    /// When it is dropped before it returns, the batch has been neither queued nor counted.
    pub(crate) async fn enqueue_waiting(self: &Arc<Self>, batch: &mut FrameBatch<'_>, mut until: Instant) {
        let mut room = pin!(self.room.notified());
        loop {
            // Either there is room, or it is time to measure again: then its turn stays.
            if timeout_at(until, room.as_mut()).await.is_ok() {
                room.set(self.room.notified());
            }
            match self.enqueue(batch, Instant::now) {
                EnqueueOutcome::Wait(later) => until = later,
                // The next one has no reason to wait, either.
                EnqueueOutcome::Queued { more: true } | EnqueueOutcome::Refused => return self.room.notify_one(),
                EnqueueOutcome::Queued { more: false } => return,
            }
        }
    }

    /// The writer waits because of a limit of the broker, so the subscriber takes all that it is
    /// given: whatever it has been before, it is not slow, and publishers that wait for it wait no
    /// longer.
    pub(crate) fn pause_for_rate_limit(&self) {
        let mut state = self.lock();
        let pressure = state.pressure();
        pressure.detector.end_window(&self.delivery.rules, Instant::now());
        self.charge_wait(pressure);
        pressure.detector.state = ConsumerState::RateLimited;
        let recovered = pressure.deadline.take().is_some().then(|| pressure.drops.take_untold());
        drop(state);
        if let Some(untold) = recovered {
            self.log_recovery(untold);
        }
        self.release_publishers();
    }

    /// The writer waits for the subscriber again.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        if state.consumer() == ConsumerState::RateLimited {
            state.pressure().detector.state = ConsumerState::KeepingUp;
        }
    }

    /// Sets what the connection gets from its mailboxes alone.
    pub(crate) fn withhold(&self, withheld: Vec<Withheld>) {
        self.withheld.store((!withheld.is_empty()).then(|| Arc::new(withheld)));
    }

    /// Whether the connection gets some stored channels from its mailbox alone.
    pub(crate) fn withholds_any(&self) -> bool {
        self.withheld.load().is_some()
    }

    /// Whether it gets this channel from its mailbox alone, as far as that is stored.
    pub(crate) fn withholds(&self, channel: &str) -> bool {
        self.withheld.load().as_ref().is_some_and(|all| all.iter().any(|withheld| withheld.holds(channel)))
    }

    /// Has the connection's task woken up by [`wake`](Self::wake).
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }

    /// Wakes up the connection's task.
    pub(crate) fn wake(&self) {
        self.writer.wake();
    }

    /// Counts a batch that will not be queued because a connection ends.
    pub(crate) fn discard(&self, batch: &FrameBatch<'_>) {
        self.delivery.counters.discarded.add(batch.messages.into());
    }

    /// A publisher waits no longer to queue a batch, which is queued, dropped or discarded.
    pub(crate) fn decided(&self, batch: &FrameBatch<'_>) {
        self.delivery.counters.decided.add(batch.messages.into());
    }

    /// Moves queued batches, up to a limit, to the end of `taken`; `false` when the outbox is
    /// closed and empty.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, taken: &mut VecDeque<Bytes>) -> Poll<bool> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            if state.closed {
                return Poll::Ready(false);
            }
            // An idle connection keeps little memory, and is woken by the next batch.
            state.queue.shrink();
            state.idle = true;
            self.writer.register(cx.waker());
            return Poll::Pending;
        }
        // As much as one system call may write.
        let (mut bytes, mut messages) = (0, 0);
        while bytes < TAKE_BYTES
            && taken.len() < TAKE_BATCHES
            && let Some(batch) = state.queue.pop()
        {
            bytes += batch.frames.len();
            messages += u64::from(batch.messages);
            taken.push_back(batch.frames);
        }
        self.session.taken(messages);
        Poll::Ready(true)
    }

    /// Accounts for what the writer has written: bytes, and batches of which the last byte was
    /// among them. The clock is read only when a measurement may end.
    pub(crate) fn sent(&self, bytes: usize, batches: usize, clock: impl FnOnce() -> Instant) {
        let DeliveryContext { rules, counters, buffered, .. } = &*self.delivery;
        let cost = bytes + batches * OVERHEAD;
        // The books of all connections together, before the lock is taken.
        counters.sent_bytes.add(bytes as u64);
        let all = buffered.fetch_sub(cost, Relaxed);
        let low = if all > rules.max_buffered { 0 } else { rules.low_mark };
        let mut state = self.lock();
        self.session.sent(bytes);
        state.queued -= cost;
        let queued = state.queued;
        // As long as no publisher has found a backlog there is nothing to judge, and none waits.
        let Some(pressure) = &mut state.pressure else {
            return;
        };
        let recovered = pressure.on_sent(bytes, queued, rules, clock).then(|| pressure.drops.take_untold());
        self.charge_wait(pressure);
        drop(state);
        if let Some(untold) = recovered {
            self.log_recovery(untold);
        }
        if queued <= low {
            self.room.notify_one();
        }
    }

    /// Accounts for bytes of control frames, which are written without being queued here.
    pub(crate) fn sent_control(&self, bytes: usize) {
        self.delivery.counters.sent_bytes.add(bytes as u64);
        // Whose lock the counters are written under.
        let _state = self.lock();
        self.session.queued(bytes, 0);
        self.session.sent(bytes);
    }

    /// Accounts for bytes from a mailbox, which are written without being queued here, and for
    /// messages of which the last byte was among them.
    pub(crate) fn sent_mail(&self, bytes: usize, messages: u32) {
        self.delivery.counters.mailed.add(messages.into());
        self.sent_control(bytes);
    }

    /// Ready when the subscriber has been slow for too long, or its loan is called in. Otherwise
    /// the task is woken when there is a deadline to wait for, or when it has passed.
    pub(crate) fn poll_deadline(&self, cx: &mut Context<'_>, timer: &mut Option<Pin<Box<Sleep>>>) -> Poll<()> {
        self.writer.register(cx.waker());
        let deadline = match &self.lock().pressure {
            Some(pressure) if pressure.is_called_in() => return Poll::Ready(()),
            Some(pressure) => pressure.deadline,
            None => None,
        };
        let Some(deadline) = deadline else {
            *timer = None;
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// For how long a slow subscriber may stay at its high mark.
    pub(crate) fn slow_deadline(&self) -> Duration {
        self.delivery.rules.deadline
    }

    /// Queues a frame of the broker itself behind the queue.
    pub(crate) fn say(&self, frame: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            self.push_own(&mut state, frame.into());
            drop(state);
            self.writer.wake();
        }
    }

    /// Queues a message, whatever is queued already. The caller bounds how many there are. Only for the
    /// task of the connection.
    pub(crate) fn push_message(&self, frame: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            self.push_own(&mut state, QueuedBatch::message(frame));
            self.session.copied(1);
            self.delivery.counters.queued.add(1);
            drop(state);
            self.writer.wake();
        }
    }

    fn push_own(&self, state: &mut OutboxState, batch: QueuedBatch) {
        self.session.queued(batch.frames.len(), 0);
        let cost = state.queue.push_alone(batch);
        state.queued += cost;
        self.delivery.buffered.fetch_add(cost, Relaxed);
    }

    /// Takes nothing more from publishers. The queue can still be written, and then, if given, one
    /// last frame.
    pub(crate) fn close(&self, last: Option<Bytes>) {
        let now = Instant::now();
        let mut state = self.lock();
        let was_closed = mem::replace(&mut state.closed, true);
        let queued = state.queued;
        if let Some(pressure) = &mut state.pressure {
            if !was_closed {
                if pressure.detector.state == ConsumerState::Slow && queued > self.delivery.rules.low_mark {
                    self.exhaust(now);
                }
                pressure.detector.end_window(&self.delivery.rules, now);
                self.charge_wait(pressure);
            }
            pressure.deadline = None;
        }
        if let Some(last) = last {
            self.push_own(&mut state, last.into());
        }
        drop(state);
        self.writer.wake();
        self.release_publishers();
    }

    /// Publishers that wait for room look at the outbox again, each of them.
    fn release_publishers(&self) {
        self.room.notify_waiters();
        // Also one that has been told to wait, but does not yet.
        self.room.notify_one();
    }

    /// How many messages it has dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().pressure.as_ref().map_or(0, |pressure| pressure.drops.total)
    }

    /// Charges the subscriber with the time in which publishers have waited for it in vain.
    pub(super) fn charge_wait(&self, pressure: &mut Pressure) {
        if let Some(time) = pressure.detector.take_uncharged() {
            self.delivery.slow_history.charge(self.ident(), self.peer.ip(), time);
        }
    }

    /// The subscriber was slow to the end: publishers do not wait for its next connections for a
    /// while.
    pub(super) fn exhaust(&self, now: Instant) {
        self.delivery.slow_history.exhaust(self.ident(), self.peer.ip(), self.delivery.rules.window, now);
    }

    pub(super) fn unqueue(&self, state: &mut OutboxState, bytes: usize, batches: usize) {
        let cost = bytes + batches * OVERHEAD;
        self.session.unqueued(bytes);
        state.queued -= cost;
        self.delivery.buffered.fetch_sub(cost, Relaxed);
    }

    /// Counts messages that a slow subscriber does not get, and logs that now and then.
    pub(super) fn drop_messages(&self, state: &mut OutboxState, tally: &Tally<'_>, was_queued: bool, now: Instant) {
        let Some(channel) = tally.last else {
            return;
        };
        let messages = tally.messages;
        self.delivery.counters.drops.add(self.ident(), tally.channels());
        self.session.dropped(messages);
        if was_queued {
            self.delivery.counters.unqueued.add(messages);
        }
        let Pressure { drops, detector, .. } = state.pressure();
        // All outboxes share them.
        if let Some(untold) = drops.tell(messages, now) {
            self.delivery.incidents.dropped(self.ident(), self.peer.ip(), Some(channel), untold, now);
        }
        if let Some(dropped) = drops.count(messages, now) {
            warn!(ident = self.ident().as_str(), peer = %self.peer, channel, dropped, total = drops.total,
                consumer = ?detector.state, "messages dropped for a slow subscriber");
        }
    }

    /// `untold` are drops that the incidents have not been told of.
    pub(super) fn log_recovery(&self, untold: u64) {
        self.session.recovered();
        self.delivery.incidents.dropped(self.ident(), self.peer.ip(), None, untold, Instant::now());
        info!(ident = self.ident().as_str(), peer = %self.peer, "slow subscriber has recovered");
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // The queue that an aborted task has left behind.
        let state = self.state.get_mut();
        let left = state.queued;
        let untold = state.pressure.as_mut().map_or(0, |pressure| pressure.drops.take_untold());
        self.delivery.buffered.fetch_sub(left, Relaxed);
        self.delivery.incidents.dropped(self.ident(), self.peer.ip(), None, untold, Instant::now());
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("ident", self.ident()).field("peer", &self.peer).finish_non_exhaustive()
    }
}
