//! Arguments about endpoints: where the broker listens, and its certificates.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser as _, ValueParser},
};

use super::values::{Address, parse_address};
use crate::net::endpoint::{Endpoint, parse::EndpointError};

/// The port that hpfeeds clients try by default.
const PORT: u16 = 20000;

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct Listen {
    /// Listen on this address and port; :PORT is on every address [default: 0.0.0.0:20000 unless
    /// --endpoint is given]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    bind: Option<Address>,

    /// Listen on the default address, but on this port
    #[arg(short, long, conflicts_with_all = ["bind", "endpoint"])]
    port: Option<u16>,

    /// Listen on an endpoint (repeatable): tcp or tls, and keys with values, such as
    /// tcp:interface=0.0.0.0:port=20000:device=eth0 or tls:port=20001:key=key.pem:cert=cert.pem
    ///
    /// Keys: port (required); interface (an address; the colons of IPv6 as \:); device (one network
    /// interface, Linux); mode=publish or subscribe (the other is refused there); extensions=off; backlog=N;
    /// reuseport=yes (several brokers share the port); recvbuf=SIZE and sendbuf=SIZE (the system's
    /// buffers of each connection); keepalive=IDLE[,INTERVAL,PROBES] in seconds, or off [default:
    /// 10,5,3]; proxy=yes (connections come through proxies and begin with a header of the PROXY
    /// protocol, 1 or 2) with proxyfrom=ADDRESS[/BITS],... of the proxies.
    ///
    /// Of tls also: key and cert (PEM files) [default: key.pem, cert.pem]; chain (certificates sent
    /// after cert); clientca (clients need a certificate that one of these signed);
    /// clientauth=optional (or none at all). Certificates are read again when they change.
    #[arg(short, long, value_name = "ENDPOINT", value_parser = parse_endpoint)]
    endpoint: Vec<Endpoint>,

    /// Speak TLS on --bind (or the default address) with this certificate, a PEM file; see
    /// --endpoint for more
    #[arg(long, value_name = "FILE", requires = "tlskey", value_parser = file())]
    tlscert: Option<PathBuf>,

    /// The key of --tlscert, a PEM file
    #[arg(long, value_name = "FILE", requires = "tlscert", value_parser = file())]
    tlskey: Option<PathBuf>,
}

impl Listen {
    /// The endpoints; the default one is on the loopback interface with `dev`.
    pub(crate) fn endpoints(&self, dev: bool) -> Vec<Endpoint> {
        let mut legacy = self.bind().cloned();
        if legacy.is_none() && self.endpoint.is_empty() {
            let interface = if dev { "127.0.0.1" } else { "0.0.0.0" };
            legacy = Some(Endpoint::tcp(interface, self.port.unwrap_or(PORT)));
        }
        if let (Some(cert), Some(key)) = (given(self.tlscert.as_ref()), given(self.tlskey.as_ref())) {
            legacy = legacy.map(|endpoint| endpoint.with_tls(cert, key));
        }
        legacy.into_iter().chain(self.endpoint.iter().cloned()).collect()
    }

    /// Checks that clap cannot make: an empty value counts as none.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let tls = [given(self.tlscert.as_ref()), given(self.tlskey.as_ref())];
        match tls.map(|file| file.is_some()) {
            [true, false] => Err("--tlscert needs its key, and --tlskey is empty"),
            [false, true] => Err("--tlskey needs its certificate, and --tlscert is empty"),
            [true, true] if self.bind().is_none() && !self.endpoint.is_empty() => {
                Err("--tlscert is for --bind, which is not given: endpoints name their own (tls:port=…:cert=…:key=…)")
            }
            _ => Ok(()),
        }
    }

    fn bind(&self) -> Option<&Endpoint> {
        self.bind.as_ref().and_then(|address| address.0.as_ref())
    }
}

/// A path that may be empty, which counts as none; clap's own parser refuses that.
fn file() -> ValueParser {
    OsStringValueParser::new().map(|path: OsString| PathBuf::from(path)).into()
}

fn given(path: Option<&PathBuf>) -> Option<&PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    text.parse()
}
