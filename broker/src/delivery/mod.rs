//! Delivery: the bounded queue of each subscriber, and the policy for slow consumers.
//!
//! [`outbox`] is the queue behind its lock. Two parts of its work stand above it: [`room`] decides
//! at a mark, and [`clear`] ends an outbox. The types that these share are below it, in [`state`].

pub(crate) mod batch;
mod clear;
pub(crate) mod context;
mod leftover;
pub(crate) mod outbox;
pub(crate) mod policy;
pub(crate) mod queue;
mod reserve;
mod room;
mod slow_consumer;
mod slow_history;
mod state;
mod tally;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
pub(crate) mod withheld;
