//! The parser of endpoint strings, and their display.

use std::{fmt, ops::RangeInclusive, path::Path, str::FromStr, time::Duration};

use hpfeeds::{Keepalive, units};

use crate::net::endpoint::{ClientAuth, Endpoint, Mode, network::Network};

/// The bounds of Linux: seconds, and a number.
const KEEPALIVE_SECONDS: RangeInclusive<u32> = 1..=32767;
const KEEPALIVE_PROBES: RangeInclusive<u32> = 1..=127;

/// The interface of an endpoint that names no address.
const EVERY_ADDRESS: &str = "0.0.0.0";

/// Keys that may have no value, as an unset variable leaves them: the Python broker then takes
/// every address, and no device.
const MAY_BE_EMPTY: [&str; 2] = ["interface", "device"];

/// A string that is no [`Endpoint`]: one line that says which part is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {endpoint:?}: {fault}")]
pub struct EndpointError {
    endpoint: String,
    fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("not of the form ADDR:PORT")]
    NotAddrPort,
    #[error("unknown kind {0:?}: it is tcp or tls")]
    Kind(String),
    #[error("{0:?} is not of the form key=value (write a colon inside a value as \\:)")]
    NotKeyValue(String),
    #[error("unknown key {0:?}")]
    UnknownKey(String),
    #[error("{0} is for tls endpoints only")]
    TlsOnly(&'static str),
    #[error("{} has no value", .0.escape_debug())]
    EmptyValue(String),
    #[error("{} is given twice", .0.escape_debug())]
    Repeated(String),
    #[error("{} ends in a backslash: it would escape the colon that comes next", .0.escape_debug())]
    Backslash(String),
    #[error("port is missing")]
    NoPort,
    #[error("{key} {value:?} is not {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error("clientauth needs clientca: a file of certificates that may sign those of clients")]
    NoClientCa,
    #[error(
        "proxy=yes needs proxyfrom: the addresses of the proxies, such as proxyfrom=10.0.0.1 or proxyfrom=10.0.0.0/8,192.0.2.1"
    )]
    NoProxyFrom,
    #[error("proxyfrom needs proxy=yes")]
    NoProxy,
}

impl Endpoint {
    /// Parses `ADDR:PORT`, such as `0.0.0.0:20000`, `[::]:20000` or `localhost:0`. Without an
    /// address, as in `:20000`, it is every IPv4 address of the machine, as in the Python broker.
    pub fn bind(addr: &str) -> Result<Self, EndpointError> {
        let fault = |fault| EndpointError { endpoint: addr.to_owned(), fault };
        let (interface, port) = addr.rsplit_once(':').ok_or_else(|| fault(Fault::NotAddrPort))?;
        let interface = interface.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(interface);
        // No address and no name has a backslash, or brackets of its own.
        if interface.contains(['[', ']', '\\']) || addr.starts_with("[]") {
            return Err(fault(Fault::NotAddrPort));
        }
        let interface = if interface.is_empty() { EVERY_ADDRESS } else { interface };
        Ok(Self::tcp(interface, parse_port("port", port).map_err(fault)?))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse(text).map_err(|fault| EndpointError { endpoint: text.to_owned(), fault })
    }
}

