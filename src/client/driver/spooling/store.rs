//! Storing: which messages go to disk and when, and which of them leave memory.

use std::{mem, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Link, Spooling};
use crate::{
    client::{
        driver::desired::Shared,
        queue::{batch::Batch, in_flight::InFlight, unconfirmed::Keeping},
        spool,
        when_full::WhenFull,
    },
    wire::extension::{StreamId, StreamPosition},
};

/// How long a message may be unconfirmed by a broker that confirms nothing while it is connected.
const PATIENCE: Duration = Duration::from_secs(30);

/// A queue that is half full for so long does not flow.
const STALL: Duration = Duration::from_millis(100);

/// A record of the log is about so long in bytes.
const RECORD: usize = 64 << 10;

impl Spooling {
    /// Gives the engine what must be stored. With `all`, everything at once; returns whether that
    /// is done.
    pub(super) fn store(&mut self, shared: &Shared, in_flight: &mut InFlight, link: Link, all: bool) -> bool {
        let now = Instant::now();
        if !all && !self.is_due(shared, in_flight, link, now) {
            return false;
        }
        self.take(shared, in_flight);
        let stream = self.live(in_flight).stream();
        let mut group = Group::new(stream);
        let is_live = self.parked.is_none();
        let mut is_done = true;
        {
            let live = is_live.then(|| in_flight.unconfirmed.batches().chain(in_flight.batches()));
            for batch in live.into_iter().flatten().chain(&self.tail) {
                let (Some(first), Some(last)) = (batch.number(), batch.last()) else { continue };
                if last <= self.stored.max(group.last()) {
                    continue;
                }
                if !group.fits(first, batch) {
                    let Some(stored) = group.give(&self.handle) else {
                        is_done = false;
                        break;
                    };
                    self.stored = self.stored.max(stored);
                }
                group.push(first, batch);
            }
        }
        if is_done {
            match group.give(&self.handle) {
                Some(stored) => self.stored = self.stored.max(stored),
                None => is_done = false,
            }
        }
        self.is_behind = !is_done;
        if self.when_full == WhenFull::DropOldest && is_live {
            let number = self.head.unwrap_or_else(|| in_flight.unconfirmed.last());
            self.handle.hold(StreamPosition { stream, number });
        }
        is_done
    }

    /// Whether something must go to disk, and otherwise when to look again.
    fn is_due(&mut self, shared: &Shared, in_flight: &mut InFlight, link: Link, now: Instant) -> bool {
        // Barriers find their place, and the next message wakes the driver.
        let queued = self.with_live(in_flight, |live| shared.outbox.watch(live));
        let last = self.live(in_flight).last();
        let has_unnumbered = self.parked.is_none() && in_flight.batches().any(|batch| batch.number().is_none());
        if queued.is_none() && !has_unnumbered && last <= self.stored.max(self.live(in_flight).next() - 1) {
            self.check_at = None;
            return false;
        }
        let keeping = in_flight.unconfirmed.keeping();
        let wait = match link {
            Link::Up if !matches!(keeping, Keeping::Acks(_)) => self.after.max(PATIENCE),
            Link::None | Link::Pending | Link::Up => self.after,
        };
        let is_low = shared.outbox.is_low();
        if !is_low && !self.write_through && self.check_at.is_some_and(|at| at > now) {
            return false;
        }
        let Some(since) = self.oldest_unstored(in_flight).or(queued) else {
            self.check_at = None;
            return false;
        };
        let wait = match link {
            _ if self.write_through => Duration::ZERO,
            Link::None if is_low => Duration::ZERO,
            _ if is_low => wait.min(STALL),
            _ => wait,
        };
        let at = since + wait;
        let is_due = at <= now;
        self.check_at = Some(if is_due { now + self.after.max(STALL) } else { at });
        is_due
    }

    /// When the oldest message with a number that is not stored was accepted, or one without.
    fn oldest_unstored(&self, in_flight: &InFlight) -> Option<Instant> {
        let is_unstored = |batch: &&Batch| batch.last().is_none_or(|last| last > self.stored);
        let live = self.parked.is_none().then(|| in_flight.unconfirmed.batches().chain(in_flight.batches()));
        live.into_iter().flatten().chain(&self.tail).find(is_unstored).map(Batch::since)
    }

    /// Takes everything that is accepted out of the outbox, and gives it numbers.
    fn take(&mut self, shared: &Shared, in_flight: &mut InFlight) {
        if self.is_opening {
            self.go_behind(in_flight);
        }
        // The second time there is nothing, and the next message wakes the driver.
        if self.parked.is_none() && self.head.is_none() {
            while shared.outbox.take(in_flight) {}
            in_flight.number();
            return;
        }
        // Everything in `InFlight` has its number, and comes before what is on disk and in the tail.
        let mut own = InFlight::default();
        mem::swap(&mut own.unconfirmed, self.live_mut(in_flight));
        while shared.outbox.take(&mut own) {}
        own.number();
        self.tail.extend(own.split_off(|_| false));
        mem::swap(&mut own.unconfirmed, self.live_mut(in_flight));
    }

