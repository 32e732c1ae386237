//! The `hpfeeds` command-line tool: subscribe, publish, send files, diagnose and measure brokers.

mod args;
mod beginning;
mod bench;
mod channels;
mod columns;
mod completions;
mod connection;
mod delivery;
#[cfg(feature = "demo")]
mod demo;
mod dispatch;
mod doctor;
mod escape;
mod exit;
mod lines;
mod link;
mod man;
mod ndjson;
mod output;
mod pace;
mod profile;
mod publish;
mod record;
mod save;
mod sendfile;
mod sending;
mod signals;
#[cfg(unix)]
mod spool;
mod stdin;
mod subscribe;
mod terminal;
#[cfg(feature = "top")]
mod top;
mod values;
mod watch;
mod words;

fn main() -> std::process::ExitCode {
    dispatch::main()
}
