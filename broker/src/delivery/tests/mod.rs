//! Tests of the outbox. Time is passed in: nothing here waits.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::task::noop_waker;
use hpfeeds::wire::{Frame, Limits};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    delivery::{
        batch::FrameBatch,
        context::DeliveryContext,
        outbox::{EnqueueOutcome, Outbox, TAKE_BATCHES, TAKE_BYTES},
        policy::{Rules, SlowPolicy},
        queue::OVERHEAD,
        reserve::Loan,
        slow_consumer::ConsumerState,
        state::{Drops, OutboxState, REPORT},
    },
    metrics::{levels::Levels, session::SessionMetrics, stats::Stats},
};

mod leftover;
mod properties;
mod reserve;
mod slow_consumer;
mod slow_history;

const WINDOW: Duration = Duration::from_secs(1);

const RULES: Rules = Rules {
    low_mark: 10_000,
    high_mark: 50_000,
    floor_rate: 1000,
    window: WINDOW,
    policy: SlowPolicy::Disconnect,
    deadline: Duration::from_secs(60),
    max_buffered: 1_000_000,
    reserve: 1_000_000,
};

/// The cost of a [`batch`]: too long to be put into one allocation with others.
const COST: usize = 5000;

struct Fixture {
    outbox: Arc<Outbox>,
    delivery: Arc<DeliveryContext>,
    taken: VecDeque<Bytes>,
    now: Instant,
}

fn fixture(rules: Rules) -> Fixture {
    let delivery = DeliveryContext::new(rules, Arc::default());
    let outbox = Outbox::new(SessionMetrics::for_test("sub"), ([127, 0, 0, 1], 1).into(), delivery.clone());
    Fixture { outbox, delivery, taken: VecDeque::new(), now: Instant::now() }
}

/// A batch of two messages. Of every other batch it is known that they are on one channel.
fn batch(number: u8) -> FrameBatch<'static> {
    let mut bytes = BytesMut::new();
    for _ in 0..2 {
        let payload = vec![number; (COST - OVERHEAD) / 2 - 9].into();
        let frame = Frame::Publish { ident: "i".parse().unwrap(), channel: "c".parse().unwrap(), payload };
        frame.encode(&mut bytes, Limits::default()).unwrap();
    }
    assert_eq!(bytes.len() + OVERHEAD, COST);
    let payload = bytes.len() - 2 * 9;
    let mut batch = FrameBatch::new(bytes.freeze(), 2, payload);
    batch.one_channel = number % 2 == 1;
    batch
}

impl Outbox {
    /// An outbox without a writer.
    pub(crate) fn for_test() -> Arc<Self> {
        let delivery = DeliveryContext::new(crate::config::Config::default().rules(), Arc::default());
        Self::new(SessionMetrics::for_test("test"), ([127, 0, 0, 1], 1).into(), delivery)
    }
}

impl OutboxState {
    fn deadline(&self) -> Option<Instant> {
        self.pressure.as_ref().and_then(|pressure| pressure.deadline)
    }

    fn loan(&self) -> Option<&Loan> {
        self.pressure.as_ref().and_then(|pressure| pressure.loan.as_deref())
    }
}

impl Fixture {
    fn enqueue(&self, number: u8) -> EnqueueOutcome {
        self.outbox.enqueue(&mut batch(number), || self.now)
    }

    /// Three publishers that wait with a batch each.
    async fn three_wait(&self, until: Instant) -> [JoinHandle<()>; 3] {
        let waiting = [1, 2, 3].map(|number| {
            let outbox = self.outbox.clone();
            tokio::spawn(async move { outbox.enqueue_waiting(&mut batch(number), until).await })
        });
        tokio::task::yield_now().await;
        waiting
    }

    /// Offers until it is told to wait or refused.
    fn fill(&self) -> EnqueueOutcome {
        loop {
            match self.enqueue(0) {
                EnqueueOutcome::Queued { .. } => {}
                other => return other,
            }
        }
    }

    fn take(&mut self) -> Poll<bool> {
        let waker = noop_waker();
        self.outbox.poll_take(&mut Context::from_waker(&waker), &mut self.taken)
    }

