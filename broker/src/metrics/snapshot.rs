//! A snapshot: all numbers of a broker at one moment, as plain values.

use std::net::SocketAddr;

use hpfeeds::wire::{Channel, Ident};

use crate::metrics::{
    books::Books, counters::Totals, endpoints::EndpointCounts, ident::IdentCounts, latency::LatencyCounts,
    levels::Levels, process::ProcessUsage, stall::StallCounts, storage::StorageCounts,
};

/// The numbers that views such as the [exposition](crate::metrics::render::render) show. At most
/// [`MAX_SERIES`](crate::metrics::table::MAX_SERIES) idents, and as many channels: about 2 MB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(super) totals: Totals,
    pub(crate) books: Books,
    pub(crate) levels: Levels,
    /// Time from AUTH to the decision about it.
    pub(super) authentication: LatencyCounts,
    pub(super) stalls: StallCounts,
    pub(super) endpoints: Vec<EndpointCounts>,
    /// Clients that have not authenticated.
    pub(super) unauthenticated: IdentCounts,
    /// In the order of the idents.
    pub(crate) idents: Vec<(Ident, IdentCounts)>,
    /// Unrouted messages in the order of the channels.
    pub(crate) unrouted: Vec<(Channel, u64)>,
    pub(super) process: ProcessUsage,
    /// Times of each ident in seconds since 1970: of its last message, if there was one, and when it was last connected,
    /// which is now while it is.
    pub(crate) seen: Vec<(Ident, Option<u32>, u32)>,
    /// The ends of the certificates in seconds since 1970.
    pub(crate) certificates: Vec<(SocketAddr, i64)>,
    /// Of the data folder, if there is one.
    pub(crate) storage: Option<StorageCounts>,
}
