//! A position in a log: epoch and number of a message.

use std::fmt;

/// The place of a message in a log. Ordered by epoch, then by number.
///
/// Every opening of a log that appends begins a new epoch, so a position never comes back with
/// other contents, also when messages that were read before they were durable have vanished in a
/// power cut. Numbers count messages and grow over all epochs: the difference of two is how many
/// messages lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The number of the message, from 1.
    pub number: u64,
}

impl Position {
    /// Before every message.
    pub const START: Self = Self { epoch: 0, number: 0 };

    /// The position of a message.
    #[must_use]
    pub const fn new(epoch: u64, number: u64) -> Self {
        Self { epoch, number }
    }
}

/// `EPOCH.NUMBER`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}
