//! The series of one ident on one channel, and the unrouted messages of a channel over all idents.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use hpfeeds::wire::Channel;
use parking_lot::Mutex;

use crate::metrics::{
    counter::Counter,
    sizes::{BUCKETS, Sizes},
    table::{Table, other},
};

/// The counters of one ident on one channel, shared by all connections of the ident. A publisher
/// holds the series as long as the channel is in its publish cache.
#[derive(Debug, Default)]
pub(crate) struct ChannelSeries {
    sizes: [Counter; BUCKETS],
    bytes: Counter,
    subscriptions: AtomicI64,
    /// Whether there has been a subscription, so that a count of zero is worth a sample.
    subscribed: AtomicBool,
    /// The unrouted messages of all idents on this channel.
    unrouted: Arc<Counter>,
}

impl ChannelSeries {
    pub(super) fn new(unrouted: Arc<Counter>) -> Self {
        Self { unrouted, ..Self::default() }
    }

    /// Counts the messages of a batch, and the bytes of their payloads.
    pub(crate) fn published(&self, sizes: &Sizes, payload: usize) {
        sizes.each(|bucket, count| self.sizes[bucket].add(count.into()));
        self.bytes.add(payload as u64);
    }

    /// Counts the messages of a batch without subscribers.
    pub(crate) fn unrouted(&self, messages: u32) {
        self.unrouted.add(messages.into());
    }

    pub(super) fn counts(&self) -> ChannelCounts {
        ChannelCounts {
            sizes: std::array::from_fn(|bucket| self.sizes[bucket].get()),
            bytes: self.bytes.get(),
            subscriptions: self.subscribed.load(Relaxed).then(|| self.subscriptions.load(Relaxed)),
        }
    }
}

/// The numbers of one ident on one channel at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelCounts {
    /// Published messages by bucket of their payload's size.
    pub(super) sizes: [u64; BUCKETS],
    /// Bytes of all payloads.
    pub(crate) bytes: u64,
    /// Subscriptions of open connections; `None` when there has never been one.
    pub(crate) subscriptions: Option<i64>,
}

impl ChannelCounts {
    /// How many messages were published; `None` when there has never been one.
    pub(crate) fn published(&self) -> Option<u64> {
        Some(self.sizes.iter().sum()).filter(|messages| *messages > 0)
    }
}

/// A subscription. A guard: the subscription counts until this is dropped.
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

/// Numbers over all idents, whether or not these are forgotten: how many channels there are, the
/// unrouted messages of each, and the copies of ended connections.
#[derive(Debug, Default)]
pub(super) struct AllChannels {
    /// How many channels there are in the tables of all idents.
    pub(super) count: AtomicUsize,
    /// The messages of ended connections, once for each subscriber, and those that the writers of
    /// ended connections had taken.
    pub(super) copies: Counter,
    pub(super) taken: Counter,
    /// By channel alone: a sum over idents would fall when one of them is forgotten.
    unrouted: Mutex<Table<Channel, Counter>>,
}

impl AllChannels {
    /// The counter of unrouted messages on a channel.
    pub(super) fn unrouted(&self, channel: &Channel) -> Arc<Counter> {
        let mut table = self.unrouted.lock();
        let counter = table.get(channel, Instant::now, || true, |_| Arc::default());
        counter.unwrap_or_else(|| table.other(&other(), Counter::default))
    }

    /// All counts in the order of the channels. Forgets counters that have not been used for an
    /// hour.
    pub(super) fn unrouted_counts(&self, now: Instant) -> Vec<(Channel, u64)> {
        let mut all: Vec<_> = {
            let mut table = self.unrouted.lock();
            table.sweep(now);
            table.all().map(|(channel, messages)| (channel.clone(), messages.get())).collect()
        };
        all.sort();
        all
    }
}
