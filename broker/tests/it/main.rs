//! The broker against raw frames, real sessions and processes of its own: protocol, keys, limits, endpoints, exporter.
//!
//! A module for each subject; those that need a feature say so here.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../examples/fleet/crowd.rs"]
mod crowd;
mod cuts;
#[cfg(feature = "exporter")]
mod dashboard;
mod endpoints;
mod extension;
#[path = "../support/extension.rs"]
mod extension_client;
mod fleet;
mod forwarding;
#[cfg(all(feature = "cli", feature = "sql"))]
mod keys;
mod lifecycle;
mod limits;
#[cfg(feature = "dashboard")]
mod live;
#[cfg(feature = "dashboard")]
mod live_fleet;
mod manual;
#[cfg(feature = "exporter")]
mod metrics;
mod patterns;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../../src/util/property.rs"]
mod property;
mod protocol;
mod proxy;
#[cfg(feature = "cli")]
mod restart;
mod revocation;
#[cfg(feature = "exporter")]
#[path = "../support/scrape.rs"]
mod scrape;
mod shutdown;
#[path = "../../../tests/support/skip.rs"]
mod skip;
#[cfg(feature = "dashboard")]
mod snapshot;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod view;
