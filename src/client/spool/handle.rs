//! The handle of a spool: what the driver asks of it. No call waits for the disk.

use std::{fmt, io, mem, sync::Arc, task::Waker, thread};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    engine::Engine,
    error::SpoolError,
    feed::Feed,
    feed_news::{FeedBroker, FeedRefused},
    options::Spool,
    shared::{Answer, Batch, Shared, State, Want},
    status::{SpoolNews, SpoolStatus},
};
use crate::wire::{
    Channel, Limits,
    extension::{StreamId, StreamPosition},
};

/// A spool that is being used. Its engine runs on a thread of its own, which ends when the handle
/// is [closed](Self::close) or dropped; if the disk does not answer then, when it does.
pub struct SpoolHandle {
    shared: Arc<Shared>,
    /// The engine, where it does its work inline.
    inline: Option<Mutex<Inline>>,
}

struct Inline {
    engine: Engine,
    /// When it has something to do by itself.
    due: Option<Instant>,
}

impl SpoolHandle {
    /// Opens the spool of an ident, on the thread. [`is_open`](Self::is_open) or
    /// [`SpoolNews::Failing`] tells when that is done.
    ///
    /// Messages that are longer than `limits` allow are not read back, but counted as damaged.
    /// Fails when no thread can be made.
    pub fn start(spool: &Spool, ident: &str, limits: Limits) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let engine = Engine::new(spool.clone(), ident, limits, Arc::clone(&shared));
        if spool.inline {
            let handle = Self { shared, inline: Some(Mutex::new(Inline { engine, due: None })) };
            handle.run();
            return Ok(handle);
        }
        let ended = Ended { shared: Arc::clone(&shared), dir: spool.name() };
        let serve = move || {
            // Let go behind the engine: the folder is free before it is said to be.
            let _ended = ended;
            let mut engine = engine;
            engine.serve();
        };
        thread::Builder::new().name("hpfeeds-spool".to_owned()).spawn(serve)?;
        Ok(Self { shared, inline: None })
    }

    /// The session's end of a feed.
    #[must_use]
    pub fn fed(feed: &Feed) -> Self {
        Self { shared: Arc::clone(&feed.shared), inline: None }
    }

    /// Whether a feeder gives what is read.
    #[must_use]
    pub fn is_fed(&self) -> bool {
        self.shared.state.lock().is_fed
    }

    /// Tells the feeder of messages that were refused.
    pub fn refused(&self, refused: FeedRefused) {
        if refused.count > 0 {
            self.tell(|state| state.fed.refuse(refused));
        }
    }

    /// Tells the feeder of the broker that has accepted the key.
    pub fn accepted(&self, broker: FeedBroker) {
        self.tell(|state| state.fed.broker = Some(broker));
    }

    /// Tells the feeder of a channel that a broker without the extension denies.
    pub fn denied(&self, channel: Channel) {
        self.tell(|state| {
            if !state.fed.denied.contains(&channel) {
                state.fed.denied.push(channel);
            }
        });
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.state.lock();
        if state.is_fed {
            change(&mut state);
            drop(state);
            self.shared.feeder.wake();
        }
    }

    /// Wakes this task when there is something new.
    pub fn register(&self, waker: &Waker) {
        self.shared.waker.register(waker);
    }

    /// Writes a batch, and makes it durable together with all that wait. The batch comes back when
    /// 2 MiB wait already; try again when woken.
    ///
    /// Batches of a stream come in the order of their numbers.
    pub fn append(&self, batch: Batch) -> Result<(), Batch> {
        self.ask(|state| state.push(batch))
    }

    /// The newest message that is durable, of those that were appended.
    #[must_use]
    pub fn durable(&self) -> Option<StreamPosition> {
        self.shared.state.lock().durable
    }

    /// Releases a stream up to a number, and everything older than that: it is confirmed, or given
    /// up. Numbers that were never written are none to release.
    pub fn release(&self, to: StreamPosition) {
        self.ask(|state| state.release(to));
    }

    /// Says that the messages of a stream up to this number, as far as they are not released, are in
    /// memory as well: a copy of one that goes for room is no loss.
    pub fn hold(&self, up_to: StreamPosition) {
        self.shared.state.lock().held = Some(up_to);
    }

    /// Asks for the next messages, in chunks that are about so many bytes together: at least one, and
    /// at most one that goes beyond. [`answer`](Self::answer) has them later, all at once. Each
    /// message is read once, oldest stream first. Until all answers are taken, asking again changes
    /// nothing.
    pub fn read(&self, want: Want, bytes: usize) {
        self.ask(|state| {
            if !state.is_reading {
                state.is_reading = true;
                state.work.read = Some((want, bytes));
                state.work.is_new = true;
            }
        });
    }

    /// The next answer to [`read`](Self::read).
    pub fn answer(&self) -> Option<Answer> {
        let mut state = self.shared.state.lock();
        let answer = state.answers.pop_front();
        state.is_reading &= answer.is_none() || !state.answers.is_empty();
        answer
    }

    /// Sends what is there of a stream under another id, with the same numbers, also after a
    /// restart.
    pub fn rename(&self, from: StreamId, to: StreamId) {
        self.ask(|state| {
            state.work.renamed.push((from, to));
            state.work.is_new = true;
        });
    }

    /// The news since the last call.
    #[must_use]
    pub fn news(&self) -> Vec<SpoolNews> {
        self.shared.state.lock().news.drain(..).collect()
    }

    /// The figures as they were when the disk was touched last.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        self.shared.state.lock().status.clone()
    }

    /// Whether it has been opened, so that it is known what it holds.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.state.lock().is_open
    }

    /// Ends it in order: everything that was appended durable, the cursor, too.
    /// [`is_closed`](Self::is_closed) tells when that is done; with a disk that fails, at once.
    pub fn close(&self) {
        self.ask(|state| {
            state.work.close = true;
            state.work.is_new = true;
            // There is nothing to make durable.
            state.is_closed |= state.is_fed;
        });
    }

    /// Whether it has ended: the folder is free for another one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().is_closed
    }

    /// Lets an inline engine do what is due by time.
    pub fn poll(&self) {
        if self.inline.is_some() {
            self.run();
        }
    }

    /// When an inline engine has something to do by itself.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.inline.as_ref()?.lock().due
    }

    fn ask<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.state.lock());
        if self.inline.is_some() {
            self.run();
        } else {
            self.shared.asked.notify_one();
            self.shared.feeder.wake();
        }
        result
    }

    fn run(&self) {
        if let Some(inline) = &self.inline {
            let mut inline = inline.lock();
            inline.due = inline.engine.turn(Instant::now());
        }
    }
}

/// Tells the driver that the thread has ended, unless that was in order.
struct Ended {
    shared: Arc<Shared>,
    dir: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.is_closed {
            return;
        }
        let error = SpoolError::Ended(mem::take(&mut self.dir));
        state.is_closed = true;
        state.status.failing = Some(error.clone());
        state.tell(SpoolNews::Failing(error));
        drop(state);
        self.shared.waker.wake();
    }
}

impl Drop for SpoolHandle {
    fn drop(&mut self) {
        // Appended batches are written all the same.
        self.close();
    }
}

impl fmt::Debug for SpoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}
