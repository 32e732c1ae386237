//! The command line of the program `hpfeeds-broker`: one group of arguments a file.

pub(crate) mod arguments;
mod backlog;
mod backpressure;
mod backup;
mod config_file;
mod control;
mod dashboard;
mod drain;
mod exporter;
mod health;
mod honeypots;
mod journal;
mod keys;
mod limits;
mod listen;
mod logging;
mod mailbox;
pub(crate) mod output;
mod process;
mod relay;
mod relay_args;
mod serve;
mod shell;
mod storage;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
mod values;

pub use self::serve::main;
