//! The send queue: messages that are accepted and not yet on their way.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    batch::{Batch, OutgoingBatch},
    dropping::drop_oldest,
    in_flight::{InFlight, SPENT},
    retain::{Removed, retain},
    waiter::Waiter,
};
use crate::{
    client::error::Error,
    wire::{Channel, EncodeError, Field, Ident, Limits, Opcode, check_name, encode_publish_head, publish_head_len},
};

/// Payloads from here on are sent from where they are instead of being copied into a batch. Below
/// it, copying costs less than two more slices in a vectored write.
const LARGE: usize = 16 * 1024;

/// Batches are encoded into memory of this size. A message that no longer fits begins the next:
/// memory that grew would be copied.
const BATCH: usize = 64 * 1024;

/// A publisher that is never out of room lets the driver run after so many bytes. Written soon,
/// they are still in the processor's cache; fewer at once would wake up the broker more often.
const YIELD_AFTER: usize = 4 * BATCH;

/// How long a channel that the broker refused stays refused here. Then one message may try again:
/// the operator may have changed the key meanwhile.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(60);

/// How many channels can be refused here at once. A broker names them, so there must be a bound.
pub(crate) const MAX_QUARANTINED: usize = 256;

/// Messages that are accepted and not yet on their way: encoded, bounded in bytes, alive across
/// reconnects.
#[derive(Debug)]
pub(crate) struct Outbox {
    ident: Ident,
    limits: Limits,
    capacity: usize,
    /// One permit per free byte. Fair: who waits first is served first.
    room: Arc<Semaphore>,
    /// The longest frame that the broker takes, and the longest that was ever accepted, in bytes.
    largest: AtomicU32,
    longest: AtomicU32,
    /// There is a [`YIELD_AFTER`] that the driver has not seen.
    yield_due: AtomicBool,
    /// Somebody waits for room, or has found none.
    starved: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sealed: VecDeque<OutgoingBatch>,
    /// Bytes in what was sealed since the driver, or a publisher, was told.
    fresh: usize,
    tail: BytesMut,
    tail_messages: u32,
    /// When the first of them was accepted.
    tail_since: Option<Instant>,
    /// The waiters for messages of the tail, by index.
    tail_waiters: Vec<(u32, Waiter)>,
    /// Barriers before all that is queued, behind what the driver has taken.
    barriers: Vec<Waiter>,
    /// How many messages were accepted.
    accepted: u64,
    /// Memory for the next batches, at most [`SPENT`] pieces: empty, each with room for a batch.
    spare: Vec<BytesMut>,
    /// The driver found nothing to send and must be woken by the next message.
    driver_idle: bool,
    /// The driver must be woken by the message that leaves less than half of the room.
    wakes_when_low: bool,
    /// It was.
    told_low: bool,
    quarantine: Vec<Quarantined>,
    closed: Option<Error>,
}

#[derive(Debug)]
struct Quarantined {
    channel: Channel,
    until: Instant,
    cause: Error,
}

