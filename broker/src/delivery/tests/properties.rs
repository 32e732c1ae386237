//! Whatever publishers, the writer and the connection do: every message is accounted for, and so is
//! every byte.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use hpfeeds::wire::{FrameRef, HEADER_LEN, Header};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::Instant;

use super::*;
use crate::{
    metrics::{books::Books, session::SessionMetrics},
    util::property::cases,
};

/// The next thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A batch of so many messages of so many bytes for one of the subscribers.
    Enqueue {
        to: usize,
        messages: u8,
        payload: usize,
    },
    /// The writer takes what is queued, and the system takes so many bytes of it.
    Write {
        of: usize,
        bytes: usize,
    },
    Pass(u64),
    Pause(usize),
    Resume(usize),
    Close {
        of: usize,
        last: bool,
    },
    Expire(usize),
    Revoke(usize),
    Abandon(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let of = || 0..2usize;
    prop_oneof![
        40 => (of(), 1..5u8, 4..400usize).prop_map(|(to, messages, payload)| Step::Enqueue { to, messages, payload }),
        // Too long to be put into one allocation with others.
        5 => (of(), 1..3u8, 2100..2400usize).prop_map(|(to, messages, payload)| Step::Enqueue { to, messages, payload }),
        25 => (of(), 0..1500usize).prop_map(|(of, bytes)| Step::Write { of, bytes }),
        15 => select(&[1u64, 300, 1000, 2500][..]).prop_map(Step::Pass),
        3 => of().prop_map(Step::Pause),
        3 => of().prop_map(Step::Resume),
        1 => (of(), any::<bool>()).prop_map(|(of, last)| Step::Close { of, last }),
        1 => of().prop_map(Step::Expire),
        1 => of().prop_map(Step::Revoke),
        1 => of().prop_map(Step::Abandon),
    ]
}

/// A subscriber, and what its writer has done.
struct Reader {
    outbox: Arc<Outbox>,
    taken: VecDeque<Bytes>,
    /// Of the first.
    written: usize,
    /// Everything that has been written.
    stream: Vec<u8>,
    /// It cannot be written to any more.
    broken: bool,
}

/// Numbered messages, so that each is another.
fn numbered(first: u32, messages: u8, payload: usize) -> FrameBatch<'static> {
    let mut bytes = BytesMut::new();
    for number in (first..).take(messages.into()) {
        let mut payload = vec![0; payload];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let (ident, channel) = ("i".parse().unwrap(), if number % 3 == 0 { "c" } else { "d" }.parse().unwrap());
        Frame::Publish { ident, channel, payload: payload.into() }.encode(&mut bytes, Limits::default()).unwrap();
    }
    FrameBatch::new(bytes.freeze(), messages.into(), payload * usize::from(messages))
}

/// The numbers in whole frames, and what is left.
fn numbers(mut bytes: &[u8]) -> (Vec<u32>, &[u8]) {
    let mut numbers = Vec::new();
    while let Ok(Some(header)) = Header::parse(bytes, Limits::default())
        && header.length <= bytes.len()
    {
        if let Ok(FrameRef::Publish { payload, .. }) = FrameRef::parse(header.opcode, &bytes[HEADER_LEN..header.length])
        {
            numbers.push(u32::from_be_bytes(*payload.first_chunk().unwrap()));
        }
        bytes = &bytes[header.length..];
    }
    (numbers, bytes)
}

impl Reader {
    fn new(delivery: &Arc<DeliveryContext>, ident: &str) -> Self {
        let outbox = Outbox::new(SessionMetrics::for_test(ident), ([127, 0, 0, 1], 1).into(), delivery.clone());
        Self { outbox, taken: VecDeque::new(), written: 0, stream: Vec::new(), broken: false }
    }

    /// As the writer does it.
    fn write(&mut self, mut bytes: usize, now: Instant) {
        if self.broken {
            return;
        }
        if self.taken.is_empty() {
            let waker = noop_waker();
            let _ = self.outbox.poll_take(&mut Context::from_waker(&waker), &mut self.taken);
        }
        let (mut sent, mut batches) = (0, 0);
        while let Some(batch) = self.taken.front() {
            let part = bytes.min(batch.len() - self.written);
            self.stream.extend_from_slice(&batch[self.written..][..part]);
            (sent, bytes, self.written) = (sent + part, bytes - part, self.written + part);
            if self.written < batch.len() {
                break;
            }
            self.taken.pop_front();
            (self.written, batches) = (0, batches + 1);
        }
        self.outbox.sent(sent, batches, || now);
    }

    /// Bytes that are queued or taken and not written, and batches of these.
    fn left(&self) -> (usize, usize) {
        let state = self.outbox.lock();
        let batches = || self.taken.iter().map(|batch| &batch[..]).chain(state.queue.iter());
        (batches().map(<[u8]>::len).sum::<usize>() - self.written, batches().count())
    }

    /// Messages in its queue, which the writer has not taken.
    fn waiting(&self) -> usize {
        self.outbox.lock().queue.iter().map(|batch| numbers(batch).0.len()).sum()
    }

