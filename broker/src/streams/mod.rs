//! The table of streams: what the broker has decided of each, and which connection publishes it.
//!
//! A stream is published by one connection at a time. A connection that asks for it while another
//! holds it fences that one, and gets the stream once that one has given it back, as it is then: so
//! no message is decided for a connection that no longer holds its stream. Of several that ask, the
//! last one gets it.
//!
//! While a connection holds a stream, what is decided of it stands in its [`StreamHold`] alone, and
//! the table is not touched.

mod idle;
pub(crate) mod key;
pub(crate) mod refusals;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

use std::{collections::HashMap, mem, sync::Arc};

use hpfeeds::wire::extension::StreamId;
use parking_lot::Mutex;

use crate::{
    journal::streams::{KnownStream, StreamName},
    link::Link,
    streams::{
        idle::{Idle, Turn},
        key::StreamKey,
        refusals::Refusals,
    },
    util::collections::shrink,
};

/// The progress of a stream, which outlives its connections.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// All messages up to this number are decided.
    pub(crate) decided: u64,
    /// The last that were refused.
    pub(crate) refusals: Refusals,
}

impl From<KnownStream> for Progress {
    fn from(known: KnownStream) -> Self {
        let mut progress = Self { decided: known.decided, ..Self::default() };
        known.refused.into_iter().for_each(|range| progress.refusals.add(range));
        progress
    }
}

impl Progress {
    fn is_nothing(&self) -> bool {
        self.decided == 0 && self.refusals.is_empty()
    }
}

/// All streams that are held or have been lately.
#[derive(Debug, Default)]
pub(crate) struct StreamTable(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    streams: HashMap<StreamKey, Entry>,
    idle: Idle,
    /// What a journal knows of streams that have not been asked for since the start.
    stored: HashMap<StreamName, KnownStream>,
}

#[derive(Debug)]
struct Entry {
    /// The connection that publishes it.
    holder: Option<Arc<Link>>,
    /// In a box, as most streams have a holder and no claimant.
    rest: Option<Box<Rest>>,
}

/// The part of an entry without a holder, or with a claimant.
#[derive(Debug, Default)]
struct Rest {
    /// The connection that has asked for it last, and waits.
    claimant: Option<Arc<Link>>,
    /// While no connection holds it.
    progress: Progress,
    /// Its place among the idle ones, if it is one of them.
    turn: Option<Turn>,
}

impl Entry {
    /// The connection holds it from now on, and has its progress.
    fn hold(&mut self, link: &Arc<Link>) -> Progress {
        self.holder = Some(link.clone());
        self.rest.take().map(|rest| rest.progress).unwrap_or_default()
    }

    /// Takes the claim of a connection back; `false` when it is not the claimant.
    fn unclaim(&mut self, link: &Arc<Link>) -> bool {
        let claimant = self.rest.as_mut().and_then(|rest| rest.claimant.take_if(|own| Arc::ptr_eq(own, link)));
        claimant.is_some()
    }
}

/// The answer to a claim.
pub(crate) enum Claimed {
    /// The stream is the connection's, and whether the table knew it.
    Now(StreamHold, bool),
    /// Another connection has to give it back first.
    Later(StreamClaim),
}

/// A claim to a stream that another connection holds. Dropping it gives it up.
pub(crate) struct StreamClaim(Option<Seat>);

/// A stream that a connection holds. Dropping it gives the stream back with its progress.
pub(crate) struct StreamHold {
    seat: Seat,
    pub(crate) progress: Progress,
}

/// A connection's place at a stream.
struct Seat {
    table: Arc<StreamTable>,
    key: StreamKey,
    link: Arc<Link>,
}

impl StreamTable {
    /// A table with what a journal knows of streams.
    pub(crate) fn new(stored: HashMap<StreamName, KnownStream>) -> Self {
        Self(Mutex::new(State { stored, ..State::default() }))
    }

    /// Claims a stream for a connection that holds none. The one that holds it, and one that waits
    /// for it, are fenced.
    pub(crate) fn claim(self: &Arc<Self>, key: StreamKey, link: &Arc<Link>) -> Claimed {
        let seat = Seat { table: self.clone(), key, link: link.clone() };
        let mut state = self.0.lock();
        let Some(entry) = state.streams.get_mut(&seat.key) else {
            state.streams.insert(seat.key.clone(), Entry { holder: Some(link.clone()), rest: None });
            let stored = state.stored.remove(&StreamName::new(seat.key.stream, link.outbox().ident()));
            let is_known = stored.is_some();
            return Claimed::Now(
                StreamHold { seat, progress: stored.map(Progress::from).unwrap_or_default() },
                is_known,
            );
        };
        if let Some(turn) = entry.rest.as_ref().and_then(|rest| rest.turn) {
            let progress = entry.hold(link);
            state.idle.remove(turn, &seat.key);
            return Claimed::Now(StreamHold { seat, progress }, true);
        }
        let before = entry.rest.get_or_insert_default().claimant.replace(link.clone());
        let holder = entry.holder.clone();
        // Under the lock: a connection that has given its stream back is not fenced for it later.
        before.iter().chain(&holder).for_each(|link| link.fence());
        drop(state);
        before.iter().chain(&holder).for_each(|link| link.outbox().wake());
        Claimed::Later(StreamClaim(Some(seat)))
    }
}

impl StreamTable {
    /// How many streams are known.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().streams.len()
    }
}

impl State {
    /// Makes a stream idle that no connection holds or waits for, or forgets it when there is
    /// nothing to know.
    fn rest(&mut self, key: &StreamKey) {
        let Some(entry) = self.streams.get_mut(key) else {
            return;
        };
        let rest = entry.rest.get_or_insert_default();
        if rest.progress.is_nothing() {
            self.streams.remove(key);
        } else {
            let (turn, evicted) = self.idle.add(key.clone());
            rest.turn = Some(turn);
            for key in evicted {
                self.streams.remove(&key);
            }
        }
        shrink(&mut self.streams);
    }
}

impl StreamClaim {
    /// Takes the stream if it has been given back. The connection is woken up then, and also when
    /// it is fenced, after which the claim is void.
    pub(crate) fn take(&mut self) -> Option<StreamHold> {
        let seat = self.0.as_ref()?;
        let mut state = seat.table.0.lock();
        let entry = state.streams.get_mut(&seat.key)?;
        if entry.holder.is_some() || !entry.unclaim(&seat.link) {
            return None;
        }
        let progress = entry.hold(&seat.link);
        drop(state);
        self.0.take().map(|seat| StreamHold { seat, progress })
    }
}

impl Drop for StreamClaim {
    fn drop(&mut self) {
        let Some(Seat { table, key, link }) = &self.0 else {
            return;
        };
        let mut state = table.0.lock();
        if let Some(entry) = state.streams.get_mut(key)
            && entry.unclaim(link)
        {
            if entry.holder.is_none() {
                state.rest(key);
            } else {
                entry.rest = None;
            }
        }
    }
}

impl StreamHold {
    pub(crate) fn is(&self, key: &StreamKey) -> bool {
        self.seat.key == *key
    }

    pub(crate) fn id(&self) -> StreamId {
        self.seat.key.stream
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        let Seat { table, key, .. } = &self.seat;
        let mut state = table.0.lock();
        let Some(entry) = state.streams.get_mut(key) else {
            return;
        };
        entry.holder = None;
        let rest = entry.rest.get_or_insert_default();
        rest.progress = mem::take(&mut self.progress);
        let Some(claimant) = rest.claimant.clone() else {
            return state.rest(key);
        };
        drop(state);
        claimant.outbox().wake();
    }
}
