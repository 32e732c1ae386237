//! The news of a session for the feeder of its feed: what is confirmed, what is refused, and by which
//! broker.

use crate::wire::{
    Channel,
    extension::{Code, Level, NodeId, StreamId, StreamPosition},
};

/// The news of a session for its feeder. Refused messages are told before a position that covers
/// them is released.
#[derive(Debug, Default)]
pub struct FeedNews {
    /// Messages that were refused, in the order of their numbers.
    pub refused: Vec<FeedRefused>,
    /// Everything up to these positions is decided, and nothing of it is sent again.
    pub released: Vec<StreamPosition>,
    /// The broker that has accepted the key, each time that one has.
    pub broker: Option<FeedBroker>,
    /// Channels that a broker without the extension has denied: each message that is sent to one
    /// of them ends the connection.
    pub denied: Vec<Channel>,
    /// The session is over.
    pub is_over: bool,
}

/// Consecutive messages that were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedRefused {
    /// Their stream.
    pub stream: StreamId,
    /// The number of the first.
    pub first: u64,
    /// How many they are.
    pub count: u64,
    /// The broker's reason; `None` for a message that is longer than it takes.
    pub code: Option<Code>,
}

/// A broker, as its greeting describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedBroker {
    /// The level at which it confirms; `None` for one without the extension, or that confirms
    /// nothing.
    pub level: Option<Level>,
    /// Whether it knows the extension.
    pub is_extended: bool,
    /// Its identifier.
    pub node: NodeId,
    /// The nodes from it upwards, itself first.
    pub path: Vec<NodeId>,
}

/// The news that the feeder has not heard yet.
#[derive(Debug, Default)]
pub(super) struct Fed {
    pub(super) refused: Vec<FeedRefused>,
    pub(super) broker: Option<FeedBroker>,
    pub(super) denied: Vec<Channel>,
}

impl Fed {
    pub(super) fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.broker.is_none() && self.denied.is_empty()
    }

    /// Neighbours with one reason are one.
    pub(super) fn refuse(&mut self, refused: FeedRefused) {
        match self.refused.last_mut() {
            Some(last)
                if (last.stream, last.code) == (refused.stream, refused.code)
                    && last.first + last.count == refused.first =>
            {
                last.count += refused.count;
            }
            _ => self.refused.push(refused),
        }
    }
}