fn parse(text: &str) -> Result<Endpoint, Fault> {
    let mut tokens = split(text).into_iter();
    let kind = tokens.next().unwrap_or_default();
    let tls = match kind.as_str() {
        "tcp" => false,
        "tls" => true,
        _ => return Err(Fault::Kind(kind)),
    };
    let mut pairs = Vec::new();
    for token in tokens {
        let (key, value) = token.split_once('=').ok_or_else(|| Fault::NotKeyValue(token.clone()))?;
        if value.is_empty() && !MAY_BE_EMPTY.contains(&key) {
            return Err(Fault::EmptyValue(key.to_owned()));
        }
        // At the very end of the string: anywhere else it has escaped a colon, and would do so when
        // written.
        if value.ends_with('\\') {
            return Err(Fault::Backslash(key.to_owned()));
        }
        if pairs.iter().any(|(other, _)| other == key) {
            return Err(Fault::Repeated(key.to_owned()));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    let mut pairs = Pairs(pairs);
    let interface = pairs.take_given("interface").unwrap_or_else(|| EVERY_ADDRESS.to_owned());
    let port = pairs.parse("port", parse_port)?;
    let mut endpoint = Endpoint::tcp(interface, port.unwrap_or_default());
    if tls {
        endpoint = pairs.tls(endpoint)?;
    }
    endpoint.device = pairs.take_given("device");
    endpoint.mode = pairs.parse("mode", parse_mode)?.unwrap_or_default();
    if let Some(offered) = pairs.parse("extensions", parse_on_off)? {
        endpoint.extensions = offered;
    }
    endpoint.backlog = pairs.parse("backlog", parse_backlog)?;
    endpoint.reuse_port = pairs.parse("reuseport", parse_yes_no)?.unwrap_or_default();
    endpoint.receive_buffer = pairs.parse("recvbuf", parse_size)?;
    endpoint.send_buffer = pairs.parse("sendbuf", parse_size)?;
    if let Some(keepalive) = pairs.parse("keepalive", parse_keepalive)? {
        endpoint.keepalive = keepalive;
    }
    endpoint.proxies = pairs.proxies()?;
    pairs.finish()?;
    if port.is_none() {
        return Err(Fault::NoPort);
    }
    Ok(endpoint)
}

/// The keys and values that have not been taken.
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn take(&mut self, key: &str) -> Option<String> {
        let index = self.0.iter().position(|(other, _)| other == key)?;
        Some(self.0.remove(index).1)
    }

    /// The same for a key that may have no value.
    fn take_given(&mut self, key: &str) -> Option<String> {
        self.take(key).filter(|value| !value.is_empty())
    }

    fn parse<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'static str, &str) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        self.take(key).map(|value| parse(key, &value)).transpose()
    }

    fn tls(&mut self, endpoint: Endpoint) -> Result<Endpoint, Fault> {
        let cert = self.take("cert").unwrap_or_else(|| "cert.pem".to_owned());
        let mut endpoint = endpoint.with_tls(cert, self.take("key").unwrap_or_else(|| "key.pem".to_owned()));
        if let Some(chain) = self.take("chain") {
            endpoint = endpoint.chain(chain);
        }
        let auth = self.parse("clientauth", parse_client_auth)?;
        Ok(match (self.take("clientca"), auth) {
            (Some(ca), auth) => endpoint.client_ca(ca, auth.unwrap_or_default()),
            (None, Some(_)) => return Err(Fault::NoClientCa),
            (None, None) => endpoint,
        })
    }

    fn proxies(&mut self) -> Result<Vec<Network>, Fault> {
        let is_proxied = self.parse("proxy", parse_yes_no)?.unwrap_or_default();
        match (is_proxied, self.parse("proxyfrom", parse_networks)?) {
            (true, Some(networks)) => Ok(networks),
            (true, None) => Err(Fault::NoProxyFrom),
            (false, Some(_)) => Err(Fault::NoProxy),
            (false, None) => Ok(Vec::new()),
        }
    }

    /// Fails if a key has not been taken.
    fn finish(self) -> Result<(), Fault> {
        let Some((key, _)) = self.0.into_iter().next() else {
            return Ok(());
        };
        let tls = ["key", "cert", "chain", "clientca", "clientauth"].into_iter().find(|tls| *tls == key);
        Err(tls.map_or(Fault::UnknownKey(key), Fault::TlsOnly))
    }
}

/// Splits at colons that are neither escaped nor inside the brackets of an IPv6 address, and
/// removes backslashes and brackets.
fn split(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut bracketed = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let token = tokens.last_mut().expect("there is always a token");
        match char {
            '\\' if chars.peek() == Some(&':') => token.extend(chars.next()),
            '[' if token == "interface=" || token.starts_with("proxyfrom=") => bracketed = true,
            ']' if bracketed => bracketed = false,
            ':' if !bracketed => tokens.push(String::new()),
            _ => token.push(char),
        }
    }
    tokens
}

fn parse_port(key: &'static str, value: &str) -> Result<u16, Fault> {
    value.parse().map_err(|_| wrong(key, value, "a number from 0 to 65535"))
}

fn parse_mode(key: &'static str, value: &str) -> Result<Mode, Fault> {
    match value {
        "both" => Ok(Mode::Both),
        "publish" => Ok(Mode::Publish),
        "subscribe" => Ok(Mode::Subscribe),
        _ => Err(wrong(key, value, "publish, subscribe or both")),
    }
}

fn parse_backlog(key: &'static str, value: &str) -> Result<u32, Fault> {
    let number = value.parse().ok().filter(|number| (1..=i32::MAX.unsigned_abs()).contains(number));
    number.ok_or_else(|| wrong(key, value, "a number from 1 to 2147483647"))
}

fn parse_yes_no(key: &'static str, value: &str) -> Result<bool, Fault> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(wrong(key, value, "yes or no")),
    }
}

