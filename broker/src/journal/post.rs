//! The mailboxes of a broker, and the keeper that stores their cursors.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hpfeeds::{
    log::{Append, Extent, Item, Log, LogError},
    wire::extension::{Position, RefusedRange},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{
    batch::{Batch, Delivery},
    keeper::Keeper,
    last_values::LastValues,
    mailbox::{
        core::Mailbox,
        record::put_text,
        snapshot::MailboxSnapshot,
        spec::{MailboxName, MailboxSpec},
    },
    options::Now,
    refused::RefusedRanges,
    shares::Shares,
    stock::Stock,
    streams::{KnownStream, StreamEnds, StreamName},
    table_log::TableLog,
};
use crate::util::clock::unix_ms;

/// The table of mailboxes, and the one row that says that there is a table.
const MAILBOXES: u8 = 1;
const FOUNDED: u8 = 0;
/// The kind of records of dead letters: `u8 length | mailbox | PUBLISH frame`.
const DEAD: u16 = 18;
/// Dead letters that wait for the disk; what comes beyond is counted only.
const MOST_DEAD: usize = 1000;
/// Channels that are looked at in one go.
const CHUNK: usize = 256;
const INTERVAL: Duration = Duration::from_secs(1);

/// All mailboxes. Clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Mailboxes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    all: RwLock<BTreeMap<MailboxName, Arc<Slot>>>,
    /// Grows when other channels may be wanted than before.
    generation: AtomicU64,
    /// The time by a clock that can be trusted, in milliseconds since 1970; 0 without one.
    trusted_ms: AtomicI64,
    unix_ms: AtomicI64,
    stock: Stock,
    dead: Mutex<Vec<(MailboxName, Delivery)>>,
    refused: Mutex<RefusedRanges>,
}

/// A mailbox and those who wait for it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: MailboxName,
    pub(super) state: Mutex<Mailbox>,
    /// The owner has changed, or where it reads on.
    pub(super) changed: Notify,
}

impl Mailboxes {
    /// Whether some mailbox wants a channel.
    pub(crate) fn want(&self, channel: &str) -> bool {
        self.inner.all.read().values().any(|slot| slot.state.lock().wants(channel))
    }

    /// A number that grows when the answers of [`want`](Self::want) may be others.
    pub(crate) fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    pub(super) fn changed(&self) {
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn slot(&self, name: &MailboxName) -> Option<Arc<Slot>> {
        self.inner.all.read().get(name).cloned()
    }

    /// The mailbox of a name that belongs to an ident, where `belongs` says so of the ident that it is
    /// declared for.
    pub(crate) fn find(&self, name: &str, belongs: impl Fn(&str) -> bool) -> Option<MailboxName> {
        let all = self.inner.all.read();
        all.keys().find(|other| *other.name == *name && belongs(&other.account)).cloned()
    }

    /// The time before which messages of an age are too old, if the clock can be trusted.
    pub(super) fn oldest_ms(&self, age: Option<Duration>) -> Option<i64> {
        let trusted = self.inner.trusted_ms.load(Ordering::Relaxed);
        let age = i64::try_from(age?.as_millis()).unwrap_or(i64::MAX);
        (trusted > 0).then(|| trusted.saturating_sub(age))
    }

    pub(super) fn unix_ms(&self) -> i64 {
        self.inner.unix_ms.load(Ordering::Relaxed)
    }

    pub(super) fn add_dead(&self, name: &MailboxName, dead: Vec<Delivery>) {
        let mut waiting = self.inner.dead.lock();
        let room = MOST_DEAD.saturating_sub(waiting.len());
        waiting.extend(dead.into_iter().take(room).map(|delivery| (name.clone(), delivery)));
    }

    /// A range of a stream is refused: told before anything behind it is appended.
    pub(crate) fn refused(&self, name: StreamName, range: RefusedRange) {
        self.inner.refused.lock().add(name, range);
    }

    /// The names of all.
    pub(crate) fn names(&self) -> Vec<MailboxName> {
        self.inner.all.read().keys().cloned().collect()
    }

    /// Looks at a mailbox. `None` if there is none of that name.
    pub(crate) fn look<T>(&self, name: &MailboxName, call: impl FnOnce(&Mailbox) -> T) -> Option<T> {
        Some(call(&self.slot(name)?.state.lock()))
    }

    /// The counts of what stands in the journal.
    pub(crate) fn stock(&self) -> &Stock {
        &self.inner.stock
    }

    /// A snapshot of each.
    pub(crate) fn list(&self) -> Vec<MailboxSnapshot> {
        let all: Vec<_> = self.inner.all.read().values().cloned().collect();
        all.iter().map(|slot| self.snapshot(slot)).collect()
    }

    /// A snapshot of one; `None` if there is none of that name.
    pub(crate) fn show(&self, name: &MailboxName) -> Option<MailboxSnapshot> {
        self.slot(name).map(|slot| self.snapshot(&slot))
    }

    fn snapshot(&self, slot: &Slot) -> MailboxSnapshot {
        let channels = self.inner.stock.channels();
        let mut after = Vec::with_capacity(channels.len());
        for some in channels.chunks(CHUNK) {
            // The owner has its turn between them.
            let mailbox = slot.state.lock();
            after.extend(some.iter().map(|channel| mailbox.open_after(channel)));
        }
        let snapshot = slot.state.lock().snapshot();
        let lowest = (!snapshot.is_expired).then_some(snapshot.lowest);
        MailboxSnapshot { waiting: self.inner.stock.waiting(lowest, &after), ..snapshot }
    }

    /// Calls something for a mailbox, as a command of the operator. `None` if there is none of that
    /// name. Its owner goes on with what that has left.
    pub(crate) fn command<T>(&self, name: &MailboxName, call: impl FnOnce(&mut Mailbox) -> T) -> Option<T> {
        let slot = self.slot(name)?;
        let result = call(&mut slot.state.lock());
        slot.changed.notify_waiters();
        self.changed();
        Some(result)
    }

    fn each(&self, mut call: impl FnMut(&mut Mailbox)) {
        for slot in self.inner.all.read().values() {
            call(&mut slot.state.lock());
        }
    }
}

/// The result of an opening, for the log of the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PostReport {
    /// Records of cursors that cannot be read: mailboxes begin at the newest that could.
    pub(crate) damaged: u64,
    /// The cursors are gone, and the journal is not: mailboxes begin at its oldest message.
    pub(crate) is_lost: bool,
    /// Mailboxes whose cursors are of a journal that is gone: they begin at the oldest message.
    pub(crate) foreign: Vec<MailboxName>,
    /// Streams of which the journal knows something.
    pub(crate) known: HashMap<StreamName, KnownStream>,
}

