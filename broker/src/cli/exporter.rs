//! Arguments about the HTTP exporter of metrics.

use clap::Args;

use super::values::{Address, parse_address};
use crate::builder::BrokerBuilder;

#[derive(Debug, Args)]
#[command(next_help_heading = "Monitoring")]
pub(crate) struct Exporter {
    /// Answer HTTP at this address and port: /metrics for Prometheus, /healthz, and /readyz (503
    /// while the broker shuts down). Metrics name idents and channels: use a private address
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    exporter: Option<Address>,
}

impl Exporter {
    pub(super) fn is_there(&self) -> bool {
        matches!(&self.exporter, Some(Address(Some(_))))
    }

    pub(crate) fn apply(&self, builder: BrokerBuilder) -> BrokerBuilder {
        match &self.exporter {
            Some(Address(Some(endpoint))) => builder.exporter_endpoint(endpoint.clone()),
            _ => builder,
        }
    }
}
