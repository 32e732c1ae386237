//! The snapshot of a mailbox: its counts and state as an operator sees them.

use std::net::IpAddr;

use hpfeeds::wire::{Channel, extension::Position};

use super::{super::stock::Waiting, losses::Losses, spec::MailboxName};

/// So many connections in a row without any progress are a collector that is stuck.
const STUCK: u32 = 3;

/// The counts of a mailbox, since it was declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) losses: Losses,
    /// Lost messages of which the collector was told.
    pub(crate) told: u64,
    /// Messages that its key did not allow.
    pub(crate) denied: u64,
    /// Messages that were dropped while they were on their way: sent once, and never again.
    pub(crate) unrepeatable: u64,
    /// Unreadable messages are counted up to here.
    pub(crate) damaged: Position,
}

/// A mailbox as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MailboxSnapshot {
    pub(crate) name: MailboxName,
    /// The connection that owns it, and how many claim it.
    pub(crate) owner: Option<u64>,
    pub(crate) claims: usize,
    /// Whether the owner says what it has processed.
    pub(crate) acknowledges: bool,
    /// The owner's address.
    pub(crate) address: Option<IpAddr>,
    /// Texts and their cursors.
    pub(crate) texts: Vec<(Channel, Position)>,
    /// Nothing up to here is wanted any more.
    pub(crate) lowest: Position,
    /// Messages that are wanted and not delivered.
    pub(crate) waiting: Waiting,
    /// Messages that were handed out and are not delivered.
    pub(crate) on_its_way: u64,
    pub(crate) counts: Counts,
    /// The message on which its collector crashes, and how often it has.
    pub(crate) stuck: Option<(Position, u32)>,
    /// Connections in a row without any progress.
    pub(crate) failures: u32,
    pub(crate) is_expired: bool,
    /// When a connection was attached last, in milliseconds since 1970.
    pub(crate) seen_ms: i64,
}

impl MailboxSnapshot {
    /// Whether its collector crashes on a message, or ends its connections without progress.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some() || self.failures >= STUCK
    }
}
