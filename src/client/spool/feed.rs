//! The feed of a session: its messages come from a store that the program itself keeps, such as the
//! journal of a relay, in place of a spool's files.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    chunk::Chunk,
    feed_news::FeedNews,
    shared::{Answer, Shared},
};
use crate::wire::extension::StreamId;

/// The program's end of a feed. The session's end is given to
/// [`SessionBuilder::feed`](crate::SessionBuilder::feed).
///
/// The session asks for chunks while it has room for them, replays each under the stream that it
/// belongs to, and tells what is confirmed and refused. Chunks of a stream come in the order of its
/// numbers; a gap between two was given up. When a chunk is of another stream than the one before,
/// everything before it is confirmed first.
#[derive(Debug)]
pub struct Feeder {
    shared: Arc<Shared>,
}

/// The session's end of a feed.
#[derive(Debug, Clone)]
pub struct Feed {
    pub(super) shared: Arc<Shared>,
}

/// A feed: its two ends.
#[must_use]
pub fn feed() -> (Feeder, Feed) {
    let shared = Arc::new(Shared::default());
    {
        let mut state = shared.state.lock();
        (state.is_open, state.is_fed) = (true, true);
    }
    (Feeder { shared: Arc::clone(&shared) }, Feed { shared })
}

impl Feeder {
    /// Waits for news, or until a chunk is wanted. Cancel safe.
    pub async fn news(&mut self) -> FeedNews {
        poll_fn(|cx| self.poll_news(cx)).await
    }

    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<FeedNews> {
        self.shared.feeder.register(cx.waker());
        let mut state = self.shared.state.lock();
        if !mem::take(&mut state.work.is_new) && state.fed.is_empty() {
            return Poll::Pending;
        }
        state.is_wanted |= state.work.read.take().is_some();
        let fed = mem::take(&mut state.fed);
        Poll::Ready(FeedNews {
            refused: fed.refused,
            released: state.work.released.drain(..).collect(),
            broker: fed.broker,
            denied: fed.denied,
            is_over: state.work.close,
        })
    }

    /// Whether the session wants a chunk now.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.shared.state.lock().is_wanted
    }

    /// Gives the session the chunk that it wants.
    pub fn give(&self, chunk: Chunk) {
        self.answer(Answer::Chunk(chunk));
    }

    /// Nothing more comes: `close()` waits for what was given, and for nothing else.
    pub fn end(&self) {
        self.answer(Answer::End);
    }

    fn answer(&self, answer: Answer) {
        let mut state = self.shared.state.lock();
        state.is_wanted = false;
        state.answers.push_back(answer);
        drop(state);
        self.shared.waker.wake();
    }
}

impl Chunk {
    /// Consecutive messages of a stream; each piece holds whole PUBLISH frames, and how many.
    /// `None` for no message.
    #[must_use]
    pub fn new(stream: StreamId, first: u64, pieces: Vec<(bytes::Bytes, u64)>) -> Option<Self> {
        let messages = pieces.iter().map(|(_, messages)| messages).sum();
        (messages > 0).then_some(Self { stream, first, messages, pieces })
    }
}
