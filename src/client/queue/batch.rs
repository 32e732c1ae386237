//! The batch of PUBLISH frames on its way to the broker, with the waiters for its messages.

use bytes::Bytes;
use tokio::time::Instant;

use super::waiter::Waiter;
use crate::wire::{BatchExtent, FrameBatch};

/// Whole PUBLISH frames: many small ones, or one with a payload that is too large to copy.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The frames; of a large one, all before its payload.
    bytes: Bytes,
    /// The payload of a large one.
    payload: Bytes,
    messages: u32,
    /// The stream number of the first message; 0 when it has none yet.
    number: u64,
    /// It has been written whole before.
    sent: bool,
    /// How often it was written whole to a broker that acknowledges nothing.
    blind: u8,
    /// It was read from where it was stored.
    replayed: bool,
    /// When the first message was accepted.
    since: Instant,
    /// The waiters, by the index of the message, in order. A barrier stands behind that many
    /// messages. Empty once the batch is numbered.
    waiters: Vec<(u32, Waiter)>,
}

impl Batch {
    pub(crate) fn small(bytes: Bytes, messages: u32, since: Instant, waiters: Vec<(u32, Waiter)>) -> Self {
        Self {
            bytes,
            payload: Bytes::new(),
            messages,
            number: 0,
            sent: false,
            blind: 0,
            replayed: false,
            since,
            waiters,
        }
    }

    pub(crate) fn large(head: Bytes, payload: Bytes, since: Instant, waiter: Option<Waiter>) -> Self {
        let waiters = waiter.into_iter().map(|waiter| (0, waiter)).collect();
        Self { bytes: head, payload, messages: 1, number: 0, sent: false, blind: 0, replayed: false, since, waiters }
    }

    /// Frames that were stored, with their numbers: they take up no room of the queue.
    #[cfg(feature = "spool")]
    pub(crate) fn replayed(bytes: Bytes, messages: u32, first: u64, since: Instant) -> Self {
        Self { number: first, replayed: true, ..Self::small(bytes, messages, since, Vec::new()) }
    }

    /// Takes up no room of the queue any more, and returns how much it was.
    #[cfg(feature = "spool")]
    pub(crate) fn take_room(&mut self) -> usize {
        let room = self.room();
        self.replayed = true;
        room
    }

