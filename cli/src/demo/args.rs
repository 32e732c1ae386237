//! The arguments of the demo.

use std::{net::SocketAddr, num::NonZeroU64};

use clap::Args;

use crate::values::{count, rate};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Address of the broker; port 0 lets the system pick one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(super) bind: SocketAddr,

    /// Address of the dashboard.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(super) dashboard: SocketAddr,

    /// Events in a second, of all four sensors together.
    #[arg(long, value_name = "N", default_value_t = 4.0, value_parser = rate)]
    pub(super) rate: f64,

    /// End after N events.
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub(super) count: Option<NonZeroU64>,
}
