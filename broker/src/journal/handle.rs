//! The journal: a handle that appends batches, waits until they are durable, and reads them; and
//! the thread of its writer.

use std::{
    any::Any,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use hpfeeds::{
    log::{Disk, Extent, Item, LogError, Lost, OpenReport, Reader},
    wire::extension::Position,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    batch::{Batch, Draft},
    engine::Engine,
    figures::Figures,
    keeper::Keeper,
    options::{JournalOptions, Now},
    ring::After,
    state::{Health, Progress, Shared, Vigil},
};
use crate::util::clock::unix_ms;

/// The longest batch: one record of the log.
const LONGEST: usize = 1 << 30;
/// Places that cannot be read are passed over, so many for one page.
const PASSES: u32 = 64;

/// A journal. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    pub(super) shared: Arc<Shared>,
}

/// A batch that was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("the queue of the journal is full: wait until the disk has taken more of it")]
    QueueFull,
    #[error("the journal has failed: look at its disk, then start the broker again")]
    Failed,
    #[error("the journal is closed")]
    Closed,
    #[error("a batch is longer than 1 GiB")]
    TooLong,
}

/// The end of a wait for a position that will not become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal has failed or is closed, and this is not durable: do not acknowledge it")]
pub(crate) struct NotDurable;

/// Something that a mailbox reads from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Batch(Arc<Batch>),
    Lost(Lost),
}

/// The answer about what comes after a position.
#[derive(Debug)]
pub(crate) enum Found {
    /// In memory.
    Batches(Vec<Arc<Batch>>),
    /// In the file: ask [`Journal::page`].
    Older,
    /// Nothing yet.
    Nothing,
}

/// A page of the file.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The position up to which this is everything.
    pub(crate) end: Position,
    /// To go on with the next page without looking for it.
    pub(crate) reader: Reader,
}

impl Journal {
    /// Appends a batch, and returns the position of its last message. Mailboxes see it at once; it
    /// is not durable before [`durable`](Self::durable) says so.
    #[cfg(test)]
    pub(crate) fn append(&self, draft: Draft) -> Result<Position, AppendError> {
        self.push(draft, false)
    }

    /// The same for a batch of which [`has_room`](Self::has_room) was asked before: the queue exceeds
    /// its bound by at most one batch for each thread that asks at the same time.
    pub(crate) fn append_admitted(&self, draft: Draft) -> Result<Position, AppendError> {
        self.push(draft, true)
    }

    fn push(&self, draft: Draft, is_admitted: bool) -> Result<Position, AppendError> {
        if draft.frames.len() > LONGEST {
            return Err(AppendError::TooLong);
        }
        match self.health() {
            Health::Failed => return Err(AppendError::Failed),
            Health::Closed => return Err(AppendError::Closed),
            Health::Good | Health::Full | Health::NoSpace => {}
        }
        let mut inner = self.shared.inner.lock();
        if inner.is_closing {
            return Err(AppendError::Closed);
        }
        if inner.has_failed {
            return Err(AppendError::Failed);
        }
        let was_idle = inner.ring.pending_bytes() == 0;
        let last = inner.ring.push(draft, is_admitted).ok_or(AppendError::QueueFull)?;
        let readable = inner.ring.readable();
        self.shared.pushed(&mut inner, was_idle);
        drop(inner);
        self.shared.announce(readable);
        Ok(last)
    }

