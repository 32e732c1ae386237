//! Routing: which subscribers a message on a channel has.

pub(crate) mod patterns;
pub(crate) mod router;
mod subscriber_list;
pub(crate) mod subscriptions;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
pub(crate) mod topic;
