//! The `hpfeeds` binary, as users run it, against the embedded broker and against scripted ones.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod arguments;
mod bench;
#[path = "../../../tests/support/certificates.rs"]
mod certificates;
mod confirm;
mod demo;
mod doctor;
mod formats;
mod forward;
mod interrupted;
mod keep_going;
mod lines;
mod mailbox;
mod manual;
mod ndjson;
#[path = "../../../tests/support/pages.rs"]
mod pages;
mod publish;
mod reconnect;
mod refusals;
mod secrecy;
mod selecting;
mod sendfile;
#[path = "../../../tests/support/skip.rs"]
mod skip;
mod spool;
mod spooling;
mod subscribe;
mod support;
mod terminal;
mod tls;
mod top;
mod url;
