//! Replaying: what is read back from disk, the oldest stream first, and how the streams follow each
//! other.

use std::mem;

use tokio::time::Instant;

use super::{Link, Spooling};
use crate::{
    client::{
        driver::desired::Shared,
        error::{Cause, Error},
        queue::{batch::Batch, in_flight::InFlight, unconfirmed::Unconfirmed},
        spool::{Answer, Chunk, Want},
    },
    wire::extension::StreamPosition,
};

/// More than any number of a stored stream: how many it has is known when it was read.
const NO_LAST: u64 = u64::MAX - 1;

/// So many bytes are asked for at once, where there is room: the engine and the session, two threads,
/// wake each other up once for each answer.
const READ_AHEAD: usize = 1 << 20;

impl Spooling {
    /// Takes in what was read, and asks for more. True when the stream, or its next number, has
    /// changed.
    pub(super) fn read(&mut self, shared: &Shared, in_flight: &mut InFlight, link: Link) -> bool {
        if !self.handle.is_open() {
            return false;
        }
        while let Some(answer) = self.handle.answer() {
            self.asked = false;
            self.answers.push_back(answer);
        }
        let mut changed = false;
        while !changed {
            let chunk = self.chunk.take().or_else(|| match self.answers.pop_front()? {
                Answer::Chunk(chunk) => Some(chunk),
                Answer::End => {
                    (self.ended, self.is_read) = (Some(self.asked_for), true);
                    None
                }
            });
            let Some(chunk) = chunk else {
                changed = self.at_end(in_flight, link);
                break;
            };
            changed = self.place(chunk, shared, in_flight, link);
            if self.chunk.is_some() {
                break;
            }
        }
        self.ask(shared, in_flight, link);
        changed
    }

    /// Whether something was read that is not in `InFlight` yet.
    pub(super) fn has_answers(&self) -> bool {
        self.chunk.is_some() || !self.answers.is_empty()
    }

    /// Asks for more, if there is room for it.
    fn ask(&mut self, shared: &Shared, in_flight: &InFlight, link: Link) {
        // Messages that were read back and are not confirmed stand in memory besides the queue. So
        // much makes a connection without acknowledgements end, which confirms it.
        let room = (shared.outbox.capacity() / 2).saturating_sub(in_flight.outstanding().1);
        let has_room = link == Link::Up && room > 0;
        let is_wanted = match (self.parked.is_some(), self.head) {
            _ if self.asked || self.has_answers() => false,
            // Whether there is anything.
            (false, _) if !self.is_read => true,
            (true, _) => !self.is_read && has_room,
            (false, Some(head)) => head < self.on_disk && has_room,
            (false, None) => false,
        };
        if is_wanted {
            let stream = self.live(in_flight).stream();
            (self.asked, self.ended) = (true, None);
            let behind = self.head.filter(|_| self.is_read && self.parked.is_none());
            // Messages that are passed over stay in memory until they are confirmed. While an older
            // stream is replayed, those in memory may leave it before their turn.
            (self.asked_for, self.given) = behind.map_or((0, self.given), |head| (self.on_disk, self.given.max(head)));
            let after = behind.map(|number| Want::After(StreamPosition { stream, number }));
            self.handle.read(after.unwrap_or(Want::Before(stream)), room.min(READ_AHEAD));
        }
    }

    /// Puts a chunk behind what is about to be written, or keeps it until that can be done.
    fn place(&mut self, chunk: Chunk, shared: &Shared, in_flight: &mut InFlight, link: Link) -> bool {
        let live = self.live(in_flight).stream();
        let is_live = chunk.stream == live;
        if is_live {
            // Nothing older is left.
            self.is_read = true;
        }
        if chunk.stream == in_flight.unconfirmed.stream() {
            let before = match self.head {
                Some(head) if is_live => head,
                _ => in_flight.newest(),
            };
            if chunk.last() <= before {
                return false;
            }
            if link != Link::Up {
                self.chunk = Some(chunk);
                return false;
            }
            if chunk.first <= before + 1 {
                self.push(chunk, before, shared, in_flight);
                return false;
            }
            // Numbers are counted on both sides: a gap is said in HELLO, when nothing is unconfirmed.
            if in_flight.outstanding().0 > 0 {
                (self.is_blocked, self.chunk) = (true, Some(chunk));
                return false;
            }
            self.give_up(chunk.first - 1, in_flight);
            self.chunk = Some(chunk);
            return true;
        }
        if !is_live {
            // However long it takes to find an older stream, what is taken from now on goes behind it.
            self.go_behind(in_flight);
        }
        if in_flight.outstanding().0 > 0 || link == Link::Pending {
            (self.is_blocked, self.chunk) = (true, Some(chunk));
            return false;
        }
        let keeping = in_flight.unconfirmed.keeping();
        if is_live {
            self.unpark(in_flight);
        } else {
            let mut stored = Unconfirmed::stored(chunk.stream, chunk.first, NO_LAST);
            stored.keep(keeping);
            self.released = chunk.first - 1;
            let before = mem::replace(&mut in_flight.unconfirmed, stored);
            self.parked.get_or_insert(before);
        }
        self.chunk = Some(chunk);
        true
    }

