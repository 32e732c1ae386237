//! The engine of the spool on simulated and real disks: what it promises at every crash, what a
//! disk that fails, fills up or stands still costs, and what is read back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod crash;
mod faults;
#[cfg(unix)]
mod killed;
mod owner;
#[cfg(unix)]
mod real;
mod replay;
mod session;
#[path = "../support/sim_disk.rs"]
mod sim_disk;
#[path = "../support/skip.rs"]
mod skip;
mod support;
