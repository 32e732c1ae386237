//! The fan-out of received batches to subscribers: consecutive batches with the same subscribers
//! are coalesced, so that alternating channels cost one enqueue a read, not one a message.

use std::{mem, sync::Arc};

use bytes::Bytes;
use hpfeeds::wire::{self, BatchExtent};
use tokio::time::Instant;

use crate::{
    delivery::{
        batch::FrameBatch,
        outbox::{EnqueueOutcome, Outbox},
    },
    metrics::{counters::Counters, session::SessionMetrics, stall::Stall},
    net::buffer_pool::BufferPool,
    routing::{router::TopicHandle, topic::Subscribers},
    session::{read_buffer::ReadBuffer, storing::Storage, work_budget::WorkBudget},
};

/// Coalesced batches at the start of a read buffer, and the subscribers that the channels of all of
/// them have.
#[derive(Default)]
pub(crate) struct Fanout {
    /// `None` while it is empty.
    subscribers: Option<Subscribers>,
    /// How far the frames reach.
    extent: BatchExtent,
    /// Their bytes without headers and names.
    payload: usize,
    /// How many batches were coalesced, each of one channel.
    batches: usize,
    /// The parts of the store that they go to.
    storage: Storage,
    /// Some subscriber gets stored channels from its mailbox alone.
    withholds: bool,
    /// The first [`MARKED`] subscribers for which that is so of the channels of these batches, a bit
    /// for each.
    withheld: u64,
}

/// Among so many subscribers those are told apart that get something from their mailboxes alone. With
/// more, each stored channel goes by itself.
const MARKED: usize = 64;

impl Fanout {
    pub(crate) fn extent(&self) -> BatchExtent {
        self.extent
    }

    pub(super) fn storage(&self) -> Storage {
        self.storage
    }

    /// Whether a batch of this channel may be added, as far as that is known without looking at its
    /// subscribers.
    pub(super) fn is_known_to_take(&self, topic: &TopicHandle, storage: Storage) -> bool {
        self.storage == storage
            && self.subscribers.as_ref().is_some_and(|own| topic.is_known_to_have(own))
            && self.accepts(topic)
    }

    /// Whether a batch for these subscribers may be added.
    pub(super) fn takes(&self, topic: &TopicHandle, subscribers: &Subscribers, storage: Storage) -> bool {
        let takes = |own: &Subscribers| self.storage == storage && own.are(subscribers) && self.accepts(topic);
        self.subscribers.as_ref().is_none_or(takes)
    }

    /// Whether the same subscribers get the channel from their mailboxes alone.
    fn accepts(&self, topic: &TopicHandle) -> bool {
        !self.withholds || (self.subscribers() <= MARKED && self.marks(topic.channel()) == self.withheld)
    }

    fn marks(&self, channel: &str) -> u64 {
        let first = self.subscribers.iter().flat_map(Subscribers::iter).take(MARKED).enumerate();
        first.filter(|(_, outbox)| outbox.withholds(channel)).fold(0, |marks, (at, _)| marks | 1 << at)
    }

    /// Sets the subscribers and the storage, if it is empty.
    pub(super) fn begin(&mut self, topic: &TopicHandle, subscribers: Subscribers, storage: Storage) {
        if self.subscribers.is_none() {
            self.storage = storage;
            self.withholds = storage.journal && subscribers.iter().any(|outbox| outbox.withholds_any());
            self.subscribers = Some(subscribers);
            self.withheld = if self.withholds { self.marks(topic.channel()) } else { 0 };
        }
    }

    /// Whether the batches go to nobody.
    pub(super) fn is_unrouted(&self) -> bool {
        !self.storage.journal && self.subscribers.as_ref().is_none_or(Subscribers::is_empty)
    }

