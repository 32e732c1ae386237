//! The way of messages from the send queue to their receipts against a plain list: writes that are
//! cut anywhere, acknowledgements at any time, refusals, connections that break, and a broker that
//! remembers the stream or has forgotten it.

use std::{collections::BTreeMap, io::IoSlice};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use tokio::sync::oneshot;

use crate::{
    Error, Flushed, Receipt,
    client::{
        error::Cause,
        queue::{in_flight::InFlight, send::Outbox, unconfirmed::Keeping, waiter::Waiter},
    },
    wire::{
        FrameRef, Frames, Ident, Limits,
        extension::{Level, StreamId, next_number},
    },
};

#[derive(Debug, Clone)]
enum Step {
    /// So many messages, of which each has a receipt or none has.
    Publish(usize, bool),
    Large,
    Flush,
    /// The driver writes so many bytes.
    Write(usize),
    /// The broker reads so many bytes and decides all whole frames.
    Read(usize),
    /// The broker acknowledges what it has decided.
    Ack,
    Settle,
    /// The connection breaks when the broker has read so many bytes more, and the next one begins.
    Break(usize),
    /// The same, and the broker has forgotten the stream; or it holds another of the same name.
    Forget(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_usize, any::<bool>()).prop_map(|(messages, confirmed)| Step::Publish(messages, confirmed)),
        1 => Just(Step::Large),
        1 => Just(Step::Flush),
        5 => (1..600_usize).prop_map(Step::Write),
        1 => Just(Step::Write(100_000)),
        5 => (1..600_usize).prop_map(Step::Read),
        1 => Just(Step::Read(100_000)),
        3 => Just(Step::Ack),
        2 => Just(Step::Settle),
        1 => (0..600_usize).prop_map(Step::Break),
    ]
}

/// The broker: what it has decided of each stream, and what came to it, in order.
#[derive(Default)]
struct Broker {
    decided: BTreeMap<StreamId, u64>,
    delivered: Vec<u64>,
    refused: Vec<u64>,
    /// The number of the next frame on this connection.
    next: u64,
    /// REFUSED on its way to the client.
    refusals: Vec<u64>,
}

impl Broker {
    /// One message in seven is refused.
    fn refuses(message: u64) -> bool {
        message % 7 == 3
    }
}

struct World {
    outbox: Outbox,
    in_flight: InFlight,
    broker: Broker,
    stream: StreamId,
    streams: u8,
    /// Written to the current connection, not read by the broker.
    pipe: Vec<u8>,
    accepted: u64,
    receipts: Vec<(u64, oneshot::Receiver<Result<Receipt, Error>>)>,
    flushes: Vec<(u64, oneshot::Receiver<Result<Flushed, Error>>)>,
    room: usize,
}

impl World {
    fn new() -> Self {
        let outbox = Outbox::new(Ident::new("me").unwrap(), Limits::default(), 8 << 20);
        let room = outbox.free();
        let mut world = Self {
            outbox,
            in_flight: InFlight::default(),
            broker: Broker::default(),
            stream: StreamId::default(),
            streams: 0,
            pipe: Vec::new(),
            accepted: 0,
            receipts: Vec::new(),
            flushes: Vec::new(),
            room,
        };
        world.connect();
        world
    }

    fn publish(&mut self, payload: usize, confirmed: bool) {
        self.accepted += 1;
        let mut bytes = self.accepted.to_string().into_bytes();
        bytes.resize(bytes.len().max(payload), b' ');
        let size = self.outbox.measure("a", bytes.len()).unwrap();
        self.outbox.room().try_acquire_many(size).unwrap().forget();
        let waiter = confirmed.then(|| {
            let (sender, receiver) = oneshot::channel();
            self.receipts.push((self.accepted, receiver));
            Waiter::Receipt(sender)
        });
        self.outbox.push("a", Bytes::from(bytes), waiter).unwrap();
    }

    fn flush(&mut self) {
        let (sender, receiver) = oneshot::channel();
        self.flushes.push((self.accepted, receiver));
        self.outbox.push_barrier(Waiter::Barrier(sender)).unwrap();
    }

    fn write(&mut self, bytes: usize) {
        self.outbox.take(&mut self.in_flight);
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = self.in_flight.chunks(&mut slices, false);
        let before = self.pipe.len();
        for slice in &slices[..filled] {
            let room = bytes - (self.pipe.len() - before);
            self.pipe.extend_from_slice(&slice[..room.min(slice.len())]);
        }
        let written = self.in_flight.advance(self.pipe.len() - before);
        assert_eq!(written.room, 0, "nothing is free before it is confirmed");
    }

    /// The broker reads so many bytes, and acts on the whole frames.
    fn read(&mut self, bytes: usize) {
        // The rest of a frame stays for the next read.
        let bytes = bytes.min(self.pipe.len());
        let mut read = 0;
        for frame in Frames::new(&self.pipe[..bytes], Limits::default()).map_while(Result::ok) {
            let FrameRef::Publish { payload, .. } = frame else { panic!("{frame:?}") };
            read += 4 + 1 + 1 + 2 + 1 + 1 + payload.len();
            let message: u64 = std::str::from_utf8(payload).unwrap().trim().parse().unwrap();
            let number = self.broker.next;
            self.broker.next += 1;
            self.broker.decided.insert(self.stream, number);
            if Broker::refuses(message) {
                self.broker.refused.push(message);
                self.broker.refusals.push(number);
            } else {
                self.broker.delivered.push(message);
            }
        }
        self.pipe.drain(..read);
    }

