//! The state that a spool's engine and its handle share: a bounded queue of batches, what is asked
//! for, and what is answered.

use std::{collections::VecDeque, mem};

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};

use super::{
    chunk::Chunk,
    feed_news::Fed,
    status::{SpoolNews, SpoolStatus},
};
use crate::wire::extension::{StreamId, StreamPosition};

/// The frames that may wait to be durable, in bytes; a batch that is longer goes alone. They are
/// still the driver's own memory.
const BACKLOG: usize = 2 << 20;
/// News that are kept until the driver takes them. When there are more, the oldest go.
const NEWS: usize = 64;

/// Consecutive messages of one stream to write.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stream.
    pub stream: StreamId,
    /// The number of the first.
    pub first: u64,
    /// How many they are, at least one.
    pub messages: u32,
    /// Their PUBLISH frames, which may be cut anywhere.
    pub frames: Vec<Bytes>,
}

impl Batch {
    /// The last of them.
    pub(super) fn last(&self) -> StreamPosition {
        let number = self.first.saturating_add(u64::from(self.messages).saturating_sub(1));
        StreamPosition { stream: self.stream, number }
    }

    pub(super) fn bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }
}

/// An answer to a request for more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The next messages, oldest stream first.
    Chunk(Chunk),
    /// Everything that is durable was read, or is in memory.
    End,
}

/// The messages that are wanted next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Those of streams that come before this one. Of this one, nothing is passed over.
    Before(StreamId),
    /// Those behind this message, and of streams before. The ones up to it are in memory: they are
    /// passed over for good.
    After(StreamPosition),
    /// Whatever comes next.
    Any,
}

/// The work that the handle asks the engine for.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) batches: VecDeque<Batch>,
    /// The newest confirmed position of each stream, in their order.
    pub(super) released: VecDeque<StreamPosition>,
    /// The messages that are wanted, and about how many bytes of them.
    pub(super) read: Option<(Want, usize)>,
    pub(super) renamed: Vec<(StreamId, StreamId)>,
    pub(super) close: bool,
    /// Something of this was asked for.
    pub(super) is_new: bool,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is told by one side and read by the other")]
pub(super) struct State {
    pub(super) work: Work,
    /// Bytes of batches that are not durable.
    pub(super) backlog: usize,
    pub(super) durable: Option<StreamPosition>,
    /// The newest message of a stream that is in memory, as all before it that are not released.
    pub(super) held: Option<StreamPosition>,
    /// The answers to one request, oldest first.
    pub(super) answers: VecDeque<Answer>,
    /// Chunks were asked for, and not all answers were taken yet.
    pub(super) is_reading: bool,
    pub(super) news: VecDeque<SpoolNews>,
    pub(super) status: SpoolStatus,
    pub(super) is_open: bool,
    /// There is something for the driver to look at.
    pub(super) has_changed: bool,
    pub(super) is_closed: bool,
    /// There is no engine: a feeder gives what is read.
    pub(super) is_fed: bool,
    /// The feeder was asked for a chunk.
    pub(super) is_wanted: bool,
    pub(super) fed: Fed,
}

/// The state behind its lock. The lock is a leaf, and no I/O happens while it is held.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) asked: Condvar,
    /// The driver.
    pub(super) waker: AtomicWaker,
    /// The feeder, where there is one in place of an engine.
    pub(super) feeder: AtomicWaker,
}

impl State {
    /// Takes a batch, unless too much waits already.
    pub(super) fn push(&mut self, batch: Batch) -> Result<(), Batch> {
        let bytes = batch.bytes();
        if self.backlog > 0 && self.backlog + bytes > BACKLOG || self.is_closed || batch.messages == 0 {
            return Err(batch);
        }
        self.backlog += bytes;
        self.work.batches.push_back(batch);
        self.work.is_new = true;
        Ok(())
    }

    pub(super) fn release(&mut self, to: StreamPosition) {
        match self.work.released.back_mut() {
            Some(last) if last.stream == to.stream => last.number = last.number.max(to.number),
            _ => self.work.released.push_back(to),
        }
        self.work.is_new = true;
    }

    pub(super) fn tell(&mut self, news: SpoolNews) {
        self.has_changed = true;
        match (self.news.back_mut(), &news) {
            (Some(SpoolNews::Damaged(sum)), SpoolNews::Damaged(more))
            | (Some(SpoolNews::Dropped(sum)), SpoolNews::Dropped(more)) => *sum += more,
            _ => {
                if self.news.len() >= NEWS {
                    self.news.pop_front();
                }
                self.news.push_back(news);
            }
        }
    }

    pub(super) fn take_work(&mut self) -> Work {
        // Once asked for, the end is.
        let close = self.work.close;
        mem::replace(&mut self.work, Work { close, ..Work::default() })
    }
}
