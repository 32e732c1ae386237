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
//! While its writer waits because of our own limit ([`hold`](Outbox::hold)), it is none of these: nobody waits for it,
//! and it is not slow. At its high mark it loses messages as a slow one does, but it has no deadline.
//!
//! Who was slow before, or left again and again before it was found slow, begins on [`Probation`]: as if slow, until it has
//! shown that it reads (see `Trial`). Otherwise one that never reads would hold its publishers up for a window or two each
//! time that it comes back. The price is paid by a healthy consumer that has ident and address in common with such a one: it
//! loses messages if its publishers outrun it by more than the high mark before it has shown that it reads.

use std::{
    collections::VecDeque,
    fmt, mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures::task::AtomicWaker;
use hpfeeds::wire::Ident;
use smallvec::SmallVec;
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    SlowPolicy,
    metrics::{Category, Session},
    probation::Probation,
    scan,
    stats::Counters,
};
use pace::{Pace, State, Trial, Window};
use queue::Piece;
pub(crate) use run::Run;

mod pace;
mod queue;
mod run;

/// What a queued piece of memory takes besides its bytes: its place in the queue and its allocation.
const OVERHEAD: usize = 128;

/// How much the writer takes at once. What it has taken can no longer be dropped as the oldest.
const TAKE_PIECES: usize = 64;
const TAKE_BYTES: usize = 256 * 1024;

/// The marks and policy of every outbox. See [`BrokerBuilder`](crate::BrokerBuilder).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) low_mark: usize,
    pub(crate) high_mark: usize,
    pub(crate) floor_rate: usize,
    /// Over which time the rate of a subscriber is measured.
    pub(crate) window: Duration,
    pub(crate) policy: SlowPolicy,
    pub(crate) deadline: Duration,
    pub(crate) max_buffered: usize,
}

/// What all outboxes of a broker have in common.
#[derive(Debug)]
pub(crate) struct Depot {
    pub(crate) rules: Rules,
    /// What is queued in all of them, with overhead.
    pub(crate) buffered: AtomicUsize,
    pub(crate) counters: Counters,
    /// Who has been slow lately.
    pub(crate) probation: Probation,
}

impl Depot {
    pub(crate) fn new(rules: Rules) -> Arc<Self> {
        let (buffered, counters, probation) = (AtomicUsize::new(0), Counters::default(), Probation::default());
        Arc::new(Self { rules, buffered, counters, probation })
    }
}

/// What became of a run that was offered to an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Offer {
    /// It is queued; `more` says whether there is room for another.
    Queued { more: bool },
    /// The subscriber keeps up, but has enough: offer it again when there is room, at the latest at this time.
    Wait(Instant),
    /// It is not queued and never will be: the subscriber is slow, which has been counted, or gone.
    Refused,
}

/// The queue of one subscriber. Publishers put runs in, its connection's [`Writer`](crate::writer::Writer) takes
/// them out.
pub(crate) struct Outbox {
    session: Session,
    peer: SocketAddr,
    depot: Arc<Depot>,
    state: Mutex<State>,
    /// The connection's task, when it waits for something to write or for the deadline.
    writer: AtomicWaker,
    /// Publishers that wait for room, first come, first served.
    room: Notify,
}

impl Outbox {
    pub(crate) fn new(session: Session, peer: SocketAddr, depot: Arc<Depot>) -> Arc<Self> {
        let mut state = State::default();
        let now = Instant::now();
        if depot.probation.holds(session.ident(), peer.ip(), depot.rules.window, now) {
            (state.pace, state.trial) = (Pace::Slow, Some(Trial::new(now)));
            info!(ident = session.ident().as_str(), %peer, "was slow before: nobody waits for it until it has read for a while");
        }
        let (state, writer, room) = (Mutex::new(state), AtomicWaker::new(), Notify::const_new());
        Arc::new(Self { session, peer, depot, state, writer, room })
    }

    pub(crate) fn ident(&self) -> &Ident {
        self.session.ident()
    }

