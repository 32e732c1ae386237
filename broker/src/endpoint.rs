use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    str::FromStr,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::StartError;

/// How many connections the system queues until they are accepted. It cuts this to its own maximum.
const BACKLOG: i32 = 1024;

/// Where a broker listens, as the Python broker writes it: `tcp:interface=0.0.0.0:port=20000:device=eth0`.
///
/// The port is required. The interface is an address or a host name (default `0.0.0.0`); the colons of an IPv6
/// address are escaped (`interface=\:\:1`) or bracketed (`interface=[::1]`). The device ties the endpoint to one
/// network interface of a Linux machine. `tls:` endpoints also have the files `key`, `cert` and `chain`; they are
/// understood here but cannot be started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    interface: String,
    port: u16,
    device: Option<String>,
    tls: Option<TlsFiles>,
}

/// The files of a `tls:` endpoint, with the names that the Python broker takes by default.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TlsFiles {
    key: String,
    cert: String,
    chain: Option<String>,
}

impl Endpoint {
    /// A TCP endpoint at an address or host name; port 0 lets the system pick one.
    #[must_use]
    pub fn tcp(interface: impl Into<String>, port: u16) -> Self {
        Self { interface: interface.into(), port, device: None, tls: None }
    }

    /// Reads `ADDR:PORT`, such as `0.0.0.0:20000`, `[::]:20000` or `localhost:0`.
    pub fn bind(addr: &str) -> Result<Self, EndpointError> {
        let fault = |fault| EndpointError { endpoint: addr.to_owned(), fault };
        let (interface, port) = addr.rsplit_once(':').ok_or_else(|| fault(Fault::NotAddrPort))?;
        let interface = interface.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(interface);
        if interface.is_empty() {
            return Err(fault(Fault::NotAddrPort));
        }
        Ok(Self::tcp(interface, parse_port(port).map_err(fault)?))
    }

    /// The address or host name that it listens on, without brackets.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Opens it. Blocks while a host name is resolved.
    pub(crate) fn listen(&self) -> Result<TcpListener, StartError> {
        let (socket, addr) = self.socket()?;
        let fail = |cause| StartError::Listen { addr, cause };
        socket.bind(&addr.into()).map_err(fail)?;
        socket.listen(BACKLOG).map_err(fail)?;
        Ok(socket.into())
    }

    /// Where it would listen: everything short of listening is tried. Blocks while a host name is resolved.
    pub(crate) fn check(&self) -> Result<SocketAddr, StartError> {
        self.socket().map(|(_, addr)| addr)
    }

    /// A socket that is not bound yet, and the address for it.
    fn socket(&self) -> Result<(Socket, SocketAddr), StartError> {
        if self.tls.is_some() {
            return Err(StartError::Unsupported { endpoint: self.to_string(), what: "TLS" });
        }
        let addr = self.resolve()?;
        let fail = |cause| StartError::Listen { addr, cause };
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(fail)?;
        // A restart must not wait until the system has forgotten the old connections.
        socket.set_reuse_address(true).map_err(fail)?;
        if let Some(device) = &self.device {
            bind_device(&socket, device).map_err(|cause| StartError::Device { device: device.clone(), cause })?;
        }
        Ok((socket, addr))
    }

    /// Prefers IPv4, which is all that the Python broker knows.
    fn resolve(&self) -> Result<SocketAddr, StartError> {
        let fail = |cause| StartError::Resolve { interface: self.interface.clone(), cause };
        let addrs: Vec<_> = (self.interface.as_str(), self.port).to_socket_addrs().map_err(fail)?.collect();
        let first = addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()).copied();
        first.ok_or_else(|| fail(io::Error::other("it has no address")))
    }
}

#[cfg(target_os = "linux")]
fn bind_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn bind_device(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::other("only Linux can do that"))
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
    let mut interface = None;
    let mut port = None;
    let mut device = None;
    let (mut key, mut cert, mut chain) = (None, None, None);
    for token in tokens {
        let (name, value) = token.split_once('=').ok_or_else(|| Fault::NotKeyValue(token.clone()))?;
        let slot = match name {
            "interface" => &mut interface,
            "port" => &mut port,
            "device" => &mut device,
            "key" if tls => &mut key,
            "cert" if tls => &mut cert,
            "chain" if tls => &mut chain,
            _ => return Err(Fault::UnknownKey(name.to_owned())),
        };
        if value.is_empty() {
            return Err(Fault::EmptyValue(name.to_owned()));
        }
        if slot.replace(value.to_owned()).is_some() {
            return Err(Fault::Repeated(name.to_owned()));
        }
    }
    Ok(Endpoint {
        interface: interface.unwrap_or_else(|| "0.0.0.0".to_owned()),
        port: parse_port(&port.ok_or(Fault::NoPort)?)?,
        device,
        tls: tls.then(|| TlsFiles {
            key: key.unwrap_or_else(|| "key.pem".to_owned()),
            cert: cert.unwrap_or_else(|| "cert.pem".to_owned()),
            chain,
        }),
    })
}

/// Splits at colons that are neither escaped nor inside the brackets of an IPv6 address, and takes both away.
fn split(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut bracketed = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let token = tokens.last_mut().expect("there is always a token");
        match char {
            '\\' if chars.peek() == Some(&':') => token.extend(chars.next()),
            '[' if token == "interface=" => bracketed = true,
            ']' if bracketed => bracketed = false,
            ':' if !bracketed => tokens.push(String::new()),
            _ => token.push(char),
        }
    }
    tokens
}