    /// Does something with the queue of this program's messages, which is that of no connection
    /// while another stream is replayed.
    fn with_live<T>(&mut self, in_flight: &mut InFlight, act: impl FnOnce(&mut InFlight) -> T) -> T {
        let Some(parked) = &mut self.parked else { return act(in_flight) };
        let mut own = InFlight::default();
        mem::swap(&mut own.unconfirmed, parked);
        let result = act(&mut own);
        mem::swap(&mut own.unconfirmed, parked);
        result
    }

    /// Takes messages out of memory that are on disk, when the queue is half full.
    pub(super) fn unload(&mut self, shared: &Shared, in_flight: &mut InFlight, link: Link) {
        if !shared.outbox.is_low() {
            return;
        }
        let drops = self.when_full == WhenFull::DropOldest && self.is_failing && shared.outbox.is_starved();
        if self.parked.is_none() && self.head.is_none() && (self.durable > in_flight.unconfirmed.written() || drops) {
            // Messages that are sent soon stay.
            let keep = if link == Link::Up { shared.outbox.capacity() / 8 } else { 0 };
            let (mut bytes, durable) = (0, if drops { u64::MAX } else { self.durable });
            in_flight.number();
            self.tail = in_flight.split_off(|batch| {
                bytes += batch.len();
                // Each message is read back once.
                bytes <= keep || batch.last() > Some(durable) || batch.number() <= Some(self.given)
            });
            self.head = self.tail.front().and_then(Batch::number).map(|first| first - 1);
        }
        if self.parked.is_none() {
            // A message that is sent, or is soon, stays in memory until it is confirmed, and others may come: no
            // more is taken before it is written, and while half a queue of it is unconfirmed.
            shared.outbox.release(in_flight.take_room(self.durable));
        }
        while let Some(batch) = self.tail.front() {
            let Some(last) = batch.last().filter(|last| *last <= self.durable) else {
                break;
            };
            self.on_disk = last;
            shared.outbox.release(batch.room());
            self.tail.pop_front();
        }
        if drops {
            self.drop_oldest(shared);
        }
    }

    /// Drops the oldest messages of the tail: nothing can be stored, and somebody waits for room.
    fn drop_oldest(&mut self, shared: &Shared) {
        let mut room = 0;
        while room < RECORD {
            let Some(batch) = self.tail.pop_front() else {
                break;
            };
            room += batch.room();
            shared.count_dropped(batch.messages().into());
        }
        shared.outbox.release(room);
    }

    /// Messages and bytes in memory that are neither confirmed nor durable.
    pub(super) fn undurable(&self, in_flight: &InFlight) -> (u64, usize) {
        let live = self.parked.is_none().then(|| in_flight.unconfirmed.batches().chain(in_flight.batches()));
        let batches = live.into_iter().flatten().chain(&self.tail);
        let lost = batches.filter(|batch| batch.last().is_none_or(|last| last > self.durable));
        lost.fold((0, 0), |(messages, bytes), batch| (messages + u64::from(batch.messages()), bytes + batch.len()))
    }
}

/// Consecutive batches that become one record.
struct Group {
    stream: StreamId,
    first: u64,
    messages: u32,
    frames: Vec<Bytes>,
    bytes: usize,
}

impl Group {
    fn new(stream: StreamId) -> Self {
        Self { stream, first: 0, messages: 0, frames: Vec::new(), bytes: 0 }
    }

    fn last(&self) -> u64 {
        (self.first + u64::from(self.messages)).saturating_sub(1)
    }

    fn fits(&self, first: u64, batch: &Batch) -> bool {
        let is_next = self.messages == 0 || first == self.last() + 1;
        is_next && (self.bytes == 0 || self.bytes + batch.len() <= RECORD)
    }

    fn push(&mut self, first: u64, batch: &Batch) {
        if self.messages == 0 {
            self.first = first;
        }
        self.messages += batch.messages();
        self.bytes += batch.len();
        self.frames.extend(batch.parts().into_iter().filter(|part| !part.is_empty()).cloned());
    }

    /// Gives it to the engine, and returns the number of its last message, 0 for none. `None` when
    /// the engine has enough.
    fn give(&mut self, handle: &spool::SpoolHandle) -> Option<u64> {
        let Self { stream, first, messages, ref mut frames, .. } = *self;
        if messages == 0 {
            return Some(0);
        }
        let last = self.first + u64::from(messages) - 1;
        let frames = mem::take(frames);
        handle.append(spool::Batch { stream, first, messages, frames }).ok()?;
        *self = Self::new(stream);
        Some(last)
    }
}