    /// Writes one batch.
    fn write(&mut self) -> u8 {
        if self.taken.is_empty() {
            assert_eq!(self.take(), Poll::Ready(true));
        }
        let batch = self.taken.pop_front().unwrap();
        self.outbox.sent(batch.len(), 1, || self.now);
        *batch.last().unwrap()
    }

    /// Goes through what was queued when the outbox was cleared.
    fn clear(&self) {
        while self.outbox.clear_portion() {}
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn make_slow(&mut self) {
        assert!(matches!(self.fill(), EnqueueOutcome::Wait(_)));
        self.pass(WINDOW);
    }

    fn buffered(&self) -> usize {
        self.delivery.buffered.load(Relaxed)
    }

    fn stats(&self) -> Stats {
        self.delivery.stats()
    }
}

impl DeliveryContext {
    fn stats(&self) -> Stats {
        let levels = Levels { queued_bytes: self.buffered.load(Relaxed), ..Levels::default() };
        Stats::of(&self.counters.totals(), &levels)
    }
}

#[test]
fn batches_come_out_in_order() {
    let mut f = fixture(RULES);
    assert_eq!(f.take(), Poll::Pending);
    assert_eq!(f.enqueue(1), EnqueueOutcome::Queued { more: true });
    assert_eq!(f.enqueue(2), EnqueueOutcome::Queued { more: true });
    assert_eq!(f.enqueue(3), EnqueueOutcome::Queued { more: false });
    assert_eq!(f.buffered(), 3 * COST);
    assert_eq!((f.write(), f.write(), f.write()), (1, 2, 3));
    assert_eq!((f.buffered(), f.stats().delivered), (0, 6));
    assert_eq!(f.take(), Poll::Pending);
}

#[test]
fn publishers_wait_above_the_low_mark() {
    let mut f = fixture(RULES);
    assert_eq!(f.fill(), EnqueueOutcome::Wait(f.now + RULES.slice()));
    assert_eq!(f.buffered(), 3 * COST);
    f.pass(RULES.slice() / 2);
    assert_eq!(f.enqueue(0), EnqueueOutcome::Wait(f.now + RULES.slice() / 2));
    f.pass(WINDOW * 3 / 4);
    assert_eq!(f.enqueue(0), EnqueueOutcome::Wait(f.now + RULES.slice() / 2));
    f.write();
    assert_eq!(f.enqueue(0), EnqueueOutcome::Queued { more: false });
}

#[test]
fn expiry_leaves_the_rest_of_a_frame_that_was_begun() {
    let frame = (COST - OVERHEAD) / 2;
    for (written, left) in [(0, 0), (1, frame), (frame, 0), (frame + 1, 2 * frame)] {
        let mut f = fixture(RULES);
        f.make_slow();
        let _ = f.fill();
        assert_eq!(f.take(), Poll::Ready(true));
        f.outbox.sent(written, 0, || f.now);
        let before = f.stats();
        f.outbox.expire(&mut f.taken, written, f.now);
        f.clear();
        let rest: usize = f.taken.iter().map(Bytes::len).sum();
        assert_eq!(rest, if written > 0 { left.max(written) } else { 0 }, "{written}");
        let begun = rest / frame;
        let after = f.stats();
        assert_eq!(after.dropped - before.dropped, 20 - begun as u64, "{written}");
        assert_eq!(after.delivered, begun as u64, "{written}");
        assert_eq!(f.enqueue(0), EnqueueOutcome::Refused);
        // The last word comes after it.
        f.outbox.close(Some(Bytes::from_static(b"\0\0\0\x05\0")));
        if !f.taken.is_empty() {
            f.outbox.sent(rest - written, 1, || f.now);
            f.taken.clear();
        }
        assert_eq!(f.take(), Poll::Ready(true));
        f.outbox.sent(5, 1, || f.now);
        f.taken.clear();
        assert_eq!((f.take(), f.buffered()), (Poll::Ready(false), 0), "{written}");
    }
}

#[test]
fn drop_oldest_drops_whole_batches_that_are_not_begun() {
    let mut f = fixture(Rules { policy: SlowPolicy::DropOldest, ..RULES });
    let _ = f.enqueue(1);
    assert_eq!(f.take(), Poll::Ready(true));
    f.outbox.sent(100, 0, || f.now);
    f.make_slow();
    for number in 2..=30 {
        assert!(matches!(f.enqueue(number), EnqueueOutcome::Queued { .. }));
    }
    assert!(f.buffered() <= RULES.high_mark);
    f.taken.clear();
    f.outbox.sent(COST - OVERHEAD - 100, 1, || f.now);
    let mut last = Vec::new();
    while f.take() == Poll::Ready(true) {
        last.extend(f.taken.drain(..).map(|batch| *batch.last().unwrap()));
    }
    assert_eq!(last, (22..=30).collect::<Vec<_>>());
    // Of 1, three of `make_slow`, and 29.
    assert_eq!(f.stats().dropped + 2 * 10, 2 * (1 + 2 + 29));
    assert_eq!(f.outbox.lock().deadline(), None);
    let dropped = f.delivery.counters.drops.entries();
    assert_eq!((dropped.len(), &*dropped[0].ident, &*dropped[0].channel), (1, "sub", "c"));
}

#[test]
fn drops_of_a_batch_are_counted_by_channel() {
    let f = fixture(Rules { high_mark: 0, low_mark: 0, ..RULES });
    let _ = f.enqueue(0);
    let mut bytes = BytesMut::new();
    // By turns, on more channels than are counted together: `a` twenty times, the next nineteen
    // times, and so on.
    for n in (0..20).flat_map(|last| 0..=last) {
        let (ident, channel) = ("i".parse().unwrap(), char::from(b'a' + n).to_string().parse().unwrap());
        Frame::Publish { ident, channel, payload: Bytes::new() }.encode(&mut bytes, Limits::default()).unwrap();
    }
    let mut batch = FrameBatch::received(&bytes, 210, 0);
    assert!(matches!(f.outbox.enqueue(&mut batch, || f.now), EnqueueOutcome::Wait(_)));
    assert_eq!(f.outbox.enqueue(&mut batch, || f.now + WINDOW), EnqueueOutcome::Refused);
    let drops = f.delivery.counters.drops.entries();
    let drops: BTreeSet<_> = drops.iter().map(|drop| (drop.channel.as_str(), drop.messages)).collect();
    let names: Vec<_> = (b'a'..=b't').map(|name| char::from(name).to_string()).collect();
    let expected = names.iter().map(String::as_str).zip((1..=20).rev()).collect();
    assert_eq!((drops, f.stats().dropped), (expected, 210));
}

#[test]
fn drop_oldest_keeps_the_newest_when_all_together_are_at_their_bound() {
    let mut f = fixture(Rules { max_buffered: 6000, policy: SlowPolicy::DropOldest, ..RULES });
    assert!(matches!(f.enqueue(1), EnqueueOutcome::Queued { .. }));
    assert!(matches!(f.enqueue(2), EnqueueOutcome::Wait(_)));
    f.pass(WINDOW);
    for number in [3, 4] {
        assert_eq!(f.enqueue(number), EnqueueOutcome::Queued { more: false });
        let left = f.outbox.lock().queue.iter().map(|batch| *batch.last().unwrap()).collect::<Vec<_>>();
        assert_eq!(left, [number]);
    }
}

#[test]
fn all_outboxes_together_have_a_bound() {
    let mut f = fixture(Rules { max_buffered: 6000, ..RULES });
    assert_eq!(f.enqueue(0), EnqueueOutcome::Queued { more: true });
    // Crowded: what is healthy is waited for as soon as it has anything queued, ...
    assert!(matches!(f.enqueue(0), EnqueueOutcome::Wait(_)));
    f.pass(WINDOW);
    // ... and what is slow meets the policy.
    assert_eq!(f.enqueue(0), EnqueueOutcome::Refused);
    // A subscriber with nothing queued gets one batch all the same.
    let other = Outbox::new(SessionMetrics::for_test("other"), ([127, 0, 0, 1], 2).into(), f.delivery.clone());
    assert!(matches!(other.enqueue(&mut batch(0), || f.now), EnqueueOutcome::Queued { .. }));
    assert_eq!(f.buffered(), 2 * COST);
    drop(other);
    assert_eq!(f.buffered(), COST);
}

#[test]
fn a_queue_left_by_a_broken_connection_is_counted() {
    let mut f = fixture(RULES);
    let _ = f.enqueue(1);
    let _ = f.enqueue(2);
    let _ = f.enqueue(3);
    assert_eq!(f.take(), Poll::Ready(true));
    // The first frame arrived, the second was begun.
    f.outbox.sent(COST - OVERHEAD - 1, 0, || f.now);
    f.outbox.abandon(&mut f.taken, COST - OVERHEAD - 1);
    f.clear();
    assert_eq!((f.stats().delivered, f.stats().discarded, f.buffered()), (1, 5, 0));
    assert_eq!(f.enqueue(4), EnqueueOutcome::Refused);
    assert_eq!(f.take(), Poll::Ready(false));
    // A batch that comes too late is counted as well.
    assert_eq!((f.stats().delivered, f.stats().discarded, f.stats().dropped), (1, 7, 0));
}

#[test]
fn the_writer_takes_a_bounded_amount() {
    for (len, batches) in [(3000, TAKE_BATCHES), (TAKE_BYTES / 4, 4), (TAKE_BYTES / 4 - 1, 5), (10 * TAKE_BYTES, 1)] {
        let mut f = fixture(Rules { low_mark: usize::MAX, max_buffered: usize::MAX, ..RULES });
        for _ in 0..=TAKE_BATCHES {
            let _ = f.outbox.enqueue(&mut FrameBatch::new(vec![0; len].into(), 1, 0), || f.now);
        }
        assert_eq!(f.take(), Poll::Ready(true));
        assert_eq!(f.taken.len(), batches, "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_publishers_are_served_in_turn() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    let waiting = f.three_wait(until).await;
    let mut written = Vec::new();
    for _ in 0..6 {
        written.push(f.write());
        // The publisher that is woken has its turn.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(written, [0, 0, 0, 1, 2, 3]);
    for task in waiting {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn publishers_stop_waiting_for_a_subscriber_that_is_slow_or_gone() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    f.outbox.enqueue_waiting(&mut batch(1), until).await;
    assert_eq!(Instant::now(), f.now + WINDOW);
    assert_eq!(f.buffered(), 4 * COST);

    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    let outbox = f.outbox.clone();
    let waiting = tokio::spawn(async move { outbox.enqueue_waiting(&mut batch(1), until).await });
    tokio::task::yield_now().await;
    f.outbox.close(None);
    waiting.await.unwrap();
    assert!(Instant::now() < until);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_about_to_wait_learns_that_the_subscriber_is_gone() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    f.outbox.close(None);
    for number in 1..=3 {
        f.outbox.enqueue_waiting(&mut batch(number), until).await;
    }
    assert_eq!(Instant::now(), f.now);
    assert_eq!(f.stats().discarded, 6);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_about_to_wait_learns_that_there_is_room() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    // The first write that makes room may be the last one.
    assert_eq!(f.write(), 0);
    let mut written = Vec::new();
    for number in 1..=3 {
        f.outbox.enqueue_waiting(&mut batch(number), until).await;
        written.push(f.write());
    }
    assert_eq!((written, Instant::now()), (vec![0, 0, 1], f.now));
}

#[test]
fn drops_are_logged_now_and_then_with_totals() {
    let mut drops = Drops::default();
    let start = Instant::now();
    assert_eq!(drops.count(2, start), Some(2));
    assert_eq!(drops.count(3, start + REPORT / 2), None);
    assert_eq!(drops.count(4, start + REPORT), Some(7));
    assert_eq!(drops.total, 9);
}

#[tokio::test(start_paused = true)]
async fn waiting_publishers_go_on_when_the_subscriber_is_rate_limited() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    let EnqueueOutcome::Wait(until) = f.fill() else { panic!("no wait") };
    let waiting = f.three_wait(until).await;
    f.outbox.pause_for_rate_limit();
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!((Instant::now(), f.buffered()), (f.now, 6 * COST));
}