    /// How many bytes of the queue it takes up.
    pub(crate) fn room(&self) -> usize {
        if self.replayed { 0 } else { self.len() }
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.payload.len()
    }

    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// The bytes, in two parts of which the second may be empty.
    pub(crate) fn parts(&self) -> [&Bytes; 2] {
        [&self.bytes, &self.payload]
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// The stream number of the first message, if it has one.
    pub(crate) fn number(&self) -> Option<u64> {
        (self.number > 0).then_some(self.number)
    }

    /// The stream number of the last message, if it has one.
    pub(crate) fn last(&self) -> Option<u64> {
        // Numbers are given by counting, and a count that overflows is never begun.
        self.number().map(|first| first.saturating_add(u64::from(self.messages)).saturating_sub(1))
    }

    /// Gives the messages their numbers, and takes out who waits for them.
    pub(crate) fn give_number(&mut self, first: u64) -> Vec<(u32, Waiter)> {
        self.number = first;
        std::mem::take(&mut self.waiters)
    }

    /// Notes that it was written whole, and returns how many messages had been before.
    pub(crate) fn mark_sent(&mut self, blind: bool) -> u64 {
        self.blind = self.blind.saturating_add(blind.into());
        if std::mem::replace(&mut self.sent, true) { self.messages.into() } else { 0 }
    }

    /// Whether it was written twice without an answer: it is not written a third time.
    pub(crate) fn is_assumed(&self) -> bool {
        self.blind > 1
    }

    /// Adds a barrier behind the last message.
    pub(crate) fn push_barrier(&mut self, barrier: Waiter) {
        self.waiters.push((self.messages, barrier));
    }

    /// Adds barriers before the first message.
    pub(crate) fn prepend_barriers(&mut self, barriers: Vec<Waiter>) {
        if !barriers.is_empty() {
            self.waiters.splice(0..0, barriers.into_iter().map(|barrier| (0, barrier)));
        }
    }

    /// Takes out who waits.
    pub(crate) fn take_waiters(&mut self) -> Vec<(u32, Waiter)> {
        std::mem::take(&mut self.waiters)
    }

    /// Splits off the frames that a write of so many bytes has ended; `None` when there is none.
    pub(crate) fn split_ended(&mut self, offset: usize) -> Option<Self> {
        if !self.payload.is_empty() {
            return None;
        }
        self.split(FrameBatch::checked(&self.bytes).ended_by(offset))
    }

    /// Splits off the frames that a write of so many bytes has begun; `None` when that is all.
    pub(crate) fn split_begun(&mut self, offset: usize) -> Option<Self> {
        if !self.payload.is_empty() {
            return None;
        }
        let begun = FrameBatch::checked(&self.bytes).begun_by(offset);
        if begun.messages == self.messages { None } else { self.split(begun) }
    }

    /// How many messages stand before the first whose frame is longer than this, if there is one.
    pub(crate) fn before_longer(&self, than: u32) -> Option<u32> {
        if self.len() <= than as usize {
            return None;
        }
        if self.is_large() {
            return Some(0);
        }
        (0..)
            .zip(FrameBatch::checked(&self.bytes).frames())
            .find(|(_, frame)| frame.len() > than as usize)
            .map(|(at, _)| at)
    }

    /// Splits off so many messages: fewer than there are.
    pub(crate) fn split_messages(&mut self, messages: u32) -> Option<Self> {
        if messages == 0 || messages >= self.messages {
            return None;
        }
        self.split(FrameBatch::checked(&self.bytes).portion(messages.into(), u64::MAX))
    }

    fn split(&mut self, extent: BatchExtent) -> Option<Self> {
        if extent.messages == 0 {
            return None;
        }
        // A barrier behind the last of them goes with them.
        let behind = self.waiters.partition_point(|(index, waiter)| match waiter {
            Waiter::Barrier(_) => *index <= extent.messages,
            _ => *index < extent.messages,
        });
        let mut waiters = self.waiters.split_off(behind);
        for (index, _) in &mut waiters {
            *index -= extent.messages;
        }
        let first = Self {
            bytes: self.bytes.split_to(extent.len),
            payload: Bytes::new(),
            messages: extent.messages,
            number: self.number,
            sent: self.sent,
            blind: self.blind,
            replayed: self.replayed,
            since: self.since,
            waiters: std::mem::replace(&mut self.waiters, waiters),
        };
        self.messages -= extent.messages;
        if self.number > 0 {
            self.number += u64::from(extent.messages);
        }
        Some(first)
    }

    /// Replaces the frames by some of them, with who waits for these.
    pub(crate) fn replace(&mut self, bytes: Bytes, messages: u32, waiters: Vec<(u32, Waiter)>) {
        (self.bytes, self.messages, self.waiters) = (bytes, messages, waiters);
    }

    /// Whether it is one message that is sent from where it is.
    pub(crate) fn is_large(&self) -> bool {
        !self.payload.is_empty()
    }
}

/// Whole frames on their way to the socket.
#[derive(Debug)]
pub(crate) enum OutgoingBatch {
    /// SUBSCRIBE, UNSUBSCRIBE, AUTH: belongs to one connection and is not repeated on the next.
    Control(Bytes),
    /// PUBLISH frames.
    Messages(Batch),
}

impl OutgoingBatch {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Control(bytes) => bytes.len(),
            Self::Messages(batch) => batch.len(),
        }
    }

    pub(crate) fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Control(_) => None,
            Self::Messages(batch) => Some(batch),
        }
    }

    pub(crate) fn batch_mut(&mut self) -> Option<&mut Batch> {
        match self {
            Self::Control(_) => None,
            Self::Messages(batch) => Some(batch),
        }
    }

    /// How many bytes of the queue it takes up.
    pub(crate) fn weight(&self) -> usize {
        self.batch().map_or(0, Batch::len)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.batch().map_or(0, |batch| batch.messages().into())
    }
}
