//! The broker with a data folder: what it stores, confirms and delivers, over real sockets.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod books;
mod collectors;
mod delivery;
#[path = "../support/extension.rs"]
mod extension_client;
mod faults;
mod folder;
mod metrics;
mod publishing;
#[path = "../support/mod.rs"]
mod support;
