//! The distribution of received messages to the streams of single channels, between the receive queue
//! and all that read it.
//!
//! Without such streams the session reads the receive queue itself, and nothing here is touched but
//! one flag. With them, whichever reader is polled takes the next batch off the receive queue and
//! deals it out: each stream has a queue of its own, and what no stream takes is left for the session.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::{
    consumption::Run,
    receive::{Inbox, Popped},
};
use crate::{
    client::when_full::WhenFull,
    wire::{Channel, DecodeError, Header, Ident, Limits, NameCache, Pattern, payload_of},
};

/// The reader that is the session itself.
pub(crate) const SESSION: u64 = 0;

/// How many channels are remembered whose stream was dropped: what is still on its way is for nobody.
const REMEMBERED: usize = 64;

/// The driver has seen to it.
const ANY_LENGTH: Limits = Limits::new(u32::MAX);

type Message = (Ident, Channel, Bytes);

/// The streams of single channels, and what is left for the session.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    /// There is, or was, a stream.
    is_used: AtomicBool,
    state: Mutex<State>,
    waiting: Arc<Waiting>,
    /// Held while a stream comes or goes together with its subscription.
    pub(crate) turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    streams: Vec<Queue>,
    last_id: u64,
    /// What no stream takes, each with what it is of a mailbox.
    rest: VecDeque<(BytesMut, Option<Box<Run>>)>,
    rest_bytes: usize,
    /// The session is dropped: what no stream takes is for nobody.
    is_alone: bool,
    /// Channels whose streams are gone, the newest last.
    gone: VecDeque<Pattern>,
    has_ended: bool,
    names: Option<NameCache>,
}

/// The queue of one stream.
#[derive(Debug)]
struct Queue {
    id: u64,
    pattern: Pattern,
    messages: VecDeque<Message>,
    bytes: usize,
    capacity: usize,
    when_full: WhenFull,
    missed: u64,
    /// The subscription is the stream's, not the program's.
    is_own: bool,
}

/// The session around the streams: what it knows and they do not.
pub(crate) trait Surroundings {
    fn inbox(&self) -> &Inbox;

    /// Whether the session has subscribed to what a message is on.
    fn wants(&self, channel: &str) -> bool;

    /// Counts a message that cannot be read.
    fn skip(&self, fault: DecodeError);

    fn wake_driver(&self);
}

impl Channels {
    /// Adds a stream, and says under which number. `is_new`: the channel was not wanted before.
    pub(crate) fn add(&self, pattern: Pattern, capacity: usize, is_new: bool) -> u64 {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        let is_own = is_new || state.streams.iter().any(|queue| queue.is_own && queue.pattern == pattern);
        state.gone.retain(|gone| *gone != pattern);
        let (messages, when_full) = (VecDeque::new(), WhenFull::default());
        state.streams.push(Queue { id, pattern, messages, bytes: 0, capacity, when_full, missed: 0, is_own });
        self.is_used.store(true, Relaxed);
        id
    }

