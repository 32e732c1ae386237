//! hpfeeds for Rust.
#![doc(test(attr(deny(warnings))))]

pub mod wire;
