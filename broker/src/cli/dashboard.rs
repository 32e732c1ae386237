//! Arguments about the dashboard.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;

use super::values::{Address, parse_dashboard};
use crate::{broker::Broker, builder::BrokerBuilder};

#[derive(Debug, Args)]
#[command(next_help_heading = "Monitoring")]
pub(crate) struct Dashboard {
    /// Show at this address and port, as a page and as JSON (/api/v1/snapshot), what every sensor
    /// does; the address with a token is printed when the token is new
    ///
    /// Off the loopback interface it needs TLS:
    /// tls:interface=0.0.0.0:port=9432:key=KEY.pem:cert=CERT.pem
    #[arg(id = "dashboard", long = "dashboard", value_name = "ADDR:PORT", value_parser = parse_dashboard)]
    addr: Option<Address>,

    /// The file with the tokens, which is made where it is missing [default: dashboard.tokens in
    /// --data-dir; without that, tokens that last until the broker stops]
    ///
    /// A line "view TOKEN" for those who may look, and a line "tail TOKEN" for those who may also
    /// read what is published. Mode 0600.
    #[arg(long = "dashboard-tokens", value_name = "FILE", requires = "dashboard")]
    tokens: Option<PathBuf>,

    /// A name by which browsers may know the dashboard, besides its address and localhost
    /// (repeatable)
    #[arg(long = "dashboard-host", value_name = "NAME", requires = "dashboard")]
    names: Vec<String>,

    /// A field of JSON payloads that names the source of an attack, such as client.address,
    /// besides those of the usual honeypots (repeatable)
    #[arg(long, value_name = "FIELD", requires = "dashboard")]
    source_field: Vec<String>,
}

impl Dashboard {
    /// The address for a browser.
    pub(super) fn url(&self, addr: SocketAddr) -> String {
        let is_secure = matches!(&self.addr, Some(Address(Some(endpoint))) if endpoint.is_secure());
        let scheme = if is_secure { "https" } else { "http" };
        match self.names.first() {
            Some(name) => format!("{scheme}://{name}:{}/", addr.port()),
            None => format!("{scheme}://{addr}/"),
        }
    }

    /// Prints where it is, if it is there.
    pub(super) fn announce(&self, out: &mut dyn io::Write, broker: &Broker) -> io::Result<()> {
        let Some(url) = broker.dashboard_addr().map(|addr| self.url(addr)) else { return Ok(()) };
        match broker.new_dashboard_token() {
            // Once, and behind the mark that no browser sends to a server.
            Some(token) => writeln!(out, "dashboard at {url}#token={token}"),
            None => writeln!(out, "dashboard at {url}"),
        }
    }

    pub(crate) fn apply(&self, mut builder: BrokerBuilder) -> BrokerBuilder {
        if let Some(Address(Some(endpoint))) = &self.addr {
            builder = builder.dashboard_endpoint(endpoint.clone());
        }
        if let Some(path) = &self.tokens {
            builder = builder.dashboard_tokens(path);
        }
        for name in &self.names {
            builder = builder.dashboard_host(name);
        }
        for field in &self.source_field {
            builder = builder.dashboard_source_field(field);
        }
        builder
    }
}
