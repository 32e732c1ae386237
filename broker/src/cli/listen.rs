//! Where the broker listens.

use clap::Args;
use hpfeeds_broker::{Endpoint, EndpointError};

use super::values::unsupported;

/// The port that hpfeeds clients try by default.
const PORT: u16 = 20000;

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct Listen {
    /// Listen on this address and port [default: 0.0.0.0:20000 unless --endpoint is given]
    #[arg(long, value_name = "ADDR:PORT", value_parser = Endpoint::bind)]
    bind: Option<Endpoint>,

    /// Listen on the default address, but on this port
    #[arg(short, long, conflicts_with_all = ["bind", "endpoint"])]
    port: Option<u16>,

    /// Listen on an endpoint such as tcp:interface=0.0.0.0:port=20000:device=eth0 (repeatable)
    #[arg(short, long, value_name = "ENDPOINT", value_parser = parse_endpoint)]
    endpoint: Vec<Endpoint>,

    #[arg(long, hide = true, value_parser = unsupported)]
    tlscert: Option<String>,

    #[arg(long, hide = true, value_parser = unsupported)]
    tlskey: Option<String>,
}

impl Listen {
    /// Where to listen; `dev` when nothing says so for everybody.
    pub(crate) fn endpoints(&self, dev: bool) -> Vec<Endpoint> {
        let mut endpoints: Vec<_> = self.bind.iter().chain(&self.endpoint).cloned().collect();
        if endpoints.is_empty() {
            let interface = if dev { "127.0.0.1" } else { "0.0.0.0" };
            endpoints.push(Endpoint::tcp(interface, self.port.unwrap_or(PORT)));
        }
        endpoints
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    text.parse()
}
