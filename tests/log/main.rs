//! The log on a simulated disk: what it promises at every crash, at every fault, and whatever
//! stands in its files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod crash;
mod damage;
mod faults;
mod reading;
#[path = "../support/sim_disk.rs"]
mod sim_disk;
mod snapshot;
mod support;
