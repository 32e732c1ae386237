use std::{collections::VecDeque, mem, sync::Arc, sync::Mutex, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Error,
    flight::{self, Segment},
    shared::lock,
};
use crate::wire::{Channel, Ident, Limits, encode_publish, encode_publish_head, publish_len};

/// Payloads from here on are sent from where they are instead of being copied into a run. Below it, copying costs
/// less than two more slices in a vectored write.
const LARGE: usize = 16 * 1024;

/// A run is closed at this size, so that a long queue is many allocations of a good size and not one that is
/// copied over and over while it grows.
const RUN: usize = 64 * 1024;

/// How long a channel that the broker refused stays refused here. Then one message may try again: the operator may
/// have changed the key meanwhile.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(60);

/// Messages that are accepted and not yet on their way: encoded, bounded in bytes, alive across reconnects.
#[derive(Debug)]
pub(crate) struct Outbox {
    ident: Ident,
    limits: Limits,
    capacity: usize,
    /// One permit per free byte. Fair: who waits first is served first.
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sealed: VecDeque<Segment>,
    tail: BytesMut,
    tail_messages: u64,
    /// The driver found nothing to send and must be woken by the next message.
    driver_idle: bool,
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
        let largest = limits.of(crate::wire::Opcode::Publish) as usize;
        // A message takes its permits in one call, which counts in u32.
        let capacity = capacity.clamp(largest, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(capacity));
        Self { ident, limits, capacity, room, state: Mutex::default() }
    }

    pub(crate) fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    /// The bytes that a message takes up, or why no broker would accept it.
    pub(crate) fn measure(&self, channel: &Channel, payload: usize) -> Result<u32, Error> {
        let length = publish_len(&self.ident, channel, payload);
        let limit = self.limits.of(crate::wire::Opcode::Publish);
        match u32::try_from(length) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(crate::wire::EncodeError::TooLong { opcode: crate::wire::Opcode::Publish, length, limit }.into()),
        }
    }

    /// Queues a message for which the caller holds permits. True when the driver must be woken.
    pub(crate) fn push(&self, channel: &Channel, payload: Bytes) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        if let Some(cause) = &state.closed {
            return Err(cause.clone());
        }
        if !state.quarantine.is_empty() {
            let now = Instant::now();
            state.quarantine.retain(|entry| entry.until > now);
            if let Some(entry) = state.quarantine.iter().find(|entry| entry.channel == *channel) {
                return Err(entry.cause.clone());
            }
        }
        if payload.len() < LARGE {
            encode_publish(&mut state.tail, self.limits, &self.ident, channel, &payload)?;
            state.tail_messages += 1;
            if state.tail.len() >= RUN {
                state.seal();
            }
        } else {
            state.seal();
            let mut head = BytesMut::new();
            encode_publish_head(&mut head, self.limits, &self.ident, channel, payload.len())?;
            state.sealed.push_back(Segment::Large { head: head.freeze(), payload });
        }
        Ok(mem::take(&mut state.driver_idle))
    }

    /// Moves everything queued to `to`. False when there was nothing, and then the next message wakes the driver.
    pub(crate) fn take(&self, to: &mut flight::Flight) -> bool {
        let mut state = lock(&self.state);
        state.seal();
        state.driver_idle = state.sealed.is_empty();
        to.append(&mut state.sealed);
        !state.driver_idle
    }

    /// Makes bytes available again that left the queue.
    pub(crate) fn release(&self, bytes: usize) {
        self.room.add_permits(bytes);
    }

    /// Refuses a channel for a while and takes its messages out of the queue; says how many.
    pub(crate) fn quarantine(&self, channel: &Channel, cause: &Error, now: Instant) -> u64 {
        let mut state = lock(&self.state);
        state.quarantine.retain(|entry| entry.channel != *channel && entry.until > now);
        state.quarantine.push(Quarantined { channel: channel.clone(), until: now + QUARANTINE, cause: cause.clone() });
        state.seal();
        let removed = flight::retain(&mut state.sealed, |queued| queued != channel);
        drop(state);
        self.release(removed.room);
        removed.messages
    }

    /// Why messages to a channel are refused at the moment, if they are.
    pub(crate) fn quarantined(&self, channel: &str, now: Instant) -> Option<Error> {
        let state = lock(&self.state);
        state
            .quarantine
            .iter()
            .find(|entry| entry.channel == *channel && entry.until > now)
            .map(|entry| entry.cause.clone())
    }

    /// Messages and bytes that wait here.
    pub(crate) fn unsent(&self) -> (u64, usize) {
        let mut state = lock(&self.state);
        state.seal();
        let messages = state.sealed.iter().map(Segment::messages).sum();
        let bytes = state.sealed.iter().map(Segment::weight).sum();
        (messages, bytes)
    }

    /// From now on messages are refused with `cause`; those that wait for room hear it at once.
    pub(crate) fn close(&self, cause: Error) {
        lock(&self.state).closed.get_or_insert(cause);
        self.room.close();
    }

    /// Why messages are refused, after [`close`](Self::close).
    pub(crate) fn closed(&self) -> Error {
        lock(&self.state).closed.clone().unwrap_or_else(Error::closed)
    }

    /// Bytes that may still be queued without waiting.
    pub(crate) fn free(&self) -> usize {
        self.room.available_permits().min(self.capacity)
    }
}

impl State {
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            self.sealed.push_back(Segment::Run { bytes, messages: mem::take(&mut self.tail_messages) });
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve(RUN);
        }
    }
}
