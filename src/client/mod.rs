//! The client: a session that stays connected, receives as a `Stream` and publishes through a bounded queue.

mod backoff;
mod connect;
mod connection;
mod denial;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod diag;
mod driver;
mod engine;
mod error;
mod event;
mod flight;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod hostile;
mod inbox;
mod link;
mod lock;
mod memory;
mod merged;
mod options;
mod outbox;
mod parting;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod polled;
mod publisher;
#[doc(hidden)]
pub mod refusal;
mod session;
mod shared;
#[cfg(feature = "tls")]
mod tls;
mod watch;

pub use backoff::Backoff;
pub use connect::{BrokerAddr, Connector, Keepalive, TcpConnector, Transport, TransportStatus};
pub use error::Error;
pub use event::{Events, SessionEvent, SessionState};
pub use merged::{Merged, merge};
pub use options::SessionBuilder;
pub use publisher::{PublishSink, Publisher, TryPublishError};
pub use session::{ClientSession, Message};
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
