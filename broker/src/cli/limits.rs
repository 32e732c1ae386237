//! Arguments about limits: sizes, connections, rates, timeouts.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

use clap::Args;

use super::values::{parse_connections, parse_message, parse_rate, parse_rate_in_bytes, parse_seconds};
use crate::builder::BrokerBuilder;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// The longest message, names included; clients must agree
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_message)]
    max_message: u32,

    /// Length of the random challenge in bytes, 4 to 20: a longer one keeps an eavesdropper from
    /// replaying a captured authentication; clients written for 4 bytes cannot connect then
    #[arg(long, value_name = "N", default_value_t = 4)]
    nonce_bytes: usize,

    /// The most connections at once; one more takes the place of the oldest that has not
    /// authenticated
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,

    /// The most connections of one address (of IPv6: one /64 network) [default: no limit, as a site
    /// of sensors may share one]
    #[arg(long, value_name = "N", value_parser = parse_connections)]
    max_connections_per_address: Option<NonZeroUsize>,

    /// The most connections of one ident [default: no limit, as a fleet may share a key]
    #[arg(long, value_name = "N", value_parser = parse_connections)]
    max_connections_per_ident: Option<NonZeroUsize>,

    /// The most messages per second that one ident may publish, over all its connections: more are
    /// delayed [default: no limit]
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    publish_rate: Option<NonZeroU64>,

    /// The most bytes per second that one ident may publish [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate_in_bytes)]
    publish_bytes: Option<NonZeroU64>,

    /// The most messages per second that are delivered to one ident: more are queued up to
    /// --high-mark, and no publisher waits [default: no limit]
    ///
    /// A few such subscribers can keep --max-buffered full for long, at the cost of all others:
    /// combine it with a lower --high-mark.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    deliver_rate: Option<NonZeroU64>,

    /// The most bytes per second that are delivered to one ident [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate_in_bytes)]
    deliver_bytes: Option<NonZeroU64>,

    /// The interval at which the keys of connected clients are looked up again, so that a key that
    /// is removed or changed in a database counts for them (in a JSON file, it does at once); 0:
    /// never
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    recheck_keys: Duration,

    /// The most channels and patterns that one connection may subscribe to at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_subscriptions: usize,

    /// The longest time that a client may take to authenticate
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    handshake_timeout: Duration,

    /// The longest time that a client with the extension hpx/1 may be silent before its connection
    /// ends; 0: TCP keepalive alone decides
    ///
    /// Such clients send a sign of life every third of this time. Time in which the broker does not
    /// read a client does not count.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    client_timeout: Duration,

    /// The longest time that the last bytes for a client may take, at its end and at shutdown
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    write_timeout: Duration,
}

impl Limits {
    pub(crate) fn apply(&self, builder: BrokerBuilder) -> BrokerBuilder {
        builder
            .max_connections_per_address(self.max_connections_per_address)
            .max_connections_per_ident(self.max_connections_per_ident)
            .publish_rate(self.publish_rate)
            .publish_bytes(self.publish_bytes)
            .deliver_rate(self.deliver_rate)
            .deliver_bytes(self.deliver_bytes)
            .recheck_keys(self.recheck_keys)
            .max_message(self.max_message)
            .nonce_len(self.nonce_bytes)
            .max_connections(self.max_connections)
            .max_subscriptions(self.max_subscriptions)
            .handshake_timeout(self.handshake_timeout)
            .client_timeout(self.client_timeout)
            .write_timeout(self.write_timeout)
            .drain_timeout(self.write_timeout)
    }
}
