//! Utilities that know nothing of the broker.

pub(crate) mod accept_backoff;
mod backoff;
pub(crate) mod collections;
pub(crate) mod file_watch;
pub(crate) mod poll_backoff;
#[cfg(test)]
pub(crate) mod property;
