//! The receive queue: batches of received PUBLISH frames between the driver and the session.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::task::coop;

use super::consumption::Run;

/// Batches of received PUBLISH frames between the driver and the session, bounded in bytes.
///
/// Whole batches are handed over, not messages: one lock and at most one wake-up for many messages.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    capacity: usize,
    /// All bytes that were ever taken out; changed under the lock.
    popped: AtomicU64,
    /// The driver is woken when so many have been taken out.
    tell_at: AtomicU64,
}

/// A batch that was taken out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Popped {
    pub(crate) batch: BytesMut,
    /// Its run, if a mailbox has delivered it.
    pub(crate) run: Option<Box<Run>>,
    /// The driver had stopped reading, and may go on now, or wants to know that so much is taken.
    pub(crate) wakes_driver: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Each with what it is of a mailbox.
    batches: VecDeque<(BytesMut, Option<Box<Run>>)>,
    bytes: usize,
    /// All bytes that were ever put in.
    pushed: u64,
    ended: bool,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(capacity: usize) -> Self {
        // With none at all, nothing would ever be read.
        let tell_at = AtomicU64::new(u64::MAX);
        Self { state: Mutex::default(), capacity: capacity.max(1), popped: AtomicU64::new(0), tell_at }
    }

    /// Whether the driver may read from the socket. A batch may overshoot the capacity by its own
    /// length.
    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().bytes < self.capacity
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// All bytes that were ever put in.
    pub(crate) fn pushed(&self) -> u64 {
        self.state.lock().pushed
    }

    /// All bytes that were ever taken out.
    pub(crate) fn popped(&self) -> u64 {
        self.popped.load(Relaxed)
    }

    /// Has the driver woken, once, when so many bytes have been taken out.
    pub(crate) fn tell_at(&self, popped: u64) {
        self.tell_at.store(popped, Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().batches.is_empty()
    }

    pub(crate) fn push(&self, batch: BytesMut) {
        self.put(batch, None);
    }

    /// A batch that a mailbox has delivered.
    pub(crate) fn push_run(&self, batch: BytesMut, run: Run) {
        self.put(batch, Some(Box::new(run)));
    }

    fn put(&self, batch: BytesMut, run: Option<Box<Run>>) {
        let mut state = self.state.lock();
        state.bytes += batch.len();
        state.pushed += batch.len() as u64;
        state.batches.push_back((batch, run));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Lets go what mailboxes have delivered.
    pub(crate) fn let_runs_go(&self) {
        let mut state = self.state.lock();
        let mut gone = 0;
        state.batches.retain(|(batch, run)| {
            gone += if run.is_some() { batch.len() } else { 0 };
            run.is_none()
        });
        state.bytes -= gone;
        self.popped.store(self.popped.load(Relaxed) + gone as u64, Relaxed);
    }

    /// Nothing more comes: the stream ends when what is here has been read.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The oldest batch.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Popped>> {
        // A backlog must not keep its reader from letting others run.
        let budget = ready!(coop::poll_proceed(cx));
        let mut state = self.state.lock();
        if let Some((batch, run)) = state.batches.pop_front() {
            let full = state.bytes >= self.capacity;
            state.bytes -= batch.len();
            let popped = self.popped.load(Relaxed) + batch.len() as u64;
            self.popped.store(popped, Relaxed);
            let told = self.tell_at.load(Relaxed) <= popped;
            if told {
                self.tell_at.store(u64::MAX, Relaxed);
            }
            let wakes_driver = told || full && state.bytes < self.capacity;
            budget.made_progress();
            return Poll::Ready(Some(Popped { batch, run, wakes_driver }));
        }
        if state.ended {
            budget.made_progress();
            return Poll::Ready(None);
        }
        let before = match &mut state.reader {
            Some(reader) if reader.will_wake(cx.waker()) => None,
            reader => reader.replace(cx.waker().clone()),
        };
        drop(state);
        // The session, in whose place the streams of channels read now, or a task that reads no more.
        if let Some(before) = before {
            before.wake();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    #[test]
    fn receive_queue_is_bounded_and_says_when_there_is_room_again() {
        let waker = noop_waker();
        let cx = &mut Context::from_waker(&waker);
        let inbox = Inbox::new(10);
        inbox.push(BytesMut::from(&b"12345678"[..]));
        assert!(inbox.has_room());
        inbox.push(BytesMut::from(&b"1234"[..]));
        inbox.push(BytesMut::from(&b"5"[..]));
        assert!(!inbox.has_room());
        let popped = |batch: &[u8], wakes_driver| {
            Poll::Ready(Some(Popped { batch: BytesMut::from(batch), run: None, wakes_driver }))
        };
        assert_eq!(inbox.poll_pop(cx), popped(b"12345678", true));
        assert!(inbox.has_room());
        assert_eq!(inbox.poll_pop(cx), popped(b"1234", false));
        assert_eq!(inbox.poll_pop(cx), popped(b"5", false));
    }

    #[test]
    fn receive_queue_ends_behind_its_last_batch() {
        let waker = noop_waker();
        let cx = &mut Context::from_waker(&waker);
        let inbox = Inbox::new(10);
        assert!(inbox.poll_pop(cx).is_pending());
        inbox.push(BytesMut::from(&b"1"[..]));
        inbox.end();
        assert!(matches!(inbox.poll_pop(cx), Poll::Ready(Some(_))));
        assert_eq!(inbox.poll_pop(cx), Poll::Ready(None));
    }
}
