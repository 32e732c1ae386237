//! The mailboxes of a connection as values: their names, and the messages that ORIGIN has announced.

use std::sync::Arc;

use crate::{
    client::queue::consumption::Run,
    wire::extension::{Position, StreamPosition},
};

/// The mailboxes that one connection has asked for.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    /// Their names, but for the ident's own.
    pub(super) names: Vec<Arc<str>>,
    /// The next PUBLISH frames are these.
    pub(super) expected: Option<Expected>,
    /// One has delivered something.
    pub(super) deliver: bool,
}

/// Announced messages that have not come yet.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) mailbox: Arc<str>,
    pub(super) next: Position,
    pub(super) source: Option<StreamPosition>,
    pub(super) messages: u32,
}

impl Expected {
    pub(super) fn run(&self, connection: u64) -> Run {
        let Self { ref mailbox, next, source, .. } = *self;
        Run { mailbox: Arc::clone(mailbox), first: next, source, connection, taken: 0 }
    }

    /// The rest, if any is left behind so many.
    pub(super) fn advance(mut self, messages: u32) -> Option<Self> {
        self.messages = self.messages.checked_sub(messages).filter(|rest| *rest > 0)?;
        self.next.number = self.next.number.saturating_add(messages.into());
        if let Some(source) = &mut self.source {
            source.number = source.number.saturating_add(messages.into());
        }
        Some(self)
    }
}
