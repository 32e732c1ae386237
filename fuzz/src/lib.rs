//! The fuzz targets, one module for each; `fuzz_targets/` only calls them with its bytes.
//!
//! An input is read from the front, byte by byte, and what it lacks is zero: so seeds can be written by a script
//! (`scripts/fuzz-seeds`), and any bytes are an input.

mod alloc;
pub mod broker_session;
pub mod client_session;
pub mod decode;
pub mod endpoint;
pub mod extension;
pub mod hello;
mod input;
#[cfg(feature = "keys")]
pub mod keys;
pub mod log_open;
mod model;
pub mod roundtrip;
#[allow(dead_code, reason = "the tests of the log use more of it")]
#[path = "../../tests/support/sim_disk.rs"]
mod sim_disk;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;
