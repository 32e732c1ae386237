//! The policy for messages that find no room.

/// The policy for messages that find no room: in the queue of a session
/// ([`on_full`](crate::SessionBuilder::on_full)), in its spool, and in the queue of a
/// [channel's stream](crate::ChannelStream).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// `publish` waits, and `try_publish` gives the payload back; a session is not read on. The
    /// default.
    #[default]
    Wait,
    /// The oldest messages go, counted. A message that was sent and is not confirmed yet stays: the
    /// oldest after it go.
    DropOldest,
    /// `publish` fails at once; of received messages, the newest go, counted.
    Refuse,
}
