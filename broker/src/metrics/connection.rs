//! What one ident does, and each of its connections.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use hpfeeds::wire::{Channel, Ident};

use super::{
    MAX_CHANNELS, MAX_SERIES,
    channels::{AllChannels, ChannelSeries, Subscribed, other},
    table::Table,
};
use crate::metrics::counter::Counter;

/// What went wrong with a connection. All but the last are those of the Python broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Category {
    InvalidFirstMessage,
    ErrorCheckingIdent,
    InvalidIdent,
    InvalidSecret,
    IdentMismatchPub,
    NoPubPermission,
    NoSubPermission,
    DeadlineTimerExpired,
    /// Any other frame that ended a session, such as a malformed one.
    InvalidMessage,
}

impl Category {
    pub(super) const ALL: [&str; 9] = [
        "invalid-first-message",
        "error-checking-ident",
        "invalid-ident",
        "invalid-secret",
        "ident-mismatch-pub",
        "no-pub-permission",
        "no-sub-permission",
        "deadline-timer-expired",
        "invalid-message",
    ];
}

/// What all connections of one ident did.
#[derive(Debug)]
pub(super) struct IdentSeries {
    ready: Counter,
    lost: Counter,
    errors: [Counter; Category::ALL.len()],
    deadlines: Counter,
    recoveries: Counter,
    connections: Mutex<Connections>,
    channels: Mutex<Table<Channel, ChannelSeries>>,
    all_channels: Arc<AllChannels>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<Arc<ConnectionCounters>>,
    /// What those did that have ended.
    ended: Totals,
}

/// What an ident has done at one moment.
#[derive(Debug)]
pub(super) struct IdentReport {
    pub(super) ready: u64,
    pub(super) lost: u64,
    pub(super) errors: [u64; Category::ALL.len()],
    pub(super) deadlines: u64,
    pub(super) recoveries: u64,
    pub(super) totals: Totals,
    /// Open connections by owner.
    pub(super) owners: BTreeMap<String, u64>,
    pub(super) channels: Vec<(Channel, Arc<ChannelSeries>)>,
}

impl IdentSeries {
    pub(super) fn new(all_channels: &Arc<AllChannels>) -> Self {
        Self {
            ready: Counter::default(),
            lost: Counter::default(),
            errors: Default::default(),
            deadlines: Counter::default(),
            recoveries: Counter::default(),
            connections: Mutex::default(),
            channels: Mutex::new(Table::new(MAX_CHANNELS)),
            all_channels: all_channels.clone(),
        }
    }

    pub(super) fn error(&self, category: Category) {
        self.errors[category as usize].add(1);
    }

    pub(super) fn lost(&self) {
        self.lost.add(1);
    }

    /// Reads everything, and forgets channels that have not been used for a while.
    pub(super) fn report(&self, now: Instant) -> IdentReport {
        let mut owners = BTreeMap::new();
        let totals = {
            let connections = self.connections();
            let mut totals = connections.ended;
            for flow in &connections.open {
                totals += flow.totals();
                *owners.entry(flow.owner.clone().into()).or_default() += 1;
            }
            totals
        };
        let mut channels: Vec<_> = {
            let mut table = self.channels();
            let before = table.len();
            table.sweep(now);
            self.all_channels.count.fetch_sub(before - table.len(), Relaxed);
            table.all().map(|(channel, series)| (channel.clone(), series.clone())).collect()
        };
        channels.sort_by(|a, b| a.0.cmp(&b.0));
        IdentReport {
            ready: self.ready.get(),
            lost: self.lost.get(),
            errors: std::array::from_fn(|category| self.errors[category].get()),
            deadlines: self.deadlines.get(),
            recoveries: self.recoveries.get(),
            totals,
            owners,
            channels,
        }
    }

    fn channel(&self, channel: &Channel) -> Arc<ChannelSeries> {
        let mut table = self.channels();
        let before = table.len();
        let room = || self.all_channels.count.load(Relaxed) < MAX_SERIES;
        let make = |name: &Channel| ChannelSeries::new(self.all_channels.unrouted(name));
        let series = table.get(channel, Instant::now, room, |name| Arc::new(make(name)));
        let series = series.unwrap_or_else(|| table.other(&other(), || make(&other())));
        // A full table may have shrunk.
        self.all_channels.count.fetch_add(table.len().wrapping_sub(before), Relaxed);
        series
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> MutexGuard<'_, Table<Channel, ChannelSeries>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdentSeries {
    fn drop(&mut self) {
        let len = self.channels().len();
        self.all_channels.count.fetch_sub(len, Relaxed);
    }
}

/// One authenticated connection. It is open until this is dropped.
#[derive(Debug)]
pub(crate) struct SessionMetrics {
    ident: Ident,
    series: Arc<IdentSeries>,
    flow: Arc<ConnectionCounters>,
}

/// The numbers of one connection. Only one thread at a time changes each of them: the connection's task those of what
/// is received, whoever holds the lock of its outbox the others.
#[derive(Debug)]
struct ConnectionCounters {
    owner: Box<str>,
    received: SingleWriterCounter,
    unparsed: SingleWriterCounter,
    filled: SingleWriterCounter,
    drained: SingleWriterCounter,
    queued: SingleWriterCounter,
    dropped: SingleWriterCounter,
    /// Whether what it did wrong is counted.
    blamed: AtomicBool,
}

/// A number that one thread at a time changes: that takes no locked instruction.
#[derive(Debug, Default)]
struct SingleWriterCounter(AtomicU64);

impl SingleWriterCounter {
    fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sums over connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) received: u64,
    pub(super) filled: u64,
    pub(super) drained: u64,
    pub(super) dropped: u64,
    /// These two only of connections that are open.
    pub(super) unparsed: u64,
    pub(super) queued: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.filled += other.filled;
        self.drained += other.drained;
        self.dropped += other.dropped;
        self.unparsed += other.unparsed;
        self.queued += other.queued;
    }
}