fn parse_on_off(key: &'static str, value: &str) -> Result<bool, Fault> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(wrong(key, value, "on or off")),
    }
}

fn parse_networks(key: &'static str, value: &str) -> Result<Vec<Network>, Fault> {
    let networks: Result<_, _> = value.split(',').map(str::parse).collect();
    networks.map_err(|_| wrong(key, value, "a list of addresses and networks such as 10.0.0.1,10.1.0.0/16,[fd00::]/8"))
}

fn parse_client_auth(key: &'static str, value: &str) -> Result<ClientAuth, Fault> {
    match value {
        "required" => Ok(ClientAuth::Required),
        "optional" => Ok(ClientAuth::Optional),
        _ => Err(wrong(key, value, "required or optional")),
    }
}

/// A size of a buffer of the system: less than 2 GiB.
fn parse_size(key: &'static str, value: &str) -> Result<usize, Fault> {
    let size = units::size(value).ok().and_then(|size| usize::try_from(size).ok());
    let size = size.filter(|size| (1..i32::MAX as usize).contains(size));
    size.ok_or_else(|| wrong(key, value, "a size of less than 2 GiB such as 65536, 64k or 1M"))
}

fn parse_keepalive(key: &'static str, value: &str) -> Result<Option<Keepalive>, Fault> {
    if value == "off" {
        return Ok(None);
    }
    let numbers: Option<Vec<u32>> = value.split(',').map(|number| number.parse().ok()).collect();
    let seconds = |number: u32| Duration::from_secs(number.into());
    match numbers.as_deref() {
        Some([idle]) if KEEPALIVE_SECONDS.contains(idle) => {
            Ok(Some(Keepalive { idle: seconds(*idle), ..Keepalive::default() }))
        }
        Some([idle, interval, probes])
            if KEEPALIVE_SECONDS.contains(idle)
                && KEEPALIVE_SECONDS.contains(interval)
                && KEEPALIVE_PROBES.contains(probes) =>
        {
            Ok(Some(Keepalive { idle: seconds(*idle), interval: seconds(*interval), retries: *probes }))
        }
        _ => Err(wrong(key, value, "IDLE or IDLE,INTERVAL,PROBES (1 to 32767 s, the same, 1 to 127) or off")),
    }
}

fn wrong(key: &'static str, value: &str, expected: &'static str) -> Fault {
    Fault::Value { key, value: value.to_owned(), expected }
}

/// In the form that can be read back, without what is as by default.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |value: &str| value.replace(':', "\\:");
        let file = |path: &Path| escape(&path.display().to_string());
        let kind = if self.tls.is_some() { "tls" } else { "tcp" };
        write!(f, "{kind}:interface={}:port={}", escape(&self.interface), self.port)?;
        if let Some(tls) = &self.tls {
            write!(f, ":key={}:cert={}", file(&tls.key), file(&tls.cert))?;
            if let Some(chain) = &tls.chain {
                write!(f, ":chain={}", file(chain))?;
            }
            if let Some(ca) = &tls.client_ca {
                write!(f, ":clientca={}", file(ca))?;
                if tls.client_auth == ClientAuth::Optional {
                    f.write_str(":clientauth=optional")?;
                }
            }
        }
        if let Some(device) = &self.device {
            write!(f, ":device={}", escape(device))?;
        }
        match self.mode {
            Mode::Both => {}
            Mode::Publish => f.write_str(":mode=publish")?,
            Mode::Subscribe => f.write_str(":mode=subscribe")?,
        }
        if !self.extensions {
            f.write_str(":extensions=off")?;
        }
        if let Some(backlog) = self.backlog {
            write!(f, ":backlog={backlog}")?;
        }
        if self.reuse_port {
            f.write_str(":reuseport=yes")?;
        }
        for (key, size) in [("recvbuf", self.receive_buffer), ("sendbuf", self.send_buffer)] {
            if let Some(size) = size {
                write!(f, ":{key}={size}")?;
            }
        }
        match self.keepalive {
            Some(keepalive) if keepalive == Keepalive::default() => {}
            Some(Keepalive { idle, interval, retries }) => {
                write!(f, ":keepalive={},{},{retries}", idle.as_secs(), interval.as_secs())?;
            }
            None => f.write_str(":keepalive=off")?,
        }
        for (n, network) in self.proxies.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { ":proxy=yes:proxyfrom=" } else { "," }, escape(&network.to_string()))?;
        }
        Ok(())
    }
}
