//! Attacks on the program itself, from another process: after each, it serves honest clients as if nothing had happened.
//!
//! Attackers come from addresses of their own on the loopback interface. Measurements are printed in lines that begin
//! with `figures:`; `cargo test -p hpfeeds-broker --test hostile -- --nocapture` shows them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod crowd;
mod dashboard;
mod exporter;
mod extension;
#[path = "../support/extension.rs"]
mod extension_client;
mod frames;
mod log;
mod names;
#[path = "../support/pki.rs"]
mod pki;
mod readers;
mod resets;
#[path = "../support/scrape.rs"]
mod scrape;
mod series;
mod storms;
#[path = "../support/mod.rs"]
mod support;
mod target;
mod tls;
mod waiting;
