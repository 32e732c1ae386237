//! What one ident does on one channel.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
};

use super::sizes::{BUCKETS, Sizes};
use crate::stats::Counter;

/// All connections of an ident share it: one that publishes holds it as long as it remembers the channel.
#[derive(Debug, Default)]
pub(crate) struct ChannelSeries {
    sizes: [Counter; BUCKETS],
    bytes: Counter,
    subscriptions: AtomicI64,
    /// Whether it is worth telling that there are no subscriptions.
    subscribed: AtomicBool,
}

impl ChannelSeries {
    /// Counts the messages of a run and their payload.
    pub(crate) fn published(&self, sizes: &Sizes, payload: usize) {
        sizes.each(|bucket, count| self.sizes[bucket].add(count.into()));
        self.bytes.add(payload as u64);
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
