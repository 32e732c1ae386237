//! Utilities that know nothing of the broker.

pub(crate) mod accept_backoff;
mod backoff;
pub(crate) mod clock;
pub(crate) mod collections;
pub(crate) mod file_watch;
#[cfg(feature = "dashboard")]
pub(crate) mod glob;
pub(crate) mod poll_backoff;
#[cfg(test)]
pub(crate) mod property;