/// The tables of a keeper, opened.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) cursors: TableLog,
    /// Records of cursors that cannot be read.
    pub(super) damaged: u64,
    pub(super) dead: Option<Log>,
    pub(super) last: Option<(LastValues, TableLog)>,
    pub(super) shares: Shares,
}

/// The keeper of the cursors.
#[derive(Debug)]
pub(super) struct PostKeeper {
    mailboxes: Mailboxes,
    table: TableLog,
    dead: Option<Log>,
    last: Option<(LastValues, TableLog)>,
    shares: Shares,
    /// Everything up to here is dropped.
    oldest: Position,
    streams: StreamEnds,
    expire: Option<Duration>,
    stored_at: Option<Duration>,
}

impl PostKeeper {
    /// Reads the cursors of all mailboxes that are declared; those of others stay as they are.
    pub(super) fn open(
        specs: Vec<MailboxSpec>,
        tables: Tables,
        expire: Option<Duration>,
        journal: &Log,
    ) -> (Self, Mailboxes, PostReport) {
        let Tables { cursors: mut table, damaged, dead, last, shares } = tables;
        let is_founded = table.rows(FOUNDED).next().is_some();
        let has_data = journal.oldest() < journal.last() && journal.oldest().epoch < journal.epoch();
        let mut report = PostReport { damaged, is_lost: !is_founded && has_data, ..PostReport::default() };
        let now = unix_ms();
        let stored: BTreeMap<Vec<u8>, Bytes> =
            table.rows(MAILBOXES).map(|(name, value)| (name.to_vec(), value.clone())).collect();
        let mut all = BTreeMap::new();
        for spec in specs {
            let name = spec.name.clone();
            let start = if report.is_lost { Position::NONE } else { journal.last() };
            let found = stored.get(name.to_string().as_bytes());
            let mut mailbox = match found.map(|bytes| Mailbox::decode(spec.clone(), bytes)) {
                Some(Some(mailbox)) => mailbox,
                Some(None) => {
                    report.damaged += 1;
                    Mailbox::new(spec, Position::NONE, now)
                }
                None => Mailbox::new(spec, start, now),
            };
            if mailbox.highest() > journal.last() {
                // That journal is gone, with what was not delivered of it.
                mailbox.restart();
                report.foreign.push(name.clone());
            }
            all.insert(name.clone(), Arc::new(Slot { name, state: Mutex::new(mailbox), changed: Notify::new() }));
        }
        let mut streams = StreamEnds::load(&table);
        read_streams(&mut streams, journal);
        report.known = streams.known();
        table.put(FOUNDED, &[], Some(Bytes::from_static(b"1")));
        let stock = Stock::default();
        let lowest = all.values().map(|slot: &Arc<Slot>| slot.state.lock().lowest()).min();
        stock.open(lowest.unwrap_or(journal.last()).max(journal.oldest()), journal.last());
        let inner = Inner {
            all: RwLock::new(all),
            generation: AtomicU64::new(0),
            trusted_ms: AtomicI64::new(0),
            unix_ms: AtomicI64::new(now),
            stock,
            dead: Mutex::default(),
            refused: Mutex::default(),
        };
        let mailboxes = Mailboxes { inner: Arc::new(inner) };
        let keeper = Self {
            mailboxes: mailboxes.clone(),
            table,
            dead,
            last,
            shares,
            oldest: Position::NONE,
            streams,
            expire,
            stored_at: None,
        };
        (keeper, mailboxes, report)
    }

