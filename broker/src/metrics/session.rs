//! The metrics handle of one session: what the session and its outbox count.

use std::sync::Arc;

use hpfeeds::wire::{Channel, Ident};

use crate::metrics::{
    category::Category,
    channels::{ChannelSeries, Subscribed},
    connection::ConnectionCounters,
    ident::IdentSeries,
};

/// One authenticated connection. A guard: the connection counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct SessionMetrics {
    ident: Ident,
    series: Arc<IdentSeries>,
    counters: Arc<ConnectionCounters>,
}

impl SessionMetrics {
    pub(super) fn open(ident: Ident, owner: &str, series: Arc<IdentSeries>) -> Self {
        let counters = series.open(owner);
        Self { ident, series, counters }
    }

    /// The client's ident, also when its series is that of `other`.
    pub(crate) fn ident(&self) -> &Ident {
        &self.ident
    }

    /// The series of a channel that the client publishes to.
    pub(crate) fn channel(&self, channel: &Channel) -> Arc<ChannelSeries> {
        self.series.channel(channel)
    }

    /// Counts a subscription until the guard is dropped.
    pub(crate) fn subscribed(&self, channel: &Channel) -> Subscribed {
        Subscribed::new(self.series.channel(channel))
    }

    /// The counters of the connection, for as long as somebody wants to read them.
    pub(crate) fn counters(&self) -> &Arc<ConnectionCounters> {
        &self.counters
    }

    /// Messages were published. Only for the connection's task, as the next.
    pub(crate) fn published(&self, messages: u32) {
        self.counters.published.add(messages.into());
    }

    /// So many copies of published messages were offered to subscribers.
    pub(crate) fn copied(&self, copies: u64) {
        self.counters.copies.add(copies);
    }

    /// Messages were taken out of the queue, to be written. Only under the lock of the outbox.
    pub(crate) fn taken(&self, messages: u64) {
        self.counters.taken.add(messages);
    }

    /// Bytes were read. Only for the connection's task.
    pub(crate) fn received(&self, bytes: usize) {
        self.counters.received.add(bytes as u64);
    }

    /// The number of received bytes that have not been acted on. Only for the connection's task.
    pub(crate) fn unparsed(&self, bytes: usize) {
        self.counters.unparsed.set(bytes as u64);
    }

    /// A batch was queued. Only under the lock of its outbox, as the next three.
    pub(crate) fn queued(&self, bytes: usize, payload: usize) {
        self.counters.queued.add(bytes as u64);
        self.counters.filled.add(payload as u64);
    }

    /// Queued bytes were written.
    pub(crate) fn sent(&self, bytes: usize) {
        self.counters.queued.sub(bytes as u64);
        self.counters.drained.add(bytes as u64);
    }

    /// The bytes that were written and read so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.counters.drained.get(), self.counters.received.get())
    }

    /// Queued bytes were given up.
    pub(crate) fn unqueued(&self, bytes: usize) {
        self.counters.queued.sub(bytes as u64);
    }

    /// Messages were dropped because the subscriber was slow.
    pub(crate) fn dropped(&self, messages: u64) {
        self.counters.dropped.add(messages);
    }

    /// The subscriber is at its high mark, and has a deadline.
    pub(crate) fn deadline(&self) {
        self.series.deadline();
    }

    /// The subscriber has recovered before its deadline.
    pub(crate) fn recovered(&self) {
        self.series.recovered();
    }

    /// Counts the fault that ends this session.
    pub(crate) fn error(&self, category: Category) {
        self.counters.blame();
        self.series.error(category);
    }

    /// Counts something that the key does not allow; the session goes on.
    pub(crate) fn denied(&self, category: Category) {
        self.series.error(category);
    }

    /// The session is refused. Counts an invalid message, unless another [`error`](Self::error) has
    /// been counted: returns whether it was an invalid message.
    pub(crate) fn refused(&self) -> bool {
        let is_invalid = !self.counters.is_blamed();
        if is_invalid {
            self.error(Category::InvalidMessage);
        }
        is_invalid
    }

    /// A handle that belongs to no [`Metrics`](crate::metrics::registry::Metrics).
    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    pub(crate) fn for_test(ident: &str) -> Self {
        Self::open(ident.parse().unwrap(), ident, Arc::new(IdentSeries::new(&Arc::default())))
    }

    /// How many messages the writer has taken.
    #[cfg(test)]
    pub(crate) fn taken_messages(&self) -> u64 {
        self.counters.taken.get()
    }

    /// How many bytes are queued.
    #[cfg(test)]
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.counters.queued.get()
    }
}

impl Drop for SessionMetrics {
    fn drop(&mut self) {
        self.series.close(&self.counters);
    }
}
