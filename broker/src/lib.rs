//! An hpfeeds broker to embed in a program: a drop-in replacement for the Python broker.
//!
//! A broker for a test takes three lines; it listens on the loopback interface, at a port that the system picks, and
//! lets the ident `dev` with the secret `dev` publish and subscribe everywhere:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hpfeeds_broker::Broker;
//!
//! let broker = Broker::dev().await?;
//! println!("listening on {}", broker.local_addr());
//! broker.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! A real one names its endpoints and its keys, see [`BrokerBuilder`]:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hpfeeds_broker::{Broker, Key};
//!
//! let broker = Broker::builder()
//!     .listen("127.0.0.1:0")?
//!     .user(Key::new("sensor", "s3cret")?.publish(["cowrie.sessions"])?)
//!     .user(Key::new("collector", "t0psecret")?.subscribe(["cowrie.*"])?)
//!     .start()
//!     .await?;
//! # broker.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! A subscriber that keeps up loses nothing: publishers are slowed down through TCP to the speed of the slowest
//! subscriber that still drains a floor rate. A subscriber below that floor is buffered up to its high mark and then
//! meets the [`SlowPolicy`]; it never slows anybody else down for longer than the few seconds that it takes to notice.
//! Memory is bounded, see [`BrokerBuilder::max_buffered`].
#![doc(test(attr(deny(warnings))))]

mod accounts;
mod admission;
mod auth;
mod broker;
mod buffer;
mod builder;
mod config;
mod connection;
mod endpoint;
mod error;
// With `--cfg fuzzing` only, which nobody but cargo-fuzz gives.
#[cfg(all(fuzzing, feature = "cli"))]
#[allow(dead_code, reason = "what the binary does with it is not fuzzed")]
mod cli;
#[cfg(all(fuzzing, feature = "cli"))]
extern crate self as hpfeeds_broker;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod group;
mod handshake;
#[cfg(feature = "exporter")]
mod http;
mod inbound;
#[cfg(feature = "keys")]
pub mod keys;
mod listener;
mod metrics;
mod outbox;
mod patterns;
mod pipe;
mod probation;
#[cfg(test)]
mod properties;
mod proxy;
mod rate;
mod recheck;
mod reports;
mod retry;
mod router;
mod routes;
mod scan;
mod shortage;
mod socket;
mod stats;
mod subscriptions;
mod throttle;
mod tls;
mod writer;

pub use auth::{AuthError, AuthStore, ChainStore, Changes, EnvStore, JsonStore, Key, Lookup, MemoryStore, Reload};
#[cfg(feature = "sql")]
pub use auth::{DatabaseAddress, SqlStore};
#[cfg(feature = "mongodb")]
pub use auth::{MongoAddress, MongoStore};
pub use broker::Broker;
pub use builder::BrokerBuilder;
pub use config::SlowPolicy;
pub use endpoint::{ClientAuth, Endpoint, EndpointError, Keepalive, Mode, Network, NetworkError};
pub use error::{ReloadError, StartError};
pub use metrics::Exposition;
pub use stats::{Dropped, Stats};
pub use tls::TlsError;

#[doc(no_inline)]
pub use hpfeeds::wire::{Pattern, Secret};
