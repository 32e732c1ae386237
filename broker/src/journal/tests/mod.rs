//! Tests of the journal on a simulated disk, its turns taken one by one, and with its thread on a
//! real one.

mod appending;
mod crash;
mod faults;
mod figures;
#[allow(dead_code, reason = "each crate that simulates a disk needs other parts of it")]
#[path = "../../../../tests/support/sim_disk.rs"]
pub(super) mod sim_disk;
mod stack;
pub(super) mod support;
mod table;
mod threads;
