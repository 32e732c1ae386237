//! Delivery: the bounded queue of each subscriber, and the policy for slow consumers.

pub(crate) mod batch;
pub(crate) mod context;
mod leftover;
pub(crate) mod outbox;
pub(crate) mod policy;
pub(crate) mod queue;
mod reserve;
mod slow_consumer;
mod slow_history;
mod tally;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
