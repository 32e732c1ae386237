//! The library against golden frames, against scripted brokers in virtual time, and against the real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod batch;
#[cfg(feature = "blocking")]
mod blocking;
#[cfg(feature = "tls")]
#[path = "../support/certificates.rs"]
mod certificates;
mod channels;
mod dispatching;
mod ending;
mod extended;
mod extension;
mod handles;
mod imports;
mod properties;
mod real;
mod real_confirmed;
mod runtimes;
mod script;
mod scripted;
#[cfg(feature = "tls")]
mod tls;
mod vectors;