    fn take_refused(&mut self) {
        for (name, ranges) in mem::take(&mut *self.mailboxes.inner.refused.lock()) {
            for range in ranges {
                self.streams.refused(&name, range);
            }
        }
    }

    fn store_last(&mut self) {
        let Some((values, table)) = &mut self.last else { return };
        values.store(table);
        if let Err(LogError::Failed) = table.commit() {
            // They are in memory, and will not outlive the process.
            self.last = None;
        }
    }

    /// Before the cursors, which pass over them.
    fn store_dead(&mut self) -> Result<(), LogError> {
        let Some(log) = &mut self.dead else { return Ok(()) };
        let dead = mem::take(&mut *self.mailboxes.inner.dead.lock());
        if dead.is_empty() {
            return Ok(());
        }
        for (name, delivery) in &dead {
            let mut body = Vec::new();
            put_text(&mut body, &name.to_string());
            body.extend_from_slice(&delivery.frames);
            let unix_ms = self.mailboxes.unix_ms();
            log.append(&Append { kind: DEAD, unix_ms, messages: 1, stream: None, channels: &[], body: &body })?;
        }
        log.sync().map(drop)
    }
}

/// Reads the end of the journal, of which the table does not know yet. Streams go no further than
/// the first message that is missing: what stands behind it may have been acknowledged or not.
fn read_streams(streams: &mut StreamEnds, journal: &Log) {
    let mut reader = journal.reader(streams.covered(), Extent::Durable);
    while let Ok(items) = reader.read() {
        if items.is_empty() {
            break;
        }
        for item in items {
            match item {
                Item::Lost(lost) if lost.dropped => {}
                Item::Lost(_) => return streams.durable(journal.last()),
                Item::Record(record) => {
                    if let Some(batch) = Batch::read(&record) {
                        streams.appended(&batch);
                    }
                }
            }
        }
    }
    streams.durable(journal.last());
}

impl Keeper for PostKeeper {
    fn wants(&self, _: Position, last: Position) -> bool {
        let mut wants = false;
        self.mailboxes.each(|mailbox| wants |= mailbox.wants_until(last));
        wants
    }

    fn lose(&mut self, batch: &Batch) {
        self.mailboxes.each(|mailbox| mailbox.lose(batch));
    }

    fn dropped(&mut self, last: Position) {
        self.oldest = last;
        self.mailboxes.inner.stock.dropped(last);
        self.mailboxes.each(|mailbox| mailbox.dropped(last));
    }

    fn appended(&mut self, batch: &Batch) {
        self.mailboxes.inner.stock.appended(batch);
        self.streams.appended(batch);
    }

    fn before_sync(&mut self) -> Result<(), LogError> {
        self.take_refused();
        if self.streams.has_refused() {
            self.streams.store(&mut self.table);
            self.table.commit()?;
        }
        Ok(())
    }

    fn store(&mut self) -> Result<(), LogError> {
        self.take_refused();
        self.store_dead()?;
        for slot in self.mailboxes.inner.all.read().values() {
            let mut mailbox = slot.state.lock();
            if mem::take(&mut mailbox.is_changed) {
                self.table.put(MAILBOXES, slot.name.to_string().as_bytes(), Some(mailbox.encode().into()));
            }
        }
        self.streams.store(&mut self.table);
        self.store_last();
        self.table.commit()
    }

    fn turn(&mut self, durable: Position, now: Now, trusted: Option<i64>) -> Result<(), LogError> {
        self.streams.durable(durable);
        let inner = &self.mailboxes.inner;
        inner.unix_ms.store(now.unix_ms, Ordering::Relaxed);
        inner.trusted_ms.store(trusted.unwrap_or(0), Ordering::Relaxed);
        if self.stored_at.is_some_and(|at| now.since < at + INTERVAL) {
            return Ok(());
        }
        self.stored_at = Some(now.since);
        if let (Some(trusted), Some(expire)) = (trusted, self.expire) {
            let oldest = trusted.saturating_sub(i64::try_from(expire.as_millis()).unwrap_or(i64::MAX));
            let mut has_any = false;
            self.mailboxes.each(|mailbox| has_any |= mailbox.expire(oldest, durable));
            if has_any {
                self.mailboxes.changed();
            }
        }
        let mailboxes = &self.mailboxes;
        self.shares.settle(self.oldest, |channel| {
            let mut lowest = None;
            mailboxes.each(|mailbox| lowest = lowest.into_iter().chain(mailbox.open_after(channel)).min());
            lowest
        });
        self.store()
    }
}