fn parse_port(text: &str) -> Result<u16, Fault> {
    text.parse().map_err(|_| Fault::Port(text.to_owned()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |value: &str| value.replace(':', "\\:");
        let kind = if self.tls.is_some() { "tls" } else { "tcp" };
        write!(f, "{kind}:interface={}:port={}", escape(&self.interface), self.port)?;
        if let Some(tls) = &self.tls {
            write!(f, ":key={}:cert={}", escape(&tls.key), escape(&tls.cert))?;
            if let Some(chain) = &tls.chain {
                write!(f, ":chain={}", escape(chain))?;
            }
        }
        if let Some(device) = &self.device {
            write!(f, ":device={}", escape(device))?;
        }
        Ok(())
    }
}

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
    #[error("{0} has no value")]
    EmptyValue(String),
    #[error("{0} is given twice")]
    Repeated(String),
    #[error("port is missing")]
    NoPort,
    #[error("port {0:?} is not a number from 0 to 65535")]
    Port(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn reads_the_strings_of_the_python_broker() {
        assert_eq!("tcp:interface=10.0.0.1:port=10000".parse(), Ok(Endpoint::tcp("10.0.0.1", 10000)));
        assert_eq!("tcp:port=1".parse(), Ok(Endpoint::tcp("0.0.0.0", 1)));
        let device: Endpoint = "tcp:interface=0.0.0.0:port=1:device=eth0".parse().unwrap();
        assert_eq!(device.device.as_deref(), Some("eth0"));
        let tls: Endpoint = "tls:port=1:key=/a\\:b.pem:cert=c:chain=d".parse().unwrap();
        let files = TlsFiles { key: "/a:b.pem".to_owned(), cert: "c".to_owned(), chain: Some("d".to_owned()) };
        assert_eq!(tls.tls, Some(files));
    }

    #[test]
    fn colons_are_escaped_or_bracketed() {
        assert_eq!("tcp:interface=\\:\\:1:port=1".parse(), Ok(Endpoint::tcp("::1", 1)));
        assert_eq!("tcp:interface=[::1]:port=1".parse(), Ok(Endpoint::tcp("::1", 1)));
    }

    #[test]
    fn brackets_elsewhere_are_characters() {
        let tls: Endpoint = "tls:port=1:key=[a].pem:cert=b[1]:chain=[\\:]".parse().unwrap();
        let files = TlsFiles { key: "[a].pem".to_owned(), cert: "b[1]".to_owned(), chain: Some("[:]".to_owned()) };
        assert_eq!(tls.tls, Some(files));
        assert_eq!(tls.to_string().parse(), Ok(tls));
    }

    #[test]
    fn display_can_be_read_back() {
        for text in ["tcp:interface=\\:\\:1:port=1:device=eth0", "tls:port=1:chain=a\\:b", "tcp:port=0"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "{text}");
        }
    }

    #[test]
    fn bind_takes_addresses_and_names() {
        assert_eq!(Endpoint::bind("0.0.0.0:20000"), Ok(Endpoint::tcp("0.0.0.0", 20000)));
        assert_eq!(Endpoint::bind("[::]:1"), Ok(Endpoint::tcp("::", 1)));
        assert_eq!(Endpoint::bind("localhost:0"), Ok(Endpoint::tcp("localhost", 0)));
    }

    #[test]
    fn every_fault_names_the_part() {
        let cases = [
            ("", r#"endpoint "": unknown kind "": it is tcp or tls"#),
            ("udp:port=1", r#"endpoint "udp:port=1": unknown kind "udp": it is tcp or tls"#),
            ("tcp:interface=1.2.3.4", r#"endpoint "tcp:interface=1.2.3.4": port is missing"#),
            ("tcp:port=x", r#"endpoint "tcp:port=x": port "x" is not a number from 0 to 65535"#),
            ("tcp:port=65536", r#"endpoint "tcp:port=65536": port "65536" is not a number from 0 to 65535"#),
            ("tcp:port=", r#"endpoint "tcp:port=": port has no value"#),
            ("tcp:port=1:port=2", r#"endpoint "tcp:port=1:port=2": port is given twice"#),
            ("tcp:prot=1", r#"endpoint "tcp:prot=1": unknown key "prot""#),
            ("tcp:port=1:key=a", r#"endpoint "tcp:port=1:key=a": unknown key "key""#),
            (
                "tcp:1234",
                r#"endpoint "tcp:1234": "1234" is not of the form key=value (write a colon inside a value as \:)"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Endpoint>().unwrap_err().to_string(), expected);
        }
        let cases = [
            ("20000", r#"endpoint "20000": not of the form ADDR:PORT"#),
            (":20000", r#"endpoint ":20000": not of the form ADDR:PORT"#),
            ("a:b", r#"endpoint "a:b": port "b" is not a number from 0 to 65535"#),
        ];
        for (text, expected) in cases {
            assert_eq!(Endpoint::bind(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn tls_is_not_there_yet_and_says_so() {
        let endpoint: Endpoint = "tls:port=1".parse().unwrap();
        let error = endpoint.listen().unwrap_err().to_string();
        assert!(error.ends_with("TLS is not supported yet"), "{error}");
    }
}
