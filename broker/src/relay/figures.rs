//! The figures of an uplink: what it has sent, what waits and since when, what was refused or lost.

use std::{sync::Arc, time::Duration};

use hpfeeds::wire::{Channel, Ident, extension::Level};
use parking_lot::Mutex;

/// The state of an uplink's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LinkState {
    #[default]
    Connecting,
    /// The parent confirms at this level; `None`: by its end of stream.
    Connected(Option<Level>),
    /// The parent has refused the key.
    Rejected,
    /// The parent is away.
    Away,
    /// The parent's own parents lead back to here, or are too many.
    Loop,
}

/// Messages that were refused or given up, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Refusals {
    /// The parent has denied the channel for longer than it may.
    pub(crate) denied: u64,
    /// Longer than the parent takes.
    pub(crate) too_long: u64,
    /// Delivered by the parent and not stored there, as the ident's share is full.
    pub(crate) share: u64,
    /// Any other reason of the parent.
    pub(crate) other: u64,
}

/// Messages of a channel that the parent denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) channel: Channel,
    pub(crate) messages: u64,
    pub(crate) age: Duration,
}

/// The figures of one ident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UplinkSnapshot {
    pub(crate) ident: Ident,
    pub(crate) state: LinkState,
    /// The newest fault of the connection.
    pub(crate) fault: Option<String>,
    /// Messages that the parent has confirmed since the start.
    pub(crate) delivered: u64,
    /// Messages in the journal that are not decided; with several idents at most so many.
    pub(crate) waiting: u64,
    /// When the oldest of them came, in milliseconds since 1970, once it was read.
    pub(crate) oldest_ms: Option<i64>,
    pub(crate) held: Vec<Held>,
    pub(crate) refused: Refusals,
    /// Messages that were dropped for room or age, or damaged, before they were sent; with several
    /// idents at most so many.
    pub(crate) lost: u64,
}

/// The figures of one uplink, which changes them. Clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Figures(Arc<Mutex<UplinkSnapshot>>);

impl Figures {
    pub(super) fn new(ident: Ident) -> Self {
        Self(Arc::new(Mutex::new(UplinkSnapshot {
            ident,
            state: LinkState::default(),
            fault: None,
            delivered: 0,
            waiting: 0,
            oldest_ms: None,
            held: Vec::new(),
            refused: Refusals::default(),
            lost: 0,
        })))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut UplinkSnapshot)) {
        change(&mut self.0.lock());
    }

    pub(crate) fn snapshot(&self) -> UplinkSnapshot {
        self.0.lock().clone()
    }
}