    fn refusals(&mut self) {
        for number in std::mem::take(&mut self.broker.refusals) {
            if number > self.in_flight.unconfirmed.written() {
                self.in_flight.split_written();
            }
            let cause = Error::new(Cause::Broker { message: "no".to_owned() });
            self.in_flight.unconfirmed.refuse(number, 1, &cause).unwrap();
        }
    }

    fn ack(&mut self) {
        self.refusals();
        let decided = self.broker.decided.get(&self.stream).copied().unwrap_or_default();
        if decided > self.in_flight.unconfirmed.written() {
            self.in_flight.split_written();
        }
        self.in_flight.unconfirmed.ack(decided).unwrap();
    }

    fn settle(&mut self) {
        let (room, _) = self.in_flight.settle();
        self.outbox.release(room);
    }

    fn settle_all(&mut self) {
        loop {
            let (room, more) = self.in_flight.settle();
            self.outbox.release(room);
            if !more {
                break;
            }
        }
    }

    fn lose_connection(&mut self) {
        self.pipe.clear();
        self.in_flight.rewind();
        self.settle_all();
    }

    fn connect(&mut self) {
        loop {
            let next = self.in_flight.unconfirmed.next();
            let decided = self.broker.decided.get(&self.stream).copied().unwrap_or_default();
            // The refusals that HELLO repeats.
            if decided <= self.in_flight.unconfirmed.sent() {
                let all = std::mem::take(&mut self.broker.refusals);
                self.broker.refusals = all.into_iter().filter(|number| *number <= decided).collect();
                self.refusals();
            }
            if let Ok(again) = self.in_flight.unconfirmed.resume(decided) {
                self.in_flight.unconfirmed.keep(Keeping::Acks(Level::ROUTED));
                self.in_flight.put_back(again);
                self.broker.next = next_number(next, decided).unwrap();
                return;
            }
            self.streams += 1;
            self.stream = StreamId::new([self.streams; 16]);
            self.in_flight.unconfirmed.renew(self.stream);
        }
    }

    /// Everything is written, read, acknowledged and settled.
    fn finish(&mut self) {
        while self.outbox.unsent().0 + self.in_flight.unsent().0 > 0 || !self.pipe.is_empty() {
            self.write(1 << 20);
            self.read(1 << 20);
        }
        self.outbox.take(&mut self.in_flight);
        self.ack();
        self.settle_all();
        self.in_flight.unconfirmed.answer();
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Publish(messages, confirmed) => (0..messages).for_each(|_| self.publish(0, confirmed)),
                Step::Large => self.publish(20_000, true),
                Step::Flush => self.flush(),
                Step::Write(bytes) => self.write(bytes),
                Step::Read(bytes) => self.read(bytes),
                Step::Ack => self.ack(),
                Step::Settle => self.settle(),
                Step::Break(bytes) => {
                    self.read(bytes);
                    self.lose_connection();
                    self.connect();
                }
                Step::Forget(foreign) => {
                    self.lose_connection();
                    self.broker.decided.clear();
                    self.broker.refusals.clear();
                    if foreign {
                        self.broker.decided.insert(self.stream, 1 << 40);
                    }
                    self.connect();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_broker_that_remembers_gets_each_number_once_and_in_order(steps in vec(step(), 1..120)) {
        let mut world = World::new();
        world.run(&steps);
        world.finish();
        let (delivered, refused): (Vec<_>, Vec<_>) = (1..=world.accepted).partition(|n| !Broker::refuses(*n));
        prop_assert_eq!(&world.broker.delivered, &delivered);
        prop_assert_eq!(&world.broker.refused, &refused);
        for (message, mut receipt) in world.receipts {
            let receipt = receipt.try_recv().expect("it was answered");
            prop_assert_eq!(receipt.is_err(), Broker::refuses(message));
            if let Ok(receipt) = receipt {
                prop_assert_eq!(receipt.position().number, message);
            }
        }
        for (accepted, mut flush) in world.flushes {
            let flushed = flush.try_recv().expect("it was answered").unwrap();
            let refused = (1..=accepted).filter(|n| Broker::refuses(*n)).count() as u64;
            prop_assert_eq!((flushed.confirmed, flushed.refused), (accepted - refused, refused));
        }
        prop_assert_eq!(world.outbox.free(), world.room);
        prop_assert_eq!(world.in_flight.unconfirmed.waiting(), (0, 0));
    }

    #[test]
    fn a_broker_that_forgets_gets_every_message_in_order_at_least_once(
        steps in vec(prop_oneof![10 => step(), 1 => any::<bool>().prop_map(Step::Forget)], 1..120)
    ) {
        let mut world = World::new();
        world.run(&steps);
        world.finish();
        let mut seen = 0;
        for message in world.broker.delivered.iter().filter(|message| !Broker::refuses(**message)) {
            // Nothing is passed over, whatever comes again.
            let before = (seen + 1..*message).filter(|n| !Broker::refuses(*n)).count();
            prop_assert_eq!(before, 0, "{} after {}", message, seen);
            seen = seen.max(*message);
        }
        let last = (1..=world.accepted).rfind(|n| !Broker::refuses(*n)).unwrap_or_default();
        prop_assert_eq!(seen, last);
        for (message, mut receipt) in world.receipts {
            prop_assert_eq!(receipt.try_recv().expect("it was answered").is_err(), Broker::refuses(message));
        }
        for (accepted, mut flush) in world.flushes {
            let flushed = flush.try_recv().expect("it was answered").unwrap();
            let refused = (1..=accepted).filter(|n| Broker::refuses(*n)).count() as u64;
            prop_assert_eq!((flushed.confirmed, flushed.refused), (accepted - refused, refused));
        }
        prop_assert_eq!(world.outbox.free(), world.room);
    }
}
