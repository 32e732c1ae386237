//! hpfeeds for Rust.
#![doc(test(attr(deny(warnings))))]

pub mod client;
pub mod wire;

pub use client::*;
pub use wire::{Channel, Ident, Limits, Secret};
