//! What the driver and its connections tell each other.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{Error, flight::Flight};
use crate::wire::Channel;

/// What one connection leaves to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// How many connections there were.
    pub(crate) connections: u64,
    /// Messages that are being written.
    pub(crate) flight: Flight,
    /// A broker refused a subscription without naming it: ask for one at a time.
    pub(crate) careful: bool,
    /// Subscriptions that the broker had time to refuse and did not.
    pub(crate) proven: BTreeSet<Channel>,
    /// The subscription after which the broker closed without a word, once.
    pub(crate) suspect: Option<Channel>,
    /// The broker refused a subscription or a message, and did not say which.
    pub(crate) unexplained: Option<String>,
    /// The first refused message; `close` reports it.
    pub(crate) denial: Option<Error>,
}

/// What is known of a connection when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// When the broker accepted the key.
    pub(crate) accepted: Option<Instant>,
    /// It delivered a message.
    pub(crate) delivered: bool,
    /// What made it fail is out of the way: a denied channel was taken out.
    pub(crate) repaired: bool,
    /// Messages written whole.
    pub(crate) messages: u64,
    /// A message was written, perhaps in part.
    pub(crate) published: bool,
}

impl Attempt {
    pub(crate) fn healthy(&self, long: Duration) -> bool {
        self.delivered || self.accepted.is_some_and(|accepted| accepted.elapsed() >= long)
    }
}
