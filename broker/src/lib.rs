//! An hpfeeds broker to embed in a program: a drop-in replacement for the Python broker.
//!
//! A broker for a test takes three lines. It listens on the loopback interface, at a port that the
//! system picks, and the ident `dev` with the secret `dev` may publish and subscribe everywhere:
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
//! Any other broker names its endpoints and its keys, see [`BrokerBuilder`]:
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
//! # Guarantees
//! - A subscriber that keeps up loses nothing: publishers are slowed down through TCP to the speed of
//!   the slowest subscriber that still drains the [floor rate](BrokerBuilder::floor_rate).
//! - A subscriber below the floor rate is buffered up to its [high mark](BrokerBuilder::high_mark)
//!   and then meets the [`SlowPolicy`]. It slows down publishers for at most the
//!   [floor window](BrokerBuilder::floor_window), 3 s by default.
//! - Memory is bounded, see [`BrokerBuilder::max_buffered`].
//!
//! # Features
//! A program that embeds the broker needs none of them: `default-features = false`.
//!
//! | feature | adds |
//! |---|---|
//! | `cli` | the program `hpfeeds-broker`, with the two next; by default |
//! | `dashboard` | [`BrokerBuilder::dashboard`](BrokerBuilder), with the next |
//! | `exporter` | [`BrokerBuilder::exporter`](BrokerBuilder), an HTTP server of metrics |
//! | `sqlite`, `postgres`, `mysql` | `SqlStore`, for each kind of database with a driver of its own |
//! | `sql` | these three; by default |
//! | `mongodb` | `MongoStore` |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]

mod accept;
mod auth;
mod background;
mod broker;
mod builder;
// The program uses signals of Unix.
#[cfg(all(feature = "cli", unix))]
#[doc(hidden)]
pub mod cli;
mod config;
mod context;
#[cfg(unix)]
mod control;
mod data_folder;
mod delivery;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "exporter")]
mod http;
mod identity;
mod incidents;
mod journal;
mod limits;
mod link;
mod measure;
mod metrics;
mod net;
mod presence;
#[cfg(feature = "cli")]
mod relay;
mod routing;
mod session;
mod streams;
#[cfg(feature = "dashboard")]
mod tap;
mod util;
mod view;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub use auth::admin as keys;
#[cfg(feature = "mongodb")]
pub use auth::mongo::{MongoAddress, MongoStore};
#[cfg(feature = "_sql")]
pub use auth::sql::{SqlStore, address::DatabaseAddress};
pub use auth::{
    AuthError, AuthStore, Changes, Idents, Lookup, Reload, chain::ChainStore, env::EnvStore, json::JsonStore, key::Key,
    memory::MemoryStore,
};
pub use broker::Broker;
pub use builder::BrokerBuilder;
pub use delivery::policy::SlowPolicy;
pub use error::{ReloadError, StartError};
pub use incidents::{Incident, IncidentKind};
pub use journal::{mailbox::spec::MailboxError, options::JournalFull};
pub use metrics::books::Books;
pub use metrics::drops::Dropped;
pub use metrics::rates::Rates;
pub use metrics::stats::Stats;
pub use metrics::text::Exposition;
pub use net::endpoint::{
    ClientAuth, Endpoint, Mode,
    network::{Network, NetworkError},
    parse::EndpointError,
};
pub use net::tls::certificate::TlsError;

pub use presence::record::State;
pub use view::{
    BrokerSnapshot, ChannelTotals, Consumer, List, Sensor, States,
    mailboxes::{JournalView, MailboxView},
};

#[doc(no_inline)]
pub use hpfeeds::{
    Keepalive,
    wire::{Pattern, Secret},
};
