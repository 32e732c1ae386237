//! What one client may ask for.

use std::time::Duration;

use clap::Args;
use hpfeeds_broker::BrokerBuilder;

use super::values::{parse_message, parse_seconds};

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// The longest message, names included; clients must agree
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_message)]
    max_message: u32,

    /// How many connections are held at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,

    /// How many channels one connection may subscribe to at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_subscriptions: usize,

    /// How long a client may take to authenticate
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    handshake_timeout: Duration,

    /// How long the last bytes for a client may take, at its end and at shutdown
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    write_timeout: Duration,
}

impl Limits {
    pub(crate) fn apply(&self, builder: BrokerBuilder) -> BrokerBuilder {
        builder
            .max_message(self.max_message)
            .max_connections(self.max_connections)
            .max_subscriptions(self.max_subscriptions)
            .handshake_timeout(self.handshake_timeout)
            .write_timeout(self.write_timeout)
            .drain_timeout(self.write_timeout)
    }
}