    /// The number of subscribers.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.as_ref().map_or(0, Subscribers::len)
    }

    /// Adds the batch that follows.
    pub(crate) fn add(&mut self, batch: BatchExtent, payload: usize) {
        debug_assert!(self.subscribers.is_some(), "the subscribers are known, if there are any");
        self.extent.len += batch.len;
        self.extent.messages += batch.messages;
        self.payload += payload;
        self.batches += 1;
    }

    /// Takes the batches out of the buffer, counts and queues them, and charges each time to the budget.
    /// Returns what is left to do when a subscriber has no room yet. Then it is empty.
    pub(crate) fn queue(
        &mut self,
        counters: &Counters,
        session: &SessionMetrics,
        buffer: &mut ReadBuffer,
        pool: &Arc<BufferPool>,
        budget: &mut WorkBudget,
    ) -> Option<PendingFanout> {
        let Self { subscribers, extent, payload, batches, .. } = mem::take(self);
        // Received, whatever becomes of them.
        counters.received_messages.add(extent.messages.into());
        counters.received_bytes.add(extent.len as u64);
        session.published(extent.messages);
        let Some(subscribers) = subscribers.filter(|subscribers| !subscribers.is_empty()) else {
            counters.unrouted.add(extent.messages.into());
            buffer.skip(extent.len);
            return None;
        };
        // Taken out of the read buffer if they are long, else copied when an outbox keeps them.
        let (mut batch, taken) = match buffer.take(extent.len, pool) {
            Some((frames, allocated)) => (FrameBatch::new(frames, extent.messages, payload), Some(allocated)),
            None => (FrameBatch::received(&buffer.bytes[..extent.len], extent.messages, payload), None),
        };
        batch.one_channel = batches == 1;
        let holds = taken.unwrap_or(extent.len);
        let waiting = offer(
            &mut batch,
            batches,
            subscribers.iter(),
            subscribers.len(),
            |copies| session.copied(copies),
            counters,
            budget,
        );
        let pending = (!waiting.is_empty()).then(|| PendingFanout::new(batch.into_own(), holds, waiting));
        // Only now, as they were still in the read buffer.
        if taken.is_none() {
            buffer.skip(extent.len);
        }
        pending
    }

    /// The same for batches that were taken out of the buffer already, and went to the store. If that
    /// `is_stored` by the journal, subscribers get what their mailboxes cover from there.
    pub(super) fn queue_stored(
        &mut self,
        counters: &Counters,
        session: &SessionMetrics,
        frames: Bytes,
        holds: usize,
        is_stored: bool,
        budget: &mut WorkBudget,
    ) -> Option<PendingFanout> {
        let Self { subscribers, extent, payload, batches, withholds, withheld, .. } = mem::take(self);
        counters.received_messages.add(extent.messages.into());
        counters.received_bytes.add(extent.len as u64);
        session.published(extent.messages);
        budget.charge(batches);
        let subscribers = subscribers.unwrap_or_default();
        if subscribers.is_empty() && !is_stored {
            counters.unrouted.add(extent.messages.into());
        }
        let first = || wire::FrameBatch::checked(&frames).first_channel().map(str::to_owned);
        let is_asked = withholds && is_stored && subscribers.len() > MARKED;
        let channel = is_asked.then(first).flatten().unwrap_or_default();
        let gets = |(at, outbox): &(usize, &Arc<Outbox>)| {
            let is_withheld = if *at < MARKED { withheld & 1 << at != 0 } else { outbox.withholds(&channel) };
            !(withholds && is_stored && is_withheld)
        };
        let all = subscribers.iter().enumerate().filter(gets).map(|(_, outbox)| outbox);
        let mut batch = FrameBatch::new(frames, extent.messages, payload);
        batch.one_channel = batches == 1;
        let waiting = offer(&mut batch, batches, all, usize::MAX, |copies| session.copied(copies), counters, budget);
        (!waiting.is_empty()).then(|| PendingFanout::new(batch.into_own(), holds, waiting))
    }
}

/// Outboxes that have no room yet, and when to try again at the latest.
type Waiting = Vec<(Arc<Outbox>, Instant)>;

