//! The storing of what one connection publishes: which of its messages the journal gets, and what its
//! end of stream may confirm.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use hpfeeds::{
    log::StreamEnd,
    wire::extension::{Position, StreamId},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    journal::{
        batch::{Draft, Runs},
        handle::AppendError,
        pace,
        store::Store,
    },
    util::clock::unix_ms,
};

/// The parts of the store that messages on a channel go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Storage {
    /// The journal, as a mailbox wants them or the publisher does.
    pub(super) journal: bool,
    /// The last values.
    pub(super) last_value: bool,
}

impl Storage {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The storage of a channel as it was looked up last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lookup {
    /// The generation of the mailboxes then, and one more: zero before the first look.
    generation: u64,
    wanted: bool,
    last_value: bool,
}

/// The storing of one connection that has published.
#[allow(clippy::struct_excessive_bools, reason = "facts about one connection that do not depend on each other")]
pub(super) struct Storing {
    store: Arc<Store>,
    account: Arc<str>,
    /// The publisher has everything stored.
    pub(super) stores_all: bool,
    /// The last message that the journal was given: an end of stream waits until it is durable.
    last: Option<Position>,
    /// Messages that a mailbox wants are not stored: an end of stream would confirm them.
    missed: bool,
    /// Since when the connection waits for the disk.
    waiting: Option<Instant>,
    /// It has waited for too long: until there is room, its messages are live only.
    gave_up: bool,
}

/// The fate of a batch.
pub(super) enum Stored {
    /// The journal has it; the position is that of its last message.
    Appended(Position),
    /// The journal was not to have it.
    Live,
    /// The share of the account is full: it is live only. Its channels.
    ShareFull(Runs),
    /// The journal has failed or does not follow: it is live only.
    Missed,
}

impl Storing {
    pub(super) fn new(store: Arc<Store>, account: Arc<str>, stores_all: bool) -> Self {
        let (last, missed, waiting, gave_up) = (None, false, None, false);
        Self { store, account, stores_all, last, missed, waiting, gave_up }
    }

    /// The storage of a channel: a comparison, unless mailboxes have changed.
    pub(super) fn storage(&self, channel: &str, lookup: &Cell<Lookup>) -> Storage {
        let generation = self.store.mailboxes.generation() + 1;
        let mut found = lookup.get();
        if found.generation != generation {
            let wanted = self.store.mailboxes.want(channel);
            found = Lookup { generation, wanted, last_value: self.store.last_values.cover(channel) };
            lookup.set(found);
        }
        Storage { journal: found.wanted || self.stores_all, last_value: found.last_value }
    }

    /// The wait before so many bytes more are published, if the journal's queue has no room for them.
    /// A publisher that gets confirmations waits for as long as it takes. One of a relay waits like any
    /// other: its socket holds what would be lost.
    pub(super) fn pace(&mut self, bytes: usize, confirms: bool) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let journal = &self.store.journal;
        if journal.health().is_over() || journal.has_room(bytes) {
            (self.waiting, self.gave_up) = (None, false);
            return None;
        }
        let journal = journal.clone();
        if confirms {
            return Some(Box::pin(async move { journal.room_or_end(bytes).await }));
        }
        let now = Instant::now();
        let since = *self.waiting.get_or_insert(now);
        let until = self.store.pace.fall_behind(now).min(since + pace::PATIENCE);
        self.gave_up = until <= now;
        if self.gave_up {
            return None;
        }
        Some(Box::pin(async move { timeout_at(until, journal.room_or_end(bytes)).await.unwrap_or_default() }))
    }

    /// Gives a batch of whole PUBLISH frames to the store. `stream` is the publisher's and the number
    /// of the last message in it, if they are numbered.
    pub(super) fn store(&mut self, frames: &Bytes, storage: Storage, stream: Option<(StreamId, u64)>) -> Stored {
        let Self { store, account, .. } = self;
        let stream = stream.map(|(id, last)| StreamEnd { id: *id.as_bytes(), last });
        let Some(draft) = Draft::new(frames.clone(), unix_ms(), stream) else {
            debug_assert!(false, "they are whole frames, and at least one");
            self.missed = true;
            return Stored::Missed;
        };
        if storage.last_value {
            store.last_values.publish(&draft);
        }
        if !storage.journal {
            return Stored::Live;
        }
        let messages = u64::from(draft.messages);
        store.pace.wanted.fetch_add(messages, Relaxed);
        if self.gave_up {
            store.pace.behind.fetch_add(messages, Relaxed);
            self.missed = true;
            return Stored::Missed;
        }
        if !store.shares.admits(account, &draft) {
            self.missed = true;
            return Stored::ShareFull(draft.runs);
        }
        match store.journal.append_admitted(draft.clone()) {
            Ok(position) => {
                store.pace.move_on();
                store.shares.appended(account, &draft, position);
                self.last = Some(position);
                Stored::Appended(position)
            }
            Err(AppendError::QueueFull | AppendError::Failed | AppendError::Closed | AppendError::TooLong) => {
                store.pace.failed.fetch_add(messages, Relaxed);
                self.missed = true;
                Stored::Missed
            }
        }
    }

    /// The end of the publisher's stream: the wait until all that it stands behind is durable.
    pub(super) fn settle(&mut self) -> Option<Pin<Box<dyn Future<Output = bool> + Send>>> {
        let last = self.last.take()?;
        let journal = self.store.journal.clone();
        if journal.durable_position() >= last {
            return None;
        }
        let until = Instant::now() + pace::PATIENCE;
        Some(Box::pin(async move { matches!(timeout_at(until, journal.durable(last)).await, Ok(Ok(()))) }))
    }

    /// Messages that a mailbox wants are not stored.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    /// Whether an end of stream would confirm messages that are not stored.
    pub(super) fn has_missed(&self) -> bool {
        self.missed
    }
}
