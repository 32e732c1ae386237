//! A snapshot: all numbers of a broker at one moment, as plain values.

use hpfeeds::wire::{Channel, Ident};

use crate::metrics::{
    counters::Totals, endpoints::EndpointCounts, ident::IdentCounts, latency::LatencyCounts, levels::Levels,
    process::ProcessUsage, stall::StallCounts,
};

/// The numbers that views such as the [exposition](crate::metrics::render::render) show. At most
/// [`MAX_SERIES`](crate::metrics::table::MAX_SERIES) idents, and as many channels: about 2 MB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(super) totals: Totals,
    pub(super) levels: Levels,
    /// Time from AUTH to the decision about it.
    pub(super) authentication: LatencyCounts,
    pub(super) stalls: StallCounts,
    pub(super) endpoints: Vec<EndpointCounts>,
    /// Clients that have not authenticated.
    pub(super) unauthenticated: IdentCounts,
    /// In the order of the idents.
    pub(super) idents: Vec<(Ident, IdentCounts)>,
    /// Unrouted messages in the order of the channels.
    pub(super) unrouted: Vec<(Channel, u64)>,
    pub(super) process: ProcessUsage,
}