impl Outbox {
    /// A capacity below one maximal frame is raised to it: any legal message must fit.
    pub(crate) fn new(ident: Ident, limits: Limits, capacity: usize) -> Self {
        let largest = limits.of(Opcode::Publish) as usize;
        // A message takes its permits in one call, which counts in u32.
        let capacity = capacity.clamp(largest, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(capacity));
        Self {
            ident,
            limits,
            capacity,
            room,
            largest: AtomicU32::new(u32::MAX),
            longest: AtomicU32::new(0),
            yield_due: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// The longest frame that the broker takes, in bytes.
    #[cfg(feature = "spool")]
    pub(crate) fn largest(&self) -> u32 {
        self.largest.load(Relaxed)
    }

    /// The longest message that was ever to be queued, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.longest.load(Relaxed) as usize
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    /// The bytes that a message takes up, or why no broker would accept it.
    pub(crate) fn measure(&self, channel: &str, payload: usize) -> Result<u32, Error> {
        check_name(channel).map_err(|cause| Error::name(Field::Channel, channel, cause))?;
        let length = publish_head_len(&self.ident, channel) + payload;
        let limit = self.limits.of(Opcode::Publish).min(self.largest.load(Relaxed));
        match u32::try_from(length) {
            Ok(length) if length <= limit => {
                if length > self.longest.load(Relaxed) {
                    self.longest.fetch_max(length, Relaxed);
                }
                Ok(length)
            }
            _ => Err(EncodeError::TooLong { opcode: Opcode::Publish, length, limit }.into()),
        }
    }

    /// The broker takes no longer frames than this. True when longer ones may be queued.
    pub(crate) fn set_largest(&self, largest: u32) -> bool {
        self.largest.store(largest, Relaxed);
        self.longest.load(Relaxed) > largest
    }

    /// Queues a message that has been [measured](Self::measure), for which the caller holds
    /// permits, and that somebody may wait for. True when the driver must be woken. Otherwise the
    /// payload comes back.
    pub(crate) fn push(&self, channel: &str, payload: Bytes, waiter: Option<Waiter>) -> Result<bool, (Error, Bytes)> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Err(cause) = state.admits(channel) {
            return Err((cause, payload));
        }
        if payload.len() < LARGE {
            // Copied behind the messages before it; a batch that is full is sealed first.
            if state.reserve(publish_head_len(&self.ident, channel) + payload.len()) {
                self.count(state);
            }
            let tail = &mut state.tail;
            if let Err(cause) = encode_publish_head(tail, self.limits, &self.ident, channel, payload.len()) {
                return Err((cause.into(), payload));
            }
            tail.extend_from_slice(&payload);
            if state.tail_messages == 0 {
                state.tail_since = Some(Instant::now());
            }
            if let Some(waiter) = waiter {
                state.tail_waiters.push((state.tail_messages, waiter));
            }
            state.tail_messages += 1;
        } else {
            // Sent from where it is, between two batches.
            let mut head = BytesMut::with_capacity(publish_head_len(&self.ident, channel));
            if let Err(cause) = encode_publish_head(&mut head, self.limits, &self.ident, channel, payload.len()) {
                return Err((cause.into(), payload));
            }
            state.seal();
            let batch = Batch::large(head.freeze(), payload, Instant::now(), waiter);
            state.sealed.push_back(OutgoingBatch::Messages(batch));
            self.count(state);
        }
        state.accepted += 1;
        let is_low = state.wakes_when_low && !state.told_low && self.is_low();
        state.told_low |= is_low;
        Ok(mem::take(&mut state.driver_idle) || is_low)
    }

    /// Adds a barrier behind everything that is accepted. True when the driver must be woken.
    pub(crate) fn push_barrier(&self, barrier: Waiter) -> Result<bool, Error> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.closed {
            return Err(cause.clone());
        }
        let index = state.tail_messages;
        if index > 0 {
            state.tail_waiters.push((index, barrier));
        } else if let Some(OutgoingBatch::Messages(batch)) = state.sealed.back_mut() {
            batch.push_barrier(barrier);
        } else {
            state.barriers.push(barrier);
        }
        Ok(mem::take(&mut state.driver_idle))
    }

    /// Moves everything queued to `to`. False when there was nothing, and then the next message
    /// wakes the driver.
    pub(crate) fn take(&self, to: &mut InFlight) -> bool {
        let mut state = self.state.lock();
        state.seal();
        state.driver_idle = state.sealed.is_empty();
        state.fresh = 0;
        self.yield_due.store(false, Relaxed);
        if !state.barriers.is_empty() {
            to.push_barriers(mem::take(&mut state.barriers));
        }
        to.append(&mut state.sealed);
        // Memory of batches that are written comes back for the next ones.
        while state.spare.len() < SPENT {
            let Some(mut memory) = to.reuse() else {
                break;
            };
            // It may begin in the middle of its allocation; what is too small for a batch is let
            // go.
            if memory.try_reclaim(BATCH) {
                state.spare.push(memory);
            }
        }
        !state.driver_idle
    }

    /// Whether the publisher should let the driver run before it goes on; says so once for each
    /// [`YIELD_AFTER`].
    pub(crate) fn should_yield(&self) -> bool {
        self.yield_due.load(Relaxed) && self.yield_due.swap(false, Relaxed)
    }

    fn count(&self, state: &mut State) {
        state.fresh += state.sealed.back().map_or(0, OutgoingBatch::weight);
        if state.fresh >= YIELD_AFTER {
            state.fresh = 0;
            self.yield_due.store(true, Relaxed);
        }
    }

    /// From now on, the driver is also woken when the queue is half full.
    #[cfg(feature = "spool")]
    pub(crate) fn wake_when_low(&self) {
        self.state.lock().wakes_when_low = true;
    }

    /// Whether the queue is half full, or somebody waits for room.
    pub(crate) fn is_low(&self) -> bool {
        self.free() < self.capacity / 2 || self.starved.load(Relaxed)
    }

    /// Notes that somebody waits for room.
    pub(crate) fn starve(&self) {
        self.starved.store(true, Relaxed);
    }

