//! The spool: messages on disk that a broker has not confirmed, behind a thread that does all of
//! its I/O.
//!
//! [`Spool`] is the setting of a program. [`SpoolHandle`] is the driver's side: none of its calls
//! waits for a disk. The engine behind it appends batches of PUBLISH frames to a
//! [log](crate::log), makes them durable in groups, reads them back oldest first, and releases what
//! is confirmed.

mod chunk;
mod engine;
mod error;
mod feed;
mod feed_news;
mod handle;
mod options;
mod owner;
mod reading;
mod runs;
mod shared;
mod status;

pub use self::{
    chunk::Chunk,
    error::SpoolError,
    feed::{Feed, Feeder, feed},
    feed_news::{FeedBroker, FeedNews, FeedRefused},
    handle::SpoolHandle,
    options::Spool,
    shared::{Answer, Batch, Want},
    status::{SpoolNews, SpoolStatus},
};