    /// Whether a batch of this length would fit into the queue.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.shared.inner.lock().ring.has_room(bytes)
    }

    /// Waits until a batch of this length would fit into the queue. Cancel safe; the caller has the
    /// deadline.
    pub(crate) async fn room(&self, bytes: usize) {
        loop {
            let mut room = std::pin::pin!(self.shared.room.notified());
            room.as_mut().enable();
            if self.has_room(bytes) {
                return;
            }
            room.await;
        }
    }

    /// Waits until a position is durable, and has the disk synced for it at once. Cancel safe.
    ///
    /// Without a deadline while the disk is full: the caller has one.
    pub(crate) async fn durable(&self, position: Position) -> Result<(), NotDurable> {
        let mut progress = self.shared.progress.subscribe();
        let is_done = |progress: &Progress| progress.durable >= position || progress.health.is_over();
        if !is_done(&progress.borrow_and_update()) {
            self.shared.want(position);
        }
        let end = progress.wait_for(is_done).await.map_err(|_| NotDurable)?;
        if end.durable >= position { Ok(()) } else { Err(NotDurable) }
    }

    /// Has the disk synced for a position at once, without waiting for that.
    pub(crate) fn want(&self, position: Position) {
        self.shared.want(position);
    }

    /// Waits until a batch of this length would fit into the queue, or nothing is stored any more.
    /// Cancel safe; the caller has the deadline.
    pub(crate) async fn room_or_end(&self, bytes: usize) {
        let mut progress = self.shared.progress.subscribe();
        let ended = async {
            if progress.wait_for(|progress| progress.health.is_over()).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.room(bytes) => {}
            () = ended => {}
        }
    }

    /// The position up to which everything is durable.
    pub(crate) fn durable_position(&self) -> Position {
        self.shared.progress.borrow().durable
    }

    /// The condition of the journal.
    pub(crate) fn health(&self) -> Health {
        self.shared.progress.borrow().health
    }

    /// Messages that were appended since the opening, without those that are lost as it has failed.
    pub(crate) fn stored(&self) -> u64 {
        let inner = self.shared.inner.lock();
        inner.ring.pushed().saturating_sub(self.shared.figures.failed())
    }

    /// The figures of its disk.
    pub(crate) fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// Durable positions and the condition, as they change.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// The newest position that can be read, as it changes.
    pub(crate) fn readable(&self) -> watch::Receiver<Position> {
        self.shared.readable.subscribe()
    }

    /// The position of the newest message.
    pub(crate) fn last(&self) -> Position {
        self.shared.inner.lock().ring.last()
    }

    /// The batches after a position that stand in memory: at least one, and otherwise about so many
    /// bytes of them.
    pub(crate) fn after(&self, position: Position, bytes: usize) -> Found {
        match self.shared.inner.lock().ring.after(position, bytes) {
            After::Batches(batches) => Found::Batches(batches),
            After::File => Found::Older,
            After::Nothing => Found::Nothing,
        }
    }

    /// Reads about 256 KiB after a position from the file, on a thread for blocking calls. At most
    /// 16 pages are read at once; others wait. Cancel safe.
    ///
    /// A page without entries says that nothing that is written stands there.
    pub(crate) async fn page(&self, after: Position, reader: Option<Reader>) -> io::Result<Page> {
        let permits = Arc::clone(&self.shared.permits);
        let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let reader = reader.filter(|reader| reader.position() == after);
            shared.read(after, reader.unwrap_or_else(|| shared.readers.reader(after, Extent::Written)))
        });
        read.await.map_err(io::Error::other)?
    }
}

impl Journal {
    /// As [`page`](Self::page), on this thread.
    #[cfg(test)]
    pub(super) fn read(&self, after: Position) -> io::Result<Page> {
        self.shared.read(after, self.shared.readers.reader(after, Extent::Written))
    }
}

impl Shared {
    /// Reads a page.
    fn read(&self, after: Position, mut reader: Reader) -> io::Result<Page> {
        let base = self.inner.lock().ring.base();
        let mut passes = 0;
        let items = loop {
            match reader.read() {
                Ok(items) => break items,
                Err(error) if passes == PASSES => return Err(error),
                Err(_) => {
                    passes += 1;
                    reader.pass();
                }
            }
        };
        let mut end = reader.position().max(after);
        if items.is_empty() && end < base {
            // Earlier epochs have nothing more, and get nothing more.
            end = base;
        }
        let entry = |item: &Item| match item {
            Item::Lost(lost) => Some(Entry::Lost(*lost)),
            Item::Record(record) => match Batch::read(record) {
                Some(batch) => Some(Entry::Batch(Arc::new(batch))),
                None => Some(Entry::Lost(Lost {
                    after: Position::new(record.first.epoch, record.first.number - 1),
                    last: record.last().number,
                    dropped: false,
                })),
            },
        };
        Ok(Page { entries: items.iter().filter_map(entry).collect(), end, reader })
    }
}

/// The owner of a journal's thread.
#[derive(Debug)]
pub(crate) struct JournalThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<bool>>>,
}

impl JournalThread {
    /// Opens the journal of a disk, and starts its writer, which drops what is `held` when it ends.
    pub(super) fn start<K: Keeper + 'static>(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        held: Option<Arc<dyn Any + Send + Sync>>,
        keeper: impl FnOnce(&hpfeeds::log::Log) -> K,
    ) -> Result<(Self, Journal, OpenReport), LogError> {
        let (engine, report) = Engine::open(disk, options, keeper)?;
        let shared = Arc::clone(&engine.shared);
        let work = move || {
            let _held = held;
            run(engine)
        };
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(work)?;
        let journal = Journal { shared: Arc::clone(&shared) };
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, journal, report))
    }

    /// Takes nothing more, makes everything durable that was appended, and ends the thread. Blocks
    /// for as long as the disk does. Returns whether all of it has worked; only the first call tells.
    pub(crate) fn close(&self) -> bool {
        self.stop();
        let thread = self.thread.lock().take();
        thread.is_some_and(|thread| thread.join().unwrap_or(false))
    }

    fn stop(&self) {
        self.shared.inner.lock().is_closing = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for JournalThread {
    /// Ends the thread as [`close`](Self::close) does, without waiting for it.
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<K: Keeper>(mut engine: Engine<K>) -> bool {
    let start = Instant::now();
    let now = || Now { since: start.elapsed(), unix_ms: unix_ms() };
    let mut vigil = Vigil::default();
    loop {
        let most = engine.turn(now());
        if engine.shared.sleep(most, &mut vigil) {
            return engine.close(now());
        }
    }
}