impl ConnectionCounters {
    fn totals(&self) -> Totals {
        Totals {
            received: self.received.get(),
            filled: self.filled.get(),
            drained: self.drained.get(),
            dropped: self.dropped.get(),
            unparsed: self.unparsed.get(),
            queued: self.queued.get(),
        }
    }
}

impl SessionMetrics {
    pub(super) fn open(ident: Ident, owner: &str, series: Arc<IdentSeries>) -> Self {
        let flow = Arc::new(ConnectionCounters {
            owner: owner.into(),
            received: SingleWriterCounter::default(),
            unparsed: SingleWriterCounter::default(),
            filled: SingleWriterCounter::default(),
            drained: SingleWriterCounter::default(),
            queued: SingleWriterCounter::default(),
            dropped: SingleWriterCounter::default(),
            blamed: AtomicBool::new(false),
        });
        series.ready.add(1);
        series.connections().open.push(flow.clone());
        Self { ident, series, flow }
    }

    /// Who it is, whatever it is counted as.
    pub(crate) fn ident(&self) -> &Ident {
        &self.ident
    }

    /// The series of a channel that it publishes to.
    pub(crate) fn channel(&self, channel: &Channel) -> Arc<ChannelSeries> {
        self.series.channel(channel)
    }

    /// Counts a subscription until what is returned is dropped.
    pub(crate) fn subscribed(&self, channel: &Channel) -> Subscribed {
        Subscribed::new(self.series.channel(channel))
    }

    /// Bytes were read. Only for the connection's task.
    pub(crate) fn received(&self, bytes: usize) {
        self.flow.received.add(bytes as u64);
    }

    /// So many of them have not been acted on. Only for the connection's task.
    pub(crate) fn unparsed(&self, bytes: usize) {
        self.flow.unparsed.set(bytes as u64);
    }

    /// A run was queued. Only under the lock of its outbox, as the next three.
    pub(crate) fn queued(&self, bytes: usize, payload: usize) {
        self.flow.queued.add(bytes as u64);
        self.flow.filled.add(payload as u64);
    }

    /// Queued bytes were written.
    pub(crate) fn sent(&self, bytes: usize) {
        self.flow.queued.sub(bytes as u64);
        self.flow.drained.add(bytes as u64);
    }

    /// Queued bytes were given up.
    pub(crate) fn unqueued(&self, bytes: usize) {
        self.flow.queued.sub(bytes as u64);
    }

    /// Messages were dropped because it was slow.
    pub(crate) fn dropped(&self, messages: u64) {
        self.flow.dropped.add(messages);
    }

    /// It is at its high mark, and has a deadline.
    pub(crate) fn deadline(&self) {
        self.series.deadlines.add(1);
    }

    /// The deadline is off.
    pub(crate) fn recovered(&self) {
        self.series.recoveries.add(1);
    }

    /// What it did wrong.
    pub(crate) fn error(&self, category: Category) {
        self.flow.blamed.store(true, Relaxed);
        self.series.error(category);
    }

    /// It is refused, for a reason that is counted here unless it has been already.
    pub(crate) fn refused(&self) {
        if !self.flow.blamed.load(Relaxed) {
            self.error(Category::InvalidMessage);
        }
    }

    /// One that no exporter knows of.
    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    pub(crate) fn for_test(ident: &str) -> Self {
        Self::open(ident.parse().unwrap(), ident, Arc::new(IdentSeries::new(&Arc::default())))
    }

    /// How many bytes are queued.
    #[cfg(test)]
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.flow.queued.get()
    }
}

impl Drop for SessionMetrics {
    fn drop(&mut self) {
        let mut connections = self.series.connections();
        if let Some(index) = connections.open.iter().position(|flow| Arc::ptr_eq(flow, &self.flow)) {
            connections.open.swap_remove(index);
        }
        // At once, so that nobody sees the sums fall in between.
        connections.ended += Totals { unparsed: 0, queued: 0, ..self.flow.totals() };
        self.series.lost();
    }
}
