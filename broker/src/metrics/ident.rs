//! The series of one ident: what all its connections did, and its channels.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use hpfeeds::wire::Channel;
use parking_lot::Mutex;

use crate::metrics::{
    category::Category,
    channels::{AllChannels, ChannelCounts, ChannelSeries},
    connection::{ConnectionCounters, ConnectionTotals},
    counter::Counter,
    table::{MAX_CHANNELS, MAX_SERIES, Table, other},
};

/// The counters of one ident. Its connections are added up when the series is read.
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
    /// Sums over the connections that have ended.
    ended: ConnectionTotals,
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

    /// A subscriber reached its high mark and was given a deadline.
    pub(super) fn deadline(&self) {
        self.deadlines.add(1);
    }

    /// A subscriber recovered before its deadline.
    pub(super) fn recovered(&self) {
        self.recoveries.add(1);
    }

    /// A connection has authenticated.
    pub(super) fn open(&self, owner: &str) -> Arc<ConnectionCounters> {
        let counters = Arc::new(ConnectionCounters::new(owner));
        self.ready.add(1);
        self.connections.lock().open.push(counters.clone());
        counters
    }

    /// A connection that was [opened](Self::open) has ended.
    pub(super) fn close(&self, counters: &Arc<ConnectionCounters>) {
        // Under one lock, so that no reader sees the sums fall in between.
        let mut connections = self.connections.lock();
        if let Some(index) = connections.open.iter().position(|open| Arc::ptr_eq(open, counters)) {
            connections.open.swap_remove(index);
        }
        let totals = counters.totals();
        connections.ended += totals.ended();
        self.all_channels.copies.add(totals.copies);
        self.all_channels.taken.add(totals.taken);
        self.lost();
    }

    /// The series of a channel, or of `other` when there is no room for one.
    pub(super) fn channel(&self, channel: &Channel) -> Arc<ChannelSeries> {
        let mut table = self.channels.lock();
        let before = table.len();
        let room = || self.all_channels.count.load(Relaxed) < MAX_SERIES;
        let make = |name: &Channel| ChannelSeries::new(self.all_channels.unrouted(name));
        let series = table.get(channel, Instant::now, room, |name| Arc::new(make(name)));
        let series = series.unwrap_or_else(|| table.other(&other(), || make(&other())));
        // A full table may have shrunk.
        self.all_channels.count.fetch_add(table.len().wrapping_sub(before), Relaxed);
        series
    }

    /// Reads all counters, and forgets channels that have not been used for an hour.
    pub(super) fn counts(&self, now: Instant) -> IdentCounts {
        let mut owners = BTreeMap::new();
        let totals = {
            let connections = self.connections.lock();
            let mut totals = connections.ended;
            for counters in &connections.open {
                totals += counters.totals();
                *owners.entry(counters.owner.clone().into()).or_default() += 1;
            }
            totals
        };
        let mut channels: Vec<_> = {
            let mut table = self.channels.lock();
            let before = table.len();
            table.sweep(now);
            self.all_channels.count.fetch_sub(before - table.len(), Relaxed);
            table.all().map(|(channel, series)| (channel.clone(), series.counts())).collect()
        };
        channels.sort_by(|a, b| a.0.cmp(&b.0));
        IdentCounts {
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
}

impl Drop for IdentSeries {
    fn drop(&mut self) {
        let len = self.channels.get_mut().len();
        self.all_channels.count.fetch_sub(len, Relaxed);
    }
}

/// The numbers of one ident at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdentCounts {
    /// Connections that authenticated.
    pub(super) ready: u64,
    /// Connections that have ended.
    pub(super) lost: u64,
    /// Connections that the broker ended, by [`Category`].
    pub(super) errors: [u64; Category::ALL.len()],
    /// How often a subscriber was given a deadline, and recovered before it.
    pub(super) deadlines: u64,
    pub(super) recoveries: u64,
    /// Sums over all connections.
    pub(crate) totals: ConnectionTotals,
    /// Open connections by owner of the key.
    pub(super) owners: BTreeMap<String, u64>,
    /// In the order of their names.
    pub(crate) channels: Vec<(Channel, ChannelCounts)>,
}

impl IdentCounts {
    /// Whether a connection of the ident is open.
    pub(super) fn is_connected(&self) -> bool {
        !self.owners.is_empty()
    }
}
