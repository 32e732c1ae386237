//! What one ident does on one channel, and what all idents have in common there.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use hpfeeds::wire::Channel;

use super::{
    OTHER,
    sizes::{BUCKETS, Sizes},
    table::Table,
};
use crate::metrics::counter::Counter;

/// All connections of an ident share it: one that publishes holds it as long as it remembers the channel.
#[derive(Debug, Default)]
pub(crate) struct ChannelSeries {
    sizes: [Counter; BUCKETS],
    bytes: Counter,
    subscriptions: AtomicI64,
    /// Whether it is worth telling that there are no subscriptions.
    subscribed: AtomicBool,
    /// The messages of all idents on this channel that nobody subscribed to.
    unrouted: Arc<Counter>,
}

impl ChannelSeries {
    pub(super) fn new(unrouted: Arc<Counter>) -> Self {
        Self { unrouted, ..Self::default() }
    }

    /// Counts the messages of a run and their payload.
    pub(crate) fn published(&self, sizes: &Sizes, payload: usize) {
        sizes.each(|bucket, count| self.sizes[bucket].add(count.into()));
        self.bytes.add(payload as u64);
    }

    /// Counts the messages of a run that nobody subscribed to.
    pub(crate) fn unrouted(&self, messages: u32) {
        self.unrouted.add(messages.into());
    }

    /// Messages by bucket, and the bytes of their payloads; `None` when there have been no messages.
    pub(super) fn publishes(&self) -> Option<([u64; BUCKETS], u64)> {
        let counts = std::array::from_fn(|bucket| self.sizes[bucket].get());
        counts.iter().any(|count| *count > 0).then(|| (counts, self.bytes.get()))
    }

    /// Subscriptions now; `None` when there have never been any.
    pub(super) fn subscriptions(&self) -> Option<i64> {
        self.subscribed.load(Relaxed).then(|| self.subscriptions.load(Relaxed))
    }
}

/// A subscription, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscribed(Arc<ChannelSeries>);

impl Subscribed {
    pub(super) fn new(series: Arc<ChannelSeries>) -> Self {
        series.subscriptions.fetch_add(1, Relaxed);
        series.subscribed.store(true, Relaxed);
        Self(series)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Relaxed);
    }
}

/// What the channels of all idents have in common.
#[derive(Debug, Default)]
pub(super) struct AllChannels {
    /// How many channels there are in the tables of all idents.
    pub(super) count: AtomicUsize,
    /// By channel alone: a sum over idents would fall when one of them is forgotten.
    unrouted: Mutex<Table<Channel, Counter>>,
}

impl AllChannels {
    /// The messages on a channel that nobody subscribed to.
    pub(super) fn unrouted(&self, channel: &Channel) -> Arc<Counter> {
        let mut table = self.table();
        let counter = table.get(channel, Instant::now, || true, |_| Arc::default());
        counter.unwrap_or_else(|| table.other(&other(), Counter::default))
    }

    /// All of these, in the order of the channels. Forgets those that have not been used for a while.
    pub(super) fn all_unrouted(&self, now: Instant) -> Vec<(Channel, u64)> {
        let mut all: Vec<_> = {
            let mut table = self.table();
            table.sweep(now);
            table.all().map(|(channel, messages)| (channel.clone(), messages.get())).collect()
        };
        all.sort();
        all
    }

    fn table(&self) -> MutexGuard<'_, Table<Channel, Counter>> {
        self.unrouted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The channel of whatever has no room of its own.
pub(super) fn other() -> Channel {
    OTHER.parse().expect("a legal name")
}
