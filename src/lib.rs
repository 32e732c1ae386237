//! hpfeeds for Rust: the publish/subscribe protocol of honeypots, as a client that stays connected.
//!
//! ```no_run
//! # #[tokio::main]
//! # async fn main() -> Result<(), hpfeeds::Error> {
//! use futures::StreamExt as _;
//! use hpfeeds::ClientSession;
//!
//! let mut session = ClientSession::connect(("localhost", 20000), "ident", "secret").await?;
//! session.subscribe("cowrie.sessions")?;
//! while let Some((ident, channel, payload)) = session.next().await {
//!     println!("{ident} on {channel}: {}", payload.escape_ascii());
//! }
//! # Ok(()) }
//! ```
//!
//! - [`ClientSession`] is a [`Stream`](futures::Stream) of `(ident, channel, payload)`. It
//!   reconnects by itself, subscribes again and sends what was queued meanwhile. Merge several with
//!   the combinators that you know (`select_all`, `StreamMap`, `forward`), or for less with
//!   [`merge`].
//! - [`Publisher`] is its cloneable sending half, and [`PublishSink`] a `Sink` for one channel.
//! - [`SessionHandle`] subscribes and closes while another task reads, [`ChannelStream`] has the
//!   messages of one subscription, and [`Dispatcher`] hands messages to functions.
//! - [`SessionEvent`] and [`SessionState`] tell an operator why nothing arrives.
//! - [`wire`] is the protocol itself, without any I/O, and a codec for `tokio_util`.
//!
//! # What is promised
//!
//! **With a broker that offers the extension `hpx/1`**, as hpfeeds-broker does, a message that
//! [`publish`](ClientSession::publish) accepted is kept until the broker has acknowledged it, and is
//! sent again, in order, when a connection breaks before that. The broker knows what it has had:
//! nothing arrives twice unless it has forgotten the session's stream, as after its own restart
//! without a journal. [`publish_confirmed`](ClientSession::publish_confirmed) waits for one message,
//! [`flush`](ClientSession::flush) for all of them. Messages that wait in the program's memory end
//! with the program.
//!
//! **With every other broker** hpfeeds has no acknowledgements. A message is written once, in order,
//! on the current connection or the next one; what the broker had not read when a connection broke
//! is lost ([`SessionEvent::Disconnected`] says how many messages that can be).
//!
//! [`close`](ClientSession::close) confirms with both that the broker has read everything: TCP is in
//! order, so its EOF says so.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), hpfeeds::Error> {
//! # let broker = hpfeeds_broker::Broker::dev().await.expect("a broker");
//! use hpfeeds::ClientSession;
//!
//! let session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
//! for line in ["one", "two", "three"] {
//!     session.publish("cowrie.sessions", line).await?;
//! }
//! let flushed = session.flush().await?;
//! assert_eq!(flushed.confirmed + flushed.refused, 3);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! None is on by default. The last column is how many crates of others are compiled for it, on Linux.
//!
//! | feature | adds | crates |
//! |---|---|---|
//! | none | session, publisher, protocol | 47 |
//! | `tls` | TLS with rustls, see [`SessionBuilder::tls`](SessionBuilder); needs a C compiler | 61 |
//! | `spool` | messages that no broker has confirmed outlive connection and program, in a folder, see [`SessionBuilder::spool`](SessionBuilder) | 48 |
//! | `json` | values are published as JSON, and payloads read as such, see [`publish_json`](ClientSession) | 53 |
//! | `blocking` | a session for programs without asynchronous code, `hpfeeds::blocking` | 47 |
//! | `serde` | [`Ident`] and [`Channel`] implement `Serialize` and `Deserialize` | 50 |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc(test(attr(deny(warnings))))]

mod client;
#[cfg(feature = "spool")]
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod visible;
pub mod wire;
#[doc(hidden)]
pub mod x509;

pub use client::*;
/// The TLS library, in the version whose types [`TlsOptions::config`] takes.
#[cfg(feature = "tls")]
pub use rustls;
pub use wire::{Channel, Ident, Limits, Secret};

/// The code blocks of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