    /// What is counted for the exporter.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Queues a run, or says what else to do with it. The time is asked for only when it matters.
    pub(crate) fn offer(&self, run: &mut Run<'_>, clock: impl FnOnce() -> Instant) -> Offer {
        let mut state = self.lock();
        if state.closed {
            self.discard(run);
            return Offer::Refused;
        }
        let rules = &self.depot.rules;
        // At the most.
        let cost = run.len() + OVERHEAD;
        let crowded = self.depot.buffered.load(Relaxed) + cost > rules.max_buffered;
        let low = if crowded { 0 } else { rules.low_mark };
        if state.queued > low {
            let now = clock();
            if state.pace != Pace::Held
                && let Some(until) = self.press(&mut state, now)
            {
                return Offer::Wait(until);
            }
            let high = if crowded { 0 } else { rules.high_mark };
            if state.queued + cost > high && !self.make_room(&mut state, cost, high, now) {
                self.drop_messages(&mut state, run.contents(), false, now);
                return Offer::Refused;
            }
        }
        let cost = state.queue.push(run);
        state.queued += cost;
        self.session.queued(run.len(), run.payload);
        self.depot.buffered.fetch_add(cost, Relaxed);
        self.depot.counters.queued.add(run.messages.into());
        let more = state.queued <= low || state.pace == Pace::Held;
        let wake = mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.writer.wake();
        }
        Offer::Queued { more }
    }

    /// Queues a run as soon as there is room, after [`offer`](Self::offer) has said to wait. It takes no longer than
    /// the subscriber drains at the floor rate: once that is no longer so, nobody waits.
    ///
    /// When it is dropped before it returns, the run has been neither queued nor counted.
    pub(crate) async fn offer_waiting(&self, run: &mut Run<'_>, mut until: Instant) {
        loop {
            // Either there is room, or it is time to measure again.
            let _ = timeout_at(until, self.room.notified()).await;
            match self.offer(run, Instant::now) {
                Offer::Wait(later) => until = later,
                // The next one has no reason to wait, either.
                Offer::Queued { more: true } | Offer::Refused => return self.room.notify_one(),
                Offer::Queued { more: false } => return,
            }
        }
    }

    /// The writer waits because of a limit of ours, so the subscriber takes all that it is given: whatever it has been
    /// before, it is not slow, and publishers that wait for it wait no longer.
    pub(crate) fn hold(&self) {
        let mut state = self.lock();
        (state.window, state.pace) = (None, Pace::Held);
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
    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        if state.pace == Pace::Held {
            state.pace = if state.trial.is_some() { Pace::Slow } else { Pace::Healthy };
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
    pub(crate) fn discard(&self, run: &Run<'_>) {
        self.depot.counters.discarded.add(run.messages.into());
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
        let rules = &self.depot.rules;
        self.depot.counters.sent_bytes.add(bytes as u64);
        let buffered = self.depot.buffered.fetch_sub(bytes + pieces * OVERHEAD, Relaxed);
        let low = if buffered > rules.max_buffered { 0 } else { rules.low_mark };
        let mut state = self.lock();
        self.session.sent(bytes);
        let mut recovered = false;
        if state.pace == Pace::Slow || state.trial.is_some() {
            let now = clock();
            recovered = state.sent(bytes, pieces, rules, Some(now));
            if state.pace == Pace::Slow {
                recovered |= state.measure(rules, now);
            }
        } else {
            recovered |= state.sent(bytes, pieces, rules, None);
        }
        let room = state.queued <= low;
        drop(state);
        if recovered {
            self.log_recovery();
        }
        if room {
            self.room.notify_one();
        }
    }

    /// Ready when the subscriber has been slow for too long. Otherwise the task is woken when there is a deadline to
    /// wait for, or when it has passed.
    pub(crate) fn poll_deadline(&self, cx: &mut Context<'_>, timer: &mut Option<Pin<Box<Sleep>>>) -> Poll<()> {
        self.writer.register(cx.waker());
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

    /// Takes nothing more from publishers. What is queued can still be written, and then, if given, one last frame.
    pub(crate) fn close(&self, last: Option<Bytes>) {
        let now = Instant::now();
        let mut state = self.lock();
        let was_closed = mem::replace(&mut state.closed, true);
        let held_up = if was_closed { Duration::ZERO } else { state.held_up(&self.depot.rules, now) };
        state.deadline = None;
        if let Some(last) = last {
            self.session.queued(last.len(), 0);
            let cost = state.queue.push_alone(last.into());
            state.queued += cost;
            self.depot.buffered.fetch_add(cost, Relaxed);
        }
        drop(state);
        if !held_up.is_zero() {
            self.depot.probation.add(self.ident(), self.peer.ip(), held_up, now);
        }
        self.writer.wake();
        self.room.notify_waiters();
        // And whoever has been told to wait, but does not yet.
        self.room.notify_one();
    }

    /// Closes it and drops what is queued, because the subscriber was slow for too long. `taken` is what the writer
    /// holds, of whose first run so much has been written: of that, the rest of a frame that was begun stays.
    pub(crate) fn expire(&self, taken: &mut VecDeque<Bytes>, written: usize, now: Instant) {
        self.clear(taken, written, |state, piece| self.drop_messages(state, piece.contents(), true, now));
        self.depot.probation.add(self.ident(), self.peer.ip(), Duration::MAX, now);
        self.depot.counters.slow_disconnects.add(1);
        self.session.error(Category::DeadlineTimerExpired);
    }

    /// Closes it and forgets what is queued, because the connection must not get it. See [`expire`](Self::expire).
    pub(crate) fn revoke(&self, taken: &mut VecDeque<Bytes>, written: usize) {
        self.clear(taken, written, |_, piece| self.discard_queued(piece));
    }

    /// Closes it and takes out all but the rest of a frame that was begun.
    fn clear(&self, taken: &mut VecDeque<Bytes>, written: usize, mut each: impl FnMut(&mut State, &Piece)) {
        self.close(None);
        let begun = if written > 0 { taken.pop_front() } else { None };
        let mut state = self.lock();
        let queue = state.queue.take();
        for piece in taken.drain(..).map(Piece::from).chain(queue) {
            self.unqueue(&mut state, piece.frames.len(), 1);
            each(&mut state, &piece);
        }
        if let Some(mut run) = begun {
            let rest = run.split_off(scan::frame_end(&run, written));
            self.unqueue(&mut state, rest.len(), 0);
            each(&mut state, &rest.into());
            taken.push_back(run);
        }
    }

    /// Closes it and forgets everything, because the connection cannot be written to any more. `taken` is what the
    /// writer holds, of whose first run so much has been written.
    pub(crate) fn abandon(&self, taken: &mut VecDeque<Bytes>, mut written: usize) {
        self.close(None);
        let mut state = self.lock();
        let queue = state.queue.take();
        for mut piece in taken.drain(..).map(Piece::from).chain(queue) {
            let sent = mem::take(&mut written);
            self.unqueue(&mut state, piece.frames.len() - sent, 1);
            // A frame that was begun has not arrived.
            piece.frames.advance(scan::frame_start(&piece.frames, sent));
            self.discard_queued(&piece);
        }
    }

    /// Counts messages that were queued when the connection ended.
    fn discard_queued(&self, piece: &Piece) {
        let messages = piece.contents().map(|(_, messages)| messages).sum();
        self.depot.counters.discarded.add(messages);
        self.depot.counters.unqueued.add(messages);
    }

    /// How many messages it has dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().drops.total
    }

    /// A publisher finds more than the low mark queued: until when it has to wait, or `None` when the subscriber is
    /// slow.
    fn press(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let rules = &self.depot.rules;
        let was_slow = state.pace == Pace::Slow;
        if state.press(rules, now) {
            self.log_recovery();
        }
        if state.pace == Pace::Slow && !was_slow {
            // Also for those that it opens beside this one.
            self.depot.probation.add(self.ident(), self.peer.ip(), Duration::MAX, now);
        }
        let window = state.window.get_or_insert(Window { start: now, drained: 0 });
        (state.pace != Pace::Slow).then(|| window.start + rules.window)
    }

    /// A slow subscriber is at its high mark: the policy. Whether there is room now.
    fn make_room(&self, state: &mut State, cost: usize, high: usize, now: Instant) -> bool {
        let rules = &self.depot.rules;
        match rules.policy {
            SlowPolicy::Disconnect => {
                if state.deadline.is_none() && state.pace != Pace::Held {
                    state.deadline = Some(now + rules.deadline);
                    self.session.deadline();
                    // Now it has a deadline to wait for.
                    self.writer.wake();
                    warn!(ident = self.ident().as_str(), peer = %self.peer, queued = state.queued, deadline = ?rules.deadline,
                        "slow subscriber is at its high mark: its messages are dropped");
                }
                false
            }
            SlowPolicy::DropOldest => {
                while state.queued + cost > high
                    && let Some(oldest) = state.queue.pop()
                {
                    self.unqueue(state, oldest.frames.len(), 1);
                    self.drop_messages(state, oldest.contents(), true, now);
                }
                state.queued == 0 || state.queued + cost <= high
            }
        }
    }

    fn unqueue(&self, state: &mut State, bytes: usize, pieces: usize) {
        let cost = bytes + pieces * OVERHEAD;
        self.session.unqueued(bytes);
        state.queued -= cost;
        self.depot.buffered.fetch_sub(cost, Relaxed);
    }

    /// Counts messages that a slow subscriber does not get, and logs that now and then.
    fn drop_messages<'a>(
        &self,
        state: &mut State,
        contents: impl Iterator<Item = (&'a str, u64)>,
        was_queued: bool,
        now: Instant,
    ) {
        // A long queue may hold millions of messages, mostly on a few channels by turns.
        let mut channels: SmallVec<[(&str, u64); 8]> = SmallVec::new();
        let count = |(channel, messages)| self.depot.counters.drop_messages(self.ident(), channel, messages);
        let (mut messages, mut last) = (0, None);
        for (channel, more) in contents {
            messages += more;
            last = Some(channel);
            if let Some((_, messages)) = channels.iter_mut().find(|(known, _)| *known == channel) {
                *messages += more;
            } else {
                if channels.len() == channels.inline_size() {
                    channels.drain(..).for_each(count);
                }
                channels.push((channel, more));
            }
        }
        channels.into_iter().for_each(count);
        let Some(channel) = last else {
            return;
        };
        self.session.dropped(messages);
        if was_queued {
            self.depot.counters.unqueued.add(messages);
        }
        if let Some(dropped) = state.drops.count(messages, now) {
            warn!(ident = self.ident().as_str(), peer = %self.peer, channel, dropped, total = state.drops.total,
                pace = ?state.pace, "messages dropped for a slow subscriber");
        }
    }

    fn log_recovery(&self) {
        self.session.recovered();
        info!(ident = self.ident().as_str(), peer = %self.peer, "slow subscriber has recovered");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // What a task that was aborted has left behind.
        let left = self.lock().queued;
        self.depot.buffered.fetch_sub(left, Relaxed);
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("ident", self.ident()).field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
