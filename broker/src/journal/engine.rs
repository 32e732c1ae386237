//! The engine of the journal: the writer's turns, without a thread. All that touches the disk,
//! but for readers of old messages, happens here.

use std::{sync::Arc, time::Duration};

use hpfeeds::{
    log::{Append, Disk, Extent, FRAMES, Item, Log, LogError, LogOptions, OpenReport},
    wire::extension::Position,
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    batch::Batch,
    figures::Figures,
    keeper::Keeper,
    options::{JournalFull, JournalOptions, Now},
    ring::{Limits, Ring},
    state::{Health, Inner, Progress, Shared},
    wall_clock::WallClock,
};

/// So much is appended in one turn before what is due is synced.
const TURN: usize = 4 << 20;
/// So much is taken from the queue at once.
const PORTION: usize = 1 << 20;
/// The interval of turns without anything to append, and of attempts on a full disk.
const INTERVAL: Duration = Duration::from_secs(1);
/// Errors of the log in one call, of which it makes two a failure itself.
const FAILURES: u32 = 4;
/// Readers of the file at once.
const READERS: usize = 16;

/// The writer of a journal.
#[derive(Debug)]
pub(super) struct Engine<K> {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
    disk: Arc<dyn Disk>,
    pub(super) keeper: K,
    options: JournalOptions,
    clock: WallClock,
    /// When the oldest record was appended that is not durable.
    unsynced: Option<Duration>,
    /// When the disk was looked at.
    measured: Option<Duration>,
}

/// The reason why a segment must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The journal's own limit.
    Room,
    /// The file system is full.
    Space,
    Age,
}

