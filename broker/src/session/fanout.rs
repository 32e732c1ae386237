//! Runs that the same subscribers get, gathered: on channels by turns a message costs little more than on one.

use std::{mem, sync::Arc};

use hpfeeds::wire::BatchExtent;
use tokio::time::Instant;

use crate::{
    delivery::{
        batch::FrameBatch,
        outbox::{EnqueueOutcome, Outbox},
    },
    metrics::{counters::Counters, stall::Stall},
    net::buffer_pool::BufferPool,
    routing::{router::TopicHandle, topic::Subscribers},
    session::read_buffer::ReadBuffer,
};

/// Whole PUBLISH frames at the start of a read buffer, and who subscribes to the channels of all of them.
#[derive(Default)]
pub(crate) struct Fanout {
    /// `None` while it is empty.
    subscribers: Option<Subscribers>,
    /// How far it reaches.
    extent: BatchExtent,
    payload: usize,
    runs: usize,
}

impl Fanout {
    pub(crate) fn extent(&self) -> BatchExtent {
        self.extent
    }

    /// Whether what is published to a channel may be added, as far as that is known without looking at its lists.
    pub(crate) fn is_known_to_take(&self, topic: &TopicHandle) -> bool {
        self.subscribers.as_ref().is_some_and(|own| topic.is_known_to_have(own))
    }

    /// Whether what they get may be added.
    pub(crate) fn takes(&self, subscribers: &Subscribers) -> bool {
        self.subscribers.as_ref().is_none_or(|own| own.are(subscribers))
    }

    /// If it is empty, these are who gets what is added.
    pub(crate) fn begin(&mut self, subscribers: Subscribers) {
        self.subscribers.get_or_insert(subscribers);
    }

    /// Whether what is added goes nowhere.
    pub(crate) fn is_unrouted(&self) -> bool {
        self.subscribers.as_ref().is_none_or(Subscribers::is_empty)
    }

    /// How many they are.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.as_ref().map_or(0, Subscribers::len)
    }

    /// Adds the run that follows.
    pub(crate) fn add(&mut self, run: BatchExtent, payload: usize) {
        debug_assert!(self.subscribers.is_some(), "somebody gets it, or it is known that nobody does");
        self.extent.len += run.len;
        self.extent.messages += run.messages;
        self.payload += payload;
        self.runs += 1;
    }

    /// Takes it out of the buffer, counts and queues it, and adds to `work` how often. Returns what is left to do when
    /// somebody has no room for it yet. Then it is empty.
    pub(crate) fn queue(
        &mut self,
        counters: &Counters,
        buffer: &mut ReadBuffer,
        pool: &Arc<BufferPool>,
        work: &mut usize,
    ) -> Option<PendingFanout> {
        let Self { subscribers, extent, payload, runs } = mem::take(self);
        counters.received_messages.add(extent.messages.into());
        counters.received_bytes.add(extent.len as u64);
        let Some(subscribers) = subscribers.filter(|subscribers| !subscribers.is_empty()) else {
            counters.unrouted.add(extent.messages.into());
            buffer.skip(extent.len);
            return None;
        };
        let (mut run, taken) = match buffer.take(extent.len, pool) {
            Some((frames, allocated)) => (FrameBatch::new(frames, extent.messages, payload), Some(allocated)),
            None => (FrameBatch::received(&buffer.bytes[..extent.len], extent.messages, payload), None),
        };
        run.one_channel = runs == 1;
        let mut waiting = Vec::new();
        for outbox in subscribers.iter() {
            *work += match outbox.enqueue(&mut run, Instant::now) {
                EnqueueOutcome::Queued { .. } => 1,
                // What is dropped is counted for each channel.
                EnqueueOutcome::Refused => runs,
                EnqueueOutcome::Wait(until) => {
                    waiting.push((outbox.clone(), until));
                    1
                }
            };
        }
        let pending = (!waiting.is_empty()).then(|| {
            let holds = mem::size_of_val(&*waiting) + taken.unwrap_or(extent.len);
            PendingFanout { run: run.into_own(), holds, waiting }
        });
        if taken.is_none() {
            buffer.skip(extent.len);
        }
        pending
    }
}

/// A run that somebody who keeps up has no room for yet.
pub(crate) struct PendingFanout {
    run: FrameBatch<'static>,
    /// How many bytes it holds on to.
    holds: usize,
    /// Whose outbox it has still to go to, and when to try again at the latest.
    waiting: Vec<(Arc<Outbox>, Instant)>,
}

impl PendingFanout {
    /// How many bytes it holds on to.
    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// How long the run is.
    pub(crate) fn len(&self) -> usize {
        self.run.len()
    }

    /// Waits until everybody has it.
    pub(crate) async fn deliver(mut self, _stall: Stall) {
        while let Some((outbox, until)) = self.waiting.last() {
            outbox.enqueue_waiting(&mut self.run, *until).await;
            self.waiting.pop();
        }
    }
}

impl Drop for PendingFanout {
    fn drop(&mut self) {
        // Nobody waits any more, as the broker stops.
        for (outbox, _) in &self.waiting {
            outbox.discard(&self.run);
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
    fn what_is_dropped_costs_a_step_for_each_run() {
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
            let (mut fanout, mut work) = (Fanout::default(), 0);
            fanout.begin(topic.subscribers());
            for _ in 0..3 {
                fanout.add(BatchExtent { len: 30, messages: 1 }, 10);
            }
            assert!(fanout.queue(&Counters::default(), &mut buffer, &pool, &mut work).is_none());
            assert_eq!((work, buffer.bytes.len(), fanout.extent().len), (steps, 10, 0));
        }
    }
}
