use std::{
    collections::VecDeque,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::shared::lock;

/// Runs of received PUBLISH frames between the driver and the session, bounded in bytes.
///
/// Whole runs are handed over, not messages: one lock and at most one wake-up for many messages.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    runs: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity }
    }

    /// Whether the driver may read from the socket. A run may overshoot the capacity by its own length.
    pub(crate) fn has_room(&self) -> bool {
        lock(&self.state).bytes < self.capacity
    }

    pub(crate) fn push(&self, run: Bytes) {
        let mut state = lock(&self.state);
        state.bytes += run.len();
        state.runs.push_back(run);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Nothing more comes: the stream ends when what is here has been read.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The oldest run, and whether taking it made room for the driver to go on.
    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<(Bytes, bool)>> {
        let mut state = lock(&self.state);
        if let Some(run) = state.runs.pop_front() {
            let full = state.bytes >= self.capacity;
            state.bytes -= run.len();
            let made_room = full && state.bytes < self.capacity;
            return Poll::Ready(Some((run, made_room)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    #[test]
    fn is_bounded_and_says_when_there_is_room_again() {
        let waker = noop_waker();
        let cx = &mut Context::from_waker(&waker);
        let inbox = Inbox::new(10);
        inbox.push(Bytes::from_static(b"12345678"));
        assert!(inbox.has_room());
        inbox.push(Bytes::from_static(b"1234"));
        inbox.push(Bytes::from_static(b"5"));
        assert!(!inbox.has_room());
        assert_eq!(inbox.poll_pop(cx), Poll::Ready(Some((Bytes::from_static(b"12345678"), true))));
        assert!(inbox.has_room());
        assert_eq!(inbox.poll_pop(cx), Poll::Ready(Some((Bytes::from_static(b"1234"), false))));
    }

    #[test]
    fn ends_after_what_is_queued() {
        let waker = noop_waker();
        let cx = &mut Context::from_waker(&waker);
        let inbox = Inbox::new(10);
        assert!(inbox.poll_pop(cx).is_pending());
        inbox.push(Bytes::from_static(b"1"));
        inbox.end();
        assert!(matches!(inbox.poll_pop(cx), Poll::Ready(Some(_))));
        assert_eq!(inbox.poll_pop(cx), Poll::Ready(None));
    }
}