    /// Lets a stream go with what it holds; whether its channel is wanted for nothing else.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.streams.iter().position(|queue| queue.id == id) else { return false };
        let queue = state.streams.swap_remove(at);
        let is_last = queue.is_own && !state.streams.iter().any(|other| other.pattern == queue.pattern);
        if is_last {
            if state.gone.len() >= REMEMBERED {
                state.gone.pop_front();
            }
            state.gone.push_back(queue.pattern);
        }
        drop(state);
        // It may have been what the others waited for.
        self.waiting.wake_all();
        is_last
    }

    /// The session is dropped: the streams go on to their end without it.
    pub(crate) fn go_on_alone(&self) {
        let mut state = self.state.lock();
        state.is_alone = true;
        state.rest.clear();
        state.rest_bytes = 0;
        drop(state);
        self.waiting.wake_all();
    }

    pub(crate) fn set(&self, id: u64, change: impl FnOnce(&mut usize, &mut WhenFull)) {
        if let Some(queue) = self.state.lock().queue(id) {
            change(&mut queue.capacity, &mut queue.when_full);
        }
        self.waiting.wake_all();
    }

    /// How many messages a stream has missed.
    pub(crate) fn missed(&self, id: u64) -> u64 {
        self.state.lock().queue(id).map_or(0, |queue| queue.missed)
    }

    /// The next batch for the session.
    pub(crate) fn poll_session(&self, cx: &mut Context<'_>, around: &impl Surroundings) -> Poll<Option<Popped>> {
        if !self.is_used.load(Relaxed) {
            return around.inbox().poll_pop(cx);
        }
        self.poll(SESSION, cx, around, |state, capacity| {
            let (batch, run) = state.rest.pop_front()?;
            let was_full = state.rest_bytes >= capacity;
            state.rest_bytes -= batch.len();
            Some((Popped { batch, run, wakes_driver: false }, was_full && state.rest_bytes < capacity))
        })
    }

    /// The next message for a stream.
    pub(crate) fn poll_stream(
        &self,
        id: u64,
        cx: &mut Context<'_>,
        around: &impl Surroundings,
    ) -> Poll<Option<Message>> {
        self.poll(id, cx, around, |state, _| {
            let queue = state.queue(id)?;
            let message = queue.messages.pop_front()?;
            let was_full = queue.is_full();
            queue.bytes -= weight(&message);
            Some((message, was_full && !queue.is_full()))
        })
    }

    /// Takes what is there, or deals out batches until there is something. `take` also says whether
    /// the others may go on.
    fn poll<T>(
        &self,
        id: u64,
        cx: &mut Context<'_>,
        around: &impl Surroundings,
        mut take: impl FnMut(&mut State, usize) -> Option<(T, bool)>,
    ) -> Poll<Option<T>> {
        let capacity = around.inbox().capacity();
        loop {
            let mut state = self.state.lock();
            if let Some((taken, makes_room)) = take(&mut state, capacity) {
                drop(state);
                if makes_room {
                    self.waiting.wake_all();
                }
                return Poll::Ready(Some(taken));
            }
            if state.has_ended {
                return Poll::Ready(None);
            }
            // Before anything is found missing: what comes later wakes this reader.
            self.waiting.add(id, cx.waker());
            if state.is_blocked(capacity) {
                return Poll::Pending;
            }
            let everyone = Waker::from(Arc::clone(&self.waiting));
            match around.inbox().poll_pop(&mut Context::from_waker(&everyone)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    state.has_ended = true;
                    drop(state);
                    self.waiting.wake_all();
                }
                Poll::Ready(Some(popped)) => {
                    let wakes_driver = popped.wakes_driver;
                    let readers = state.deal(popped, around);
                    drop(state);
                    self.waiting.wake_those(&readers);
                    if wakes_driver {
                        around.wake_driver();
                    }
                }
            }
        }
    }
}

impl State {
    fn queue(&mut self, id: u64) -> Option<&mut Queue> {
        self.streams.iter_mut().find(|queue| queue.id == id)
    }

    /// Whether nothing more may be taken off the receive queue.
    fn is_blocked(&self, capacity: usize) -> bool {
        self.rest_bytes >= capacity
            || self.streams.iter().any(|queue| queue.when_full == WhenFull::Wait && queue.is_full())
    }

