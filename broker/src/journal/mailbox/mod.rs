//! The mailboxes: for each a filter over the journal, a cursor for each text that was subscribed,
//! and the rules by which the cursors move.

pub(crate) mod claims;
pub(crate) mod core;
pub(crate) mod losses;
mod probe;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod spec;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
mod texts;
pub(crate) mod window;
