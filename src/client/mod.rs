//! The client: a session that stays connected, receives as a `Stream` and publishes through a
//! bounded queue.

mod access;
#[cfg(feature = "blocking")]
pub mod blocking;
mod channel_stream;
mod config;
mod connect;
mod connection;
mod consume;
mod dispatch;
mod driver;
#[doc(hidden)]
pub mod environment;
mod error;
mod event;
mod handle;
#[cfg(feature = "json")]
mod json;
mod mailbox;
mod mailbox_fault;
mod merge;
mod options;
mod publisher;
mod queue;
mod receipt;
mod session;
#[cfg(feature = "spool")]
#[doc(hidden)]
pub mod spool;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
mod wait;
mod when_full;

pub use channel_stream::ChannelStream;
#[cfg(feature = "tls")]
pub use connect::tls::TlsOptions;
#[cfg(feature = "tls")]
#[doc(hidden)]
pub use connect::tls::probe as tls_probe;
pub use connect::{
    addr::BrokerAddr,
    connector::{Connector, Transport, TransportStatus},
    tcp::{Keepalive, TcpConnector},
    url::BrokerUrl,
};
#[doc(hidden)]
pub use connection::error_text;
pub use dispatch::Dispatcher;
pub use driver::backoff::Backoff;
pub use error::Error;
pub use event::{Events, SessionEvent, SessionState};
pub use handle::SessionHandle;
#[cfg(feature = "json")]
pub use json::JsonPayload;
pub use mailbox::{Origin, SubscribeFrom};
pub use merge::{Merged, merge};
pub use options::SessionBuilder;
pub use publisher::{PublishSink, Publisher, TryPublishError};
pub use receipt::{Confirm, Flushed, Receipt, SessionStats};
pub use session::{ClientSession, Message};
#[cfg(feature = "spool")]
pub use spool::{Spool, SpoolError, SpoolStatus};
pub use when_full::WhenFull;