    /// What is taken from now on is not sent before something that is on disk.
    pub(super) fn go_behind(&mut self, in_flight: &mut InFlight) {
        if self.parked.is_none() && self.head.is_none() {
            in_flight.number();
            self.head = Some(in_flight.unconfirmed.last());
        }
    }

    fn push(&mut self, chunk: Chunk, before: u64, shared: &Shared, in_flight: &mut InFlight) {
        let (mut first, last) = (chunk.first, chunk.last());
        for (frames, messages) in chunk.pieces {
            let Ok(count) = u32::try_from(messages) else { continue };
            let mut batch = Batch::replayed(frames, count, first, Instant::now());
            first += messages;
            if batch.last() <= Some(before) {
                continue;
            }
            let known = u32::try_from((before + 1).saturating_sub(first - messages)).unwrap_or(u32::MAX);
            // Messages that are known already stay behind.
            drop(batch.split_messages(known));
            in_flight.append_batches(&mut [batch].into());
        }
        // Another broker may have taken longer ones.
        in_flight.hold_longer(shared.outbox.largest());
        if self.parked.is_none() {
            (self.head, self.given) = (Some(last), last);
            // A message that is in memory as well is not needed twice.
            while let Some(mut batch) = self.tail.pop_front() {
                if batch.number() > Some(last) {
                    self.tail.push_front(batch);
                    break;
                }
                let known = batch.number().map_or(0, |number| last + 1 - number);
                match batch.split_messages(u32::try_from(known).unwrap_or(u32::MAX)) {
                    Some(known) => {
                        shared.outbox.release(known.room());
                        self.tail.push_front(batch);
                        break;
                    }
                    None => shared.outbox.release(batch.room()),
                }
            }
        }
    }

    /// Everything on disk was read: what is missing of it is lost, and what follows is in memory.
    fn at_end(&mut self, in_flight: &mut InFlight, link: Link) -> bool {
        let Some(read) = self.ended else { return false };
        let is_missing = self.head.is_some_and(|head| head < read);
        if self.parked.is_none() && !is_missing {
            self.ended = None;
            return false;
        }
        if in_flight.outstanding().0 > 0 || link == Link::Pending {
            self.is_blocked = true;
            return false;
        }
        self.ended = None;
        if self.parked.is_some() {
            self.unpark(in_flight);
        } else {
            self.give_up(read, in_flight);
        }
        true
    }

    /// Goes on with the stream of this program.
    fn unpark(&mut self, in_flight: &mut InFlight) {
        let Some(mut parked) = self.parked.take() else { return };
        parked.keep(in_flight.unconfirmed.keeping());
        in_flight.unconfirmed = parked;
        self.released = (in_flight.unconfirmed.next() - 1).min(self.stored);
    }

    /// Numbers up to here are not sent any more: they were dropped, or cannot be read.
    fn give_up(&mut self, to: u64, in_flight: &mut InFlight) {
        in_flight.unconfirmed.give_up_to(to, &Error::new(Cause::Lost));
        if self.parked.is_none() {
            self.head = Some(to);
            self.on_disk = self.on_disk.max(to);
        }
    }

    /// Puts the tail behind what is about to be written, when nothing on disk comes before it. True
    /// when its first number is not the next one.
    pub(super) fn load(&mut self, shared: &Shared, in_flight: &mut InFlight, link: Link) -> bool {
        let Some(head) = self.head else { return false };
        if self.is_opening || self.parked.is_some() || head < self.on_disk || self.has_answers() {
            return false;
        }
        let mut changed = false;
        // Without a tail, all that was numbered behind `head` was dropped.
        let first = self.tail.front().and_then(Batch::number).unwrap_or(in_flight.unconfirmed.last() + 1);
        if first > head + 1 {
            if in_flight.outstanding().0 > 0 || link == Link::Pending {
                self.is_blocked = true;
                return false;
            }
            self.give_up(first - 1, in_flight);
            changed = true;
        }
        in_flight.append_batches(&mut self.tail);
        in_flight.hold_longer(shared.outbox.largest());
        self.head = None;
        changed
    }
}
