//! The journal: everything that mailboxes want, once, on disk and in the order of its arrival; one
//! thread writes it, any number of connections read it.
//!
//! A batch gets its position when it is appended, and can be read at once from the ring in memory,
//! of which the end is the queue of the writer. The writer appends it to the log within 2 ms, and
//! makes it durable in groups: at once when somebody waits, otherwise within a second.

pub(crate) mod attachment;
pub(crate) mod batch;
#[cfg(unix)]
pub(crate) mod data_dir;
mod engine;
pub(crate) mod figures;
pub(crate) mod handle;
mod keeper;
pub(crate) mod last_values;
pub(crate) mod mailbox;
pub(crate) mod options;
pub(crate) mod pace;
pub(crate) mod post;
mod refused;
mod ring;
pub(crate) mod setup;
pub(crate) mod shares;
pub(crate) mod state;
pub(crate) mod stock;
mod stocktaking;
pub(crate) mod store;
pub(crate) mod streams;
pub(crate) mod table_log;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
mod wall_clock;