    /// Messages that it has got, or may still get.
    fn messages(&self) -> Vec<u32> {
        let mut all = self.stream.clone();
        let state = self.outbox.lock();
        let mut rest = self.taken.iter().map(|batch| &batch[..]).chain(state.queue.iter());
        if let Some(first) = rest.next() {
            all.extend_from_slice(&first[self.written..]);
        }
        rest.for_each(|batch| all.extend_from_slice(batch));
        let (numbers, rest) = numbers(&all);
        // Of a connection that broke inside a frame, that does not count.
        assert!(rest.is_empty() || self.broken, "half a frame: {rest:?}");
        numbers
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let policy = select(&[SlowPolicy::Disconnect, SlowPolicy::DropOldest][..]);
    let marks = select(&[(1000, 5000), (0, 0), (0, 700), (3000, 3000)][..]);
    let all = select(&[(100_000, 1_000_000), (2500, 1_000_000), (0, 1_000_000), (4000, 3000), (0, 0)][..]);
    (policy, marks, all).prop_map(|(policy, (low_mark, high_mark), (max_buffered, reserve))| Rules {
        low_mark,
        high_mark,
        policy,
        max_buffered,
        reserve,
        ..RULES
    })
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn messages_and_bytes_are_all_accounted_for(rules in rules(), steps in vec(step(), 1..120)) {
        let delivery = DeliveryContext::new(rules, Arc::default());
        let mut readers = [Reader::new(&delivery, "one"), Reader::new(&delivery, "two")];
        let (mut now, mut number, mut offered) = (Instant::now(), 0, [0u64; 2]);
        let mut largest = 0;
        for step in steps {
            match step {
                Step::Enqueue { to, messages, payload } => {
                    let mut batch = numbered(number, messages, payload);
                    number += u32::from(messages);
                    largest = largest.max(batch.len() + OVERHEAD);
                    let before = readers[to].outbox.lock().queued;
                    match readers[to].outbox.enqueue(&mut batch, || now) {
                        // It is offered again when there is room, or never.
                        EnqueueOutcome::Wait(until) => {
                            prop_assert!(until > now, "waiting until now would be a loop");
                            let all = delivery.buffered.load(Relaxed) + batch.len() + OVERHEAD;
                            let full = all > rules.max_buffered + rules.reserve;
                            prop_assert!(before > 0 || full, "nobody waits for one that has nothing queued");
                        }
                        EnqueueOutcome::Queued { .. } | EnqueueOutcome::Refused => offered[to] += u64::from(messages),
                    }
                }
                Step::Write { of, bytes } => readers[of].write(bytes, now),
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Pause(of) => readers[of].outbox.pause_for_rate_limit(),
                Step::Resume(of) => readers[of].outbox.resume(),
                Step::Close { of, last } => {
                    let last = last.then_some(Bytes::from_static(b"\0\0\0\x05\0"));
                    readers[of].outbox.close(last.filter(|_| !readers[of].broken));
                }
                Step::Expire(of) => {
                    let reader = &mut readers[of];
                    reader.outbox.expire(&mut reader.taken, reader.written, now);
                    while reader.outbox.clear_portion() {}
                    reader.write(0, now);
                }
                Step::Revoke(of) => {
                    let reader = &mut readers[of];
                    reader.outbox.revoke(&mut reader.taken, reader.written);
                    while reader.outbox.clear_portion() {}
                    reader.write(0, now);
                }
                Step::Abandon(of) => {
                    let reader = &mut readers[of];
                    reader.outbox.abandon(&mut reader.taken, reader.written);
                    while reader.outbox.clear_portion() {}
                    (reader.written, reader.broken) = (0, true);
                }
            }
            let stats = delivery.stats();
            let (mut buffered, mut delivered) = (0, 0);
            for reader in &readers {
                let (bytes, batches) = reader.left();
                let queued = reader.outbox.lock().queued;
                prop_assert_eq!(queued, bytes + batches * OVERHEAD);
                prop_assert_eq!(reader.outbox.session().queued_bytes(), bytes as u64);
                // Batches that were queued before do not count, nor the last word.
                let most = rules.high_mark.max(rules.low_mark + largest).max(largest);
                prop_assert!(queued <= most + 8 * (5 + OVERHEAD), "{} of {}", queued, most);
                let messages = reader.messages();
                prop_assert!(messages.is_sorted_by(|a, b| a < b), "{:?}", messages);
                buffered += queued;
                delivered += messages.len() as u64;
            }
            // One that is alone is longer than all together may be, and the last words do not
            // count.
            let most = (rules.max_buffered + rules.reserve).max(largest) + 16 * (5 + OVERHEAD);
            prop_assert!(buffered <= most, "{} of {}", buffered, most);
            prop_assert_eq!(stats.sent_bytes, readers.iter().map(|reader| reader.stream.len() as u64).sum::<u64>());
            prop_assert_eq!(stats.buffered, buffered as u64);
            prop_assert_eq!(stats.delivered, delivered);
            let taken = readers.iter().map(|reader| reader.outbox.session().taken_messages()).sum();
            let books = Books::of(&delivery.counters.totals(), offered.iter().sum(), taken);
            let waiting = readers.iter().map(|reader| reader.waiting() as u64).sum::<u64>();
            prop_assert_eq!((books.difference(), books.queued), (0, waiting), "{:?}", books);
            prop_assert_eq!(stats.delivered + stats.dropped + stats.discarded, offered.iter().sum::<u64>());
            let drops: u64 = delivery.counters.drops.entries().iter().map(|entry| entry.messages).sum();
            prop_assert_eq!(drops, stats.dropped);
            prop_assert_eq!(readers.iter().map(|reader| reader.outbox.dropped()).sum::<u64>(), stats.dropped);
        }
        // Everything that is left can be written.
        for reader in &mut readers {
            let expected = reader.messages();
            for _ in 0..200 {
                reader.write(usize::MAX, now);
            }
            prop_assert!(reader.broken || reader.left() == (0, 0));
            prop_assert_eq!(numbers(&reader.stream).0, expected);
        }
        prop_assert_eq!(delivery.buffered.load(Relaxed), 0);
    }
}