    /// Deals out a batch. Returns the readers that have got something.
    fn deal(&mut self, popped: Popped, around: &impl Surroundings) -> BTreeSet<u64> {
        let Popped { mut batch, run, .. } = popped;
        let mut readers = BTreeSet::new();
        if run.is_some() {
            // Messages of a mailbox are counted by the session, which commits them.
            self.leave(batch, run, &mut readers);
            return readers;
        }
        let mut names = self.names.take();
        // The streams of the channel before: most messages are on the same.
        let mut targets: Option<(Channel, Vec<usize>)> = None;
        while let Some(length) = Header::parse(&batch, ANY_LENGTH).ok().flatten().map(|header| header.length) {
            let Some(frame) = batch.get(..length) else { break };
            let place = names.as_ref().and_then(|names| names.repeated(frame, ANY_LENGTH)).map(|(at, _)| at);
            let at = match place {
                Some(at) => at,
                None => match NameCache::remember(&mut names, frame) {
                    Ok((_, at)) => at,
                    Err(fault) => {
                        around.skip(fault);
                        drop(batch.split_to(length));
                        continue;
                    }
                },
            };
            let Some(NameCache { ident, channel, .. }) = &names else { break };
            if targets.as_ref().is_none_or(|(known, _)| known != channel) {
                targets = Some((channel.clone(), self.targets(channel)));
            }
            let Some((_, streams)) = &targets else { break };
            if streams.is_empty() {
                let frame = batch.split_to(length);
                if !self.gone.iter().any(|gone| gone.matches(channel)) || around.wants(channel) {
                    self.leave(frame, None, &mut readers);
                }
                continue;
            }
            let message = (ident.clone(), channel.clone(), payload_of(&mut batch, at, length));
            for stream in streams {
                if let Some(queue) = self.streams.get_mut(*stream) {
                    queue.push(message.clone());
                    readers.insert(queue.id);
                }
            }
        }
        self.names = names;
        readers
    }

    fn targets(&self, channel: &str) -> Vec<usize> {
        let all = self.streams.iter().enumerate();
        all.filter(|(_, queue)| queue.pattern.matches(channel)).map(|(at, _)| at).collect()
    }

    /// Leaves frames to the session, in one batch with those before them where that costs nothing.
    fn leave(&mut self, frames: BytesMut, run: Option<Box<Run>>, readers: &mut BTreeSet<u64>) {
        if self.is_alone {
            return;
        }
        readers.insert(SESSION);
        self.rest_bytes += frames.len();
        match self.rest.back_mut() {
            Some((last, None)) if run.is_none() && is_behind(last, &frames) => last.unsplit(frames),
            _ => self.rest.push_back((frames, run)),
        }
    }
}

/// Whether one stands right behind the other in memory, so that they can be put together again.
fn is_behind(last: &BytesMut, frames: &BytesMut) -> bool {
    last.as_ptr_range().end == frames.as_ptr()
}

impl Queue {
    fn is_full(&self) -> bool {
        self.bytes >= self.capacity
    }

    fn push(&mut self, message: Message) {
        let weight = weight(&message);
        if self.when_full == WhenFull::Refuse && self.is_full() {
            self.missed += 1;
            return;
        }
        self.bytes += weight;
        self.messages.push_back(message);
        while self.when_full == WhenFull::DropOldest && self.bytes > self.capacity && self.messages.len() > 1 {
            let Some(oldest) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= self::weight(&oldest);
            self.missed += 1;
        }
    }
}

/// The bytes that a message counts for: its payload, its names and what holds it.
fn weight((ident, channel, payload): &Message) -> usize {
    mem::size_of::<Message>() + ident.len() + channel.len() + payload.len()
}

/// The readers that wait: one waker in the receive queue stands for all of them.
#[derive(Debug, Default)]
struct Waiting(Mutex<Vec<(u64, Waker)>>);

impl Waiting {
    fn add(&self, id: u64, waker: &Waker) {
        let mut waiting = self.0.lock();
        match waiting.iter_mut().find(|(known, _)| *known == id) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.push((id, waker.clone())),
        }
    }

    fn wake_those(&self, readers: &BTreeSet<u64>) {
        let mut waiting = self.0.lock();
        let (woken, others): (Vec<_>, Vec<_>) =
            mem::take(&mut *waiting).into_iter().partition(|(id, _)| readers.contains(id));
        *waiting = others;
        drop(waiting);
        for (_, waker) in woken {
            waker.wake();
        }
    }

    fn wake_all(&self) {
        let woken = mem::take(&mut *self.0.lock());
        for (_, waker) in woken {
            waker.wake();
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
