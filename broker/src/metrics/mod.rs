//! Metrics: one book of numbers, and its views.
//!
//! [`Metrics`](registry::Metrics) owns all counters. A message costs no look-up: a session holds a
//! [`SessionMetrics`](session::SessionMetrics) whose counters have a single writer, so that they
//! cost a plain addition, and a [`ChannelSeries`](channels::ChannelSeries) for each channel that it
//! publishes to. The sums are made when a [`Snapshot`](snapshot::Snapshot) is taken, a plain value.
//! [`Stats`](stats::Stats) and the [exposition](render::render) are views of it.
//!
//! Labels hold the idents of clients that have authenticated, and channels that their keys allow: a
//! stranger cannot make the tables grow. A key can make them grow to
//! [`MAX_SERIES`](table::MAX_SERIES) at most.

pub(crate) mod books;
pub(crate) mod category;
pub(crate) mod channels;
pub(crate) mod connection;
mod counter;
pub(crate) mod counters;
pub(crate) mod drops;
pub(crate) mod endpoints;
pub(crate) mod failures;
pub(crate) mod ident;
pub(crate) mod latency;
pub(crate) mod levels;
mod process;
pub(crate) mod rates;
pub(crate) mod registry;
pub(crate) mod render;
mod row;
mod rows;
pub(crate) mod session;
pub(crate) mod sizes;
pub(crate) mod snapshot;
pub(crate) mod stall;
pub(crate) mod stats;
pub(crate) mod storage;
mod storage_rows;
mod table;
pub(crate) mod text;