impl<K: Keeper> Engine<K> {
    /// Opens the log of a disk.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        keeper: impl FnOnce(&Log) -> K,
    ) -> Result<(Self, OpenReport), LogError> {
        let log_options = LogOptions::default()
            .segment_bytes(options.segment_bytes)
            .max_bytes(options.max_bytes)
            .max_unsynced(options.queue_bytes / 2)
            .when_full(hpfeeds::log::WhenFull::Refuse)
            .keep_consumed(true);
        let (log, report) = Log::open(Arc::clone(&disk), &log_options)?;
        let limits = Limits { queue: options.queue_bytes, ring: options.ring_bytes };
        let ring = Ring::new(log.last(), limits);
        let progress = Progress { durable: log.last(), health: Health::Good };
        let shared = Shared {
            readable: watch::Sender::new(ring.readable()),
            inner: Mutex::new(Inner {
                ring,
                wanted: Position::NONE,
                is_urgent: false,
                is_closing: false,
                is_blocked: false,
                has_failed: false,
            }),
            wake: Condvar::new(),
            progress: watch::Sender::new(progress),
            figures: Figures::default(),
            readers: log.readers(),
            room: Notify::new(),
            permits: Arc::new(Semaphore::new(READERS)),
        };
        let keeper = keeper(&log);
        let engine = Self {
            shared: Arc::new(shared),
            log,
            disk,
            keeper,
            options,
            clock: WallClock::default(),
            unsynced: None,
            measured: None,
        };
        Ok((engine, report))
    }

    /// Appends what is queued, syncs what is due, drops what is too old. Returns after how long the
    /// next turn is due, if nobody asks for one before.
    pub(super) fn turn(&mut self, now: Now) -> Duration {
        self.measure(now);
        if self.health().is_over() {
            return INTERVAL;
        }
        let mut health = self.fill(now);
        if health == Health::Good && (self.health() != Health::Good || self.is_sync_due(now)) {
            health = self.sync();
        }
        if !health.is_over() {
            let trusted = self.clock.look(now);
            self.drop_old(trusted);
            let durable = self.log.durable();
            // Another error is tried again at the next turn.
            if let Err(LogError::Failed) = self.keeper.turn(durable, now, trusted) {
                health = Health::Failed;
            }
        }
        self.set_health(health);
        self.due(now)
    }

    /// Appends everything that is queued, makes it durable, and stores the cursors. Returns whether
    /// all of that has worked.
    pub(super) fn close(&mut self, now: Now) -> bool {
        let mut health = self.health();
        while health == Health::Good && self.shared.inner.lock().ring.pending_bytes() > 0 {
            health = self.fill(now);
        }
        if !health.is_over() {
            health = self.sync();
        }
        let is_stored = self.keeper.store().is_ok();
        let is_closed = health == Health::Good && is_stored;
        self.set_health(if is_closed { Health::Closed } else { Health::Failed });
        is_closed
    }

    fn health(&self) -> Health {
        self.shared.progress.borrow().health
    }

    fn due(&self, now: Now) -> Duration {
        let sync = self.unsynced.map(|at| (at + self.options.sync).saturating_sub(now.since));
        sync.map_or(INTERVAL, |sync| sync.min(INTERVAL))
    }

    fn is_sync_due(&self, now: Now) -> bool {
        let wanted = self.shared.inner.lock().wanted;
        let is_late = self.unsynced.is_some_and(|at| now.since >= at + self.options.sync);
        is_late || (wanted > self.log.durable() && self.unsynced.is_some())
    }

    /// Appends what is queued, and writes it to the file.
    fn fill(&mut self, now: Now) -> Health {
        let mut sum = 0;
        while sum < TURN {
            let pending = self.shared.inner.lock().ring.pending(PORTION);
            if pending.is_empty() {
                break;
            }
            let mut appended = 0;
            let mut result = Ok(());
            for batch in &pending {
                result = self.append(batch, now);
                if result.is_err() {
                    break;
                }
                sum += batch.frames.len();
                appended += 1;
            }
            let mut inner = self.shared.inner.lock();
            inner.ring.appended(appended);
            let readable = inner.ring.readable();
            drop(inner);
            self.shared.room.notify_waiters();
            // The first one of an epoch lets the ring be read.
            self.shared.announce(readable);
            if let Err(health) = result {
                return health;
            }
        }
        if sum == 0 {
            return Health::Good;
        }
        // So that it survives this process.
        let mut written = Position::NONE;
        let result = self.with_space(|log| {
            written = log.write()?;
            Ok(())
        });
        match result {
            Ok(()) => {
                self.shared.inner.lock().ring.written(written.number);
                Health::Good
            }
            Err(health) => health,
        }
    }

    fn append(&mut self, batch: &Batch, now: Now) -> Result<(), Health> {
        let channels: Vec<_> = batch.runs.iter().map(|run| (run.channel.as_str(), run.messages)).collect();
        let record = Append {
            kind: FRAMES,
            unix_ms: batch.unix_ms,
            messages: batch.messages,
            stream: batch.stream,
            channels: &channels,
            body: &batch.frames,
        };
        let mut last = Position::NONE;
        self.with_space(|log| {
            last = log.append(&record)?;
            Ok(())
        })?;
        self.unsynced.get_or_insert(now.since);
        self.keeper.appended(batch);
        // The ring has told the number already.
        if last == batch.last() { Ok(()) } else { Err(Health::Failed) }
    }

    /// Looks at the disk, once a second.
    fn measure(&mut self, now: Now) {
        if self.measured.is_none_or(|at| now.since >= at + INTERVAL) {
            self.measured = Some(now.since);
            let free = self.disk.space().ok().map(|space| space.available);
            self.shared.figures.set(self.log.size(), free, self.options.max_bytes);
        }
    }

    fn sync(&mut self) -> Health {
        let shared = Arc::clone(&self.shared);
        let _timing = shared.figures.syncs.start();
        match self.keeper.before_sync() {
            Ok(()) => {}
            Err(LogError::NoSpace | LogError::Full { .. }) => return Health::NoSpace,
            Err(_) => return Health::Failed,
        }
        match self.with_space(|log| log.sync().map(drop)) {
            Ok(()) => {
                self.unsynced = None;
                Health::Good
            }
            Err(health) => health,
        }
    }

    /// Calls the log, and drops the oldest segments for as long as it asks for room.
    fn with_space(&mut self, mut call: impl FnMut(&mut Log) -> Result<(), LogError>) -> Result<(), Health> {
        let mut failures = 0;
        loop {
            let (need, health) = match call(&mut self.log) {
                Ok(()) => return Ok(()),
                Err(LogError::Full { .. }) => (Need::Room, Health::Full),
                Err(LogError::NoSpace) => (Need::Space, Health::NoSpace),
                // One failure: the log goes on with another file, at once.
                Err(LogError::Io(_)) if failures < FAILURES => {
                    failures += 1;
                    continue;
                }
                Err(_) => return Err(Health::Failed),
            };
            if !self.drop_front(need)? {
                return Err(health);
            }
        }
    }

    /// Drops segments whose newest message is older than the limit.
    fn drop_old(&mut self, trusted: Option<i64>) {
        let (Some(trusted), Some(age)) = (trusted, self.options.max_age) else { return };
        let oldest = trusted.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        // One at a turn: counting what is lost with it takes its time.
        if self.log.front().is_some_and(|front| front.newest_ms < oldest) {
            let _ = self.drop_front(Need::Age);
        }
    }

    /// Drops the oldest segment, after it is counted and stored what mailboxes lose with it. `false`
    /// if there is none, or it must not go.
    fn drop_front(&mut self, need: Need) -> Result<bool, Health> {
        let Some(front) = self.log.front() else { return Ok(false) };
        if self.keeper.wants(front.after, front.last) {
            if self.options.when_full == JournalFull::Wait && need != Need::Age {
                return Ok(false);
            }
            self.count(front.after, front.last);
        }
        self.keeper.dropped(front.last);
        match self.keeper.store() {
            // The segment goes first: that makes the room.
            Err(LogError::NoSpace | LogError::Full { .. }) if need == Need::Space => {}
            Err(LogError::NoSpace | LogError::Full { .. }) => return Ok(false),
            Err(_) => return Err(Health::Failed),
            Ok(()) => {}
        }
        self.log.drop_front().map_err(|_| Health::Failed)
    }

    /// Tells the keeper each batch of a segment.
    fn count(&mut self, after: Position, last: Position) {
        let mut reader = self.log.reader(after, Extent::Written);
        let mut unreadable = 0;
        loop {
            let items = match reader.read() {
                Ok(items) => items,
                // Unreadable messages were lost before.
                Err(_) if unreadable < 64 => {
                    unreadable += 1;
                    reader.pass();
                    continue;
                }
                Err(_) => return,
            };
            if items.is_empty() {
                return;
            }
            for item in &items {
                let Item::Record(record) = item else { continue };
                if record.first > last {
                    return;
                }
                if let Some(batch) = Batch::read(record) {
                    self.keeper.lose(&batch);
                }
            }
        }
    }

    fn set_health(&mut self, health: Health) {
        let mut inner = self.shared.inner.lock();
        inner.is_blocked = matches!(health, Health::Full | Health::NoSpace);
        let durable = self.log.durable();
        if health == Health::Failed && !inner.has_failed {
            inner.has_failed = true;
            let kept = durable.number.max(inner.ring.base().number);
            self.shared.figures.fail(inner.ring.last().number.saturating_sub(kept));
            // The wait for room is over.
            inner.ring.give_up();
        }
        drop(inner);
        let progress = Progress { durable, health };
        self.shared.progress.send_if_modified(|old| {
            let has_changed = *old != progress;
            *old = progress;
            has_changed
        });
    }
}