/// Offers a batch to each subscriber; publishers wait for those that keep up and have no room.
/// `count` is how many these are, or more; `copied` counts the copies.
#[inline(always)]
#[allow(clippy::inline_always, reason = "with a call a message alone costs 1 % more instructions")]
fn offer<'a>(
    batch: &mut FrameBatch<'_>,
    batches: usize,
    subscribers: impl Iterator<Item = &'a Arc<Outbox>>,
    count: usize,
    copied: impl FnOnce(u64),
    counters: &Counters,
    budget: &mut WorkBudget,
) -> Waiting {
    let (mut waiting, mut left, mut offered) = (Vec::new(), count, 0);
    for outbox in subscribers {
        offered += 1;
        left = left.saturating_sub(1);
        batch.is_last = left == 0 && waiting.is_empty();
        budget.charge(match outbox.enqueue(batch, Instant::now) {
            EnqueueOutcome::Queued { .. } => 1,
            // Drops are counted for each channel.
            EnqueueOutcome::Refused => batches,
            EnqueueOutcome::Wait(until) => {
                waiting.push((outbox.clone(), until));
                1
            }
        });
    }
    copied(u64::from(batch.messages) * offered);
    if !waiting.is_empty() {
        counters.awaited.add(u64::from(batch.messages) * waiting.len() as u64);
    }
    waiting
}

/// Hands one message to subscribers, and waits for those that keep up and have no room.
#[cfg(feature = "cli")]
pub(crate) async fn deliver(
    frame: Bytes,
    payload: usize,
    subscribers: &Subscribers,
    metrics: &crate::metrics::registry::Metrics,
) {
    let holds = frame.len();
    let mut batch = FrameBatch::new(frame, 1, payload);
    let (counters, mut budget) = (&*metrics.counters, WorkBudget::default());
    // No session publishes it.
    let copied = |copies| counters.copies.add(copies);
    let waiting = offer(&mut batch, 1, subscribers.iter(), subscribers.len(), copied, counters, &mut budget);
    if !waiting.is_empty() {
        PendingFanout::new(batch.into_own(), holds, waiting).deliver(metrics.stall()).await;
    }
}

/// A batch that a subscriber which keeps up has no room for yet.
pub(crate) struct PendingFanout {
    batch: FrameBatch<'static>,
    /// The memory that it holds on to, in bytes.
    holds: usize,
    /// The outboxes that it has still to go to, and when to try again at the latest.
    waiting: Vec<(Arc<Outbox>, Instant)>,
}

impl PendingFanout {
    fn new(batch: FrameBatch<'static>, holds: usize, waiting: Waiting) -> Self {
        Self { batch, holds: mem::size_of_val(&*waiting) + holds, waiting }
    }

    /// The memory that it holds on to, in bytes.
    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// The length of the batch, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }

    /// Waits until each of the outboxes has it.
    pub(crate) async fn deliver(mut self, _stall: Stall) {
        while let Some((outbox, until)) = self.waiting.last() {
            outbox.enqueue_waiting(&mut self.batch, *until).await;
            outbox.decided(&self.batch);
            self.waiting.pop();
        }
    }
}

impl Drop for PendingFanout {
    fn drop(&mut self) {
        // The broker stops, and does not wait any more.
        for (outbox, _) in &self.waiting {
            outbox.discard(&self.batch);
            outbox.decided(&self.batch);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        auth::key::Key,
        routing::{router::Router, subscriptions::Subscriptions},
    };

    #[test]
    fn a_refused_fanout_costs_a_step_for_each_batch() {
        for (closed, steps) in [(false, 2), (true, 6)] {
            let (router, all) = (Arc::<Router>::default(), Key::new("test", "s").unwrap().subscribe(["*"]).unwrap());
            let topic = router.topic(&"c".parse().unwrap());
            let subscribers = [(); 2].map(|()| {
                let mut subscriber = Subscriptions::new(router.clone(), Outbox::for_test());
                subscriber.add("c".parse().unwrap(), &all).unwrap();
                subscriber
            });
            for subscriber in subscribers.iter().filter(|_| closed) {
                subscriber.outbox().close(None);
            }
            let mut buffer = ReadBuffer::new(BytesMut::from(&[0; 100][..]));
            let pool = Arc::new(BufferPool::new(usize::MAX));
            let (mut fanout, mut budget) = (Fanout::default(), WorkBudget::default());
            let session = SessionMetrics::for_test("publisher");
            fanout.begin(&topic, topic.subscribers(), Storage::default());
            for _ in 0..3 {
                fanout.add(BatchExtent { len: 30, messages: 1 }, 10);
            }
            assert!(fanout.queue(&Counters::default(), &session, &mut buffer, &pool, &mut budget).is_none());
            assert_eq!((budget.units(), buffer.bytes.len(), fanout.extent().len), (steps, 10, 0));
        }
    }
}
