//! The relay: a journal on this machine that takes everything, and for each ident a session upwards
//! that hands it to the parent with confirmation.

mod aside;
mod cursor;
pub(crate) mod downlink;
mod drain;
pub(crate) mod figures;
mod host;
pub(crate) mod local_keys;
pub(crate) mod metrics;
mod piece;
mod queue;
pub(crate) mod service;
mod source;
pub(crate) mod status;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
pub(crate) mod uplink;