    /// Whether somebody waits for room, or has found none since some was released.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Relaxed)
    }

    /// When the oldest message was accepted; without one, barriers go to `to`, and the next message
    /// wakes the driver. So does the next that finds the queue half full.
    #[cfg(feature = "spool")]
    pub(crate) fn watch(&self, to: &mut InFlight) -> Option<Instant> {
        let mut state = self.state.lock();
        state.told_low = false;
        let oldest = match state.sealed.front() {
            Some(OutgoingBatch::Messages(batch)) => Some(batch.since()),
            _ => state.tail_since,
        };
        if oldest.is_none() {
            state.driver_idle = true;
            if !state.barriers.is_empty() {
                to.push_barriers(mem::take(&mut state.barriers));
            }
        }
        oldest
    }

    /// Makes bytes available again that left the queue.
    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.room.add_permits(bytes);
            // Permits go to who waits first: those that are left mean that nobody waits.
            if self.room.available_permits() > 0 {
                self.starved.store(false, Relaxed);
            }
        }
    }

    /// Refuses a channel for a while; false when it was refused already. Messages that are queued
    /// for it stay until they are taken out with [`retain`](Self::retain).
    pub(crate) fn quarantine(&self, channel: &Channel, cause: &Error, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.quarantine.retain(|entry| entry.until > now);
        let before = state.quarantine.len();
        state.quarantine.retain(|entry| entry.channel != *channel);
        let new = state.quarantine.len() == before;
        if state.quarantine.len() >= MAX_QUARANTINED {
            state.quarantine.remove(0);
        }
        state.quarantine.push(Quarantined { channel: channel.clone(), until: now + QUARANTINE, cause: cause.clone() });
        new
    }

    /// Takes messages out of the queue that `refusal` gives a reason against, by channel and length.
    pub(crate) fn retain(&self, refusal: impl FnMut(&str, usize) -> Option<Error>) {
        let mut state = self.state.lock();
        state.seal();
        let (removed, barriers) = retain(&mut state.sealed, refusal);
        state.barriers.extend(barriers);
        drop(state);
        self.release(removed.room);
    }

    /// Takes so many bytes of the oldest messages out. Their room is for the caller to release.
    pub(crate) fn drop_oldest(&self, bytes: usize) -> Removed {
        let mut state = self.state.lock();
        state.seal();
        let (removed, barriers) = drop_oldest(&mut state.sealed, 0, bytes);
        state.barriers.extend(barriers);
        removed
    }

    /// The channels that are refused at the moment, and why.
    pub(crate) fn quarantined(&self, now: Instant) -> Vec<(Channel, Error)> {
        let state = self.state.lock();
        let current = state.quarantine.iter().filter(|entry| entry.until > now);
        current.map(|entry| (entry.channel.clone(), entry.cause.clone())).collect()
    }

    /// Messages and bytes that wait here.
    pub(crate) fn unsent(&self) -> (u64, usize) {
        let mut state = self.state.lock();
        state.seal();
        let messages = state.sealed.iter().map(OutgoingBatch::messages).sum();
        let bytes = state.sealed.iter().map(OutgoingBatch::weight).sum();
        (messages, bytes)
    }

    /// When the oldest of them was accepted.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let state = self.state.lock();
        match state.sealed.front() {
            Some(OutgoingBatch::Messages(batch)) => Some(batch.since()),
            _ => state.tail_since,
        }
    }

    /// How many messages were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// From now on messages are refused with `cause`; those that wait for room hear it at once.
    pub(crate) fn close(&self, cause: Error) {
        self.state.lock().closed.get_or_insert(cause);
        self.room.close();
    }

    /// The session is over: messages are refused with `cause`, and what is still queued is let go.
    pub(crate) fn end(&self, cause: &Error) {
        let mut state = self.state.lock();
        state.seal();
        let ended = mem::replace(&mut *state, State { closed: Some(cause.clone()), ..State::default() });
        drop(state);
        self.room.close();
        for barrier in ended.barriers {
            barrier.end(false, cause);
        }
        for batch in ended.sealed {
            if let OutgoingBatch::Messages(mut batch) = batch {
                for (_, waiter) in batch.take_waiters() {
                    waiter.end(false, cause);
                }
            }
        }
    }

    /// Why messages are refused, after [`close`](Self::close).
    pub(crate) fn closed(&self) -> Error {
        self.state.lock().closed.clone().unwrap_or_else(Error::closed)
    }

    /// Bytes that may still be queued without waiting.
    pub(crate) fn free(&self) -> usize {
        self.room.available_permits().min(self.capacity)
    }
}

impl State {
    /// Whether a message may be queued for this channel.
    fn admits(&mut self, channel: &str) -> Result<(), Error> {
        if let Some(cause) = &self.closed {
            return Err(cause.clone());
        }
        if self.quarantine.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.quarantine.retain(|entry| entry.until > now);
        match self.quarantine.iter().find(|entry| entry.channel == *channel) {
            Some(entry) => Err(entry.cause.clone()),
            None => Ok(()),
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            let messages = mem::take(&mut self.tail_messages);
            let since = self.tail_since.take().unwrap_or_else(Instant::now);
            let batch = Batch::small(bytes, messages, since, mem::take(&mut self.tail_waiters));
            self.sealed.push_back(OutgoingBatch::Messages(batch));
        }
    }

    /// Room in the tail for so many bytes more, without moving those that are there. True when that
    /// filled a batch.
    fn reserve(&mut self, bytes: usize) -> bool {
        if self.tail.capacity() - self.tail.len() >= bytes {
            return false;
        }
        let filled = !self.tail.is_empty();
        self.seal();
        self.tail = self.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(BATCH));
        filled
    }
}
