//! Endpoints: where a broker listens, in the strings of the Python broker.

pub(crate) mod network;
pub(crate) mod open;
pub(crate) mod parse;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

use std::path::PathBuf;

use hpfeeds::Keepalive;

use crate::net::endpoint::network::Network;

/// An endpoint that a broker listens on, as the Python broker writes it:
/// `tcp:interface=0.0.0.0:port=20000:device=eth0` or
/// `tls:port=20001:key=key.pem:cert=cert.pem:chain=chain.pem`.
///
/// The port is required; every other key has a default:
///
/// | key | value |
/// |---|---|
/// | `interface` | an address or a host name; default (also when it is empty) `0.0.0.0`. The colons of IPv6 are escaped or bracketed: `\:\:1`, `[::1]` |
/// | `port` | 0 lets the system pick one |
/// | `device` | only this network interface of a Linux machine; empty: any |
/// | `mode` | `publish`, `subscribe` or `both`, see [`Mode`]; default `both` |
/// | `extensions` | `on` (default) or `off`: clients are not offered the extension `hpx/1` there |
/// | `backlog` | how many connections the system queues until they are accepted; default 1024, and it has a maximum of its own |
/// | `reuseport` | `yes` or `no` (default): several brokers on one machine may share the port |
/// | `recvbuf`, `sendbuf` | the system's buffers of each connection, such as `65536`, `64k` or `1M`; default: the system's choice. Linux doubles it |
/// | `keepalive` | `IDLE`, `IDLE,INTERVAL,PROBES` (seconds, seconds, a number) or `off`; default `10,5,3` as in the Python broker |
/// | `proxy` | `yes` or `no` (default): each connection begins with a header of the PROXY protocol (1 or 2), which says whose it is; needs `proxyfrom` |
/// | `proxyfrom` | only with `proxy=yes`: the proxies, addresses or networks such as `10.0.0.1,10.1.0.0/16,[fd00::]/8`; other connections are closed |
/// | `key`, `cert` | only `tls`: PEM files; default `key.pem` and `cert.pem` |
/// | `chain` | only `tls`: certificates that are sent after those in `cert` |
/// | `clientca` | only `tls`: clients must have a certificate that one of these has signed |
/// | `clientauth` | only `tls` with `clientca`: `required` (default) or `optional` |
///
/// A file whose name holds a colon is written with `\:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    interface: String,
    port: u16,
    device: Option<String>,
    mode: Mode,
    extensions: bool,
    backlog: Option<u32>,
    reuse_port: bool,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    keepalive: Option<Keepalive>,
    /// Empty without the PROXY protocol.
    proxies: Vec<Network>,
    tls: Option<Box<TlsFiles>>,
}

/// The mode of an endpoint: what clients may do there. The broker refuses the rest as if their key
/// did not allow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Publish and subscribe, as far as their key allows.
    #[default]
    Both,
    /// Only publish: for sensors.
    Publish,
    /// Only subscribe: for collectors.
    Subscribe,
}

/// Client authentication by certificate, before that by secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client without a certificate is refused.
    #[default]
    Required,
    /// A client may have none; one that is presented must be right.
    Optional,
}

/// The files of a `tls:` endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) key: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) chain: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) client_auth: ClientAuth,
}

impl Endpoint {
    /// A TCP endpoint at an address or host name; port 0 lets the system pick one.
    #[must_use]
    pub fn tcp(interface: impl Into<String>, port: u16) -> Self {
        Self {
            interface: interface.into(),
            port,
            device: None,
            mode: Mode::Both,
            extensions: true,
            backlog: None,
            reuse_port: false,
            receive_buffer: None,
            send_buffer: None,
            keepalive: Some(Keepalive::default()),
            proxies: Vec::new(),
            tls: None,
        }
    }

    /// A TLS endpoint (1.2 and 1.3) at an address or host name, with a certificate (which its chain
    /// may follow in the file) and its key: PKCS#8, PKCS#1 or SEC1. Both are PEM files.
    ///
    /// The files are read when the broker starts, again within two seconds after they have changed,
    /// and at [`Broker::reload`](crate::broker::Broker::reload).
    #[must_use]
    pub fn tls(interface: impl Into<String>, port: u16, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::tcp(interface, port).with_tls(cert, key)
    }

    /// The same endpoint with TLS, as `--tlscert` and `--tlskey` make of `--bind`. See
    /// [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (key, cert) = (key.into(), cert.into());
        self.tls =
            Some(Box::new(TlsFiles { key, cert, chain: None, client_ca: None, client_auth: ClientAuth::Required }));
        self
    }

    /// Sends the certificates in this PEM file after the endpoint's own. Without TLS it does
    /// nothing.
    #[must_use]
    pub fn chain(mut self, path: impl Into<PathBuf>) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.chain = Some(path.into());
        }
        self
    }

    /// Lets in only clients with a certificate that one of those in this PEM file has signed; with
    /// [`ClientAuth::Optional`] also those without any. Without TLS it does nothing.
    #[must_use]
    pub fn client_ca(mut self, path: impl Into<PathBuf>, auth: ClientAuth) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.client_ca = Some(path.into());
            tls.client_auth = auth;
        }
        self
    }

    /// The mode: what clients may do here. Default: [`Mode::Both`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Listens on one network interface of a Linux machine only, such as `eth0`.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Whether clients are offered the extension `hpx/1` here, if the
    /// [broker](crate::builder::BrokerBuilder::extensions) offers it. Default: yes.
    #[must_use]
    pub fn extensions(mut self, offered: bool) -> Self {
        self.extensions = offered;
        self
    }

    /// The most connections that the system queues until they are accepted. Default: 1024. The
    /// system has a maximum of its own.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections);
        self
    }

    /// Whether several brokers of one user may listen on the same port; the system spreads
    /// connections over them. Default: no. Only on Unix.
    #[must_use]
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// The system's receive buffer of each connection, in bytes. Default: the system's choice,
    /// which adapts.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// The system's send buffer of each connection, in bytes. Default: the system's choice, which
    /// adapts.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// TCP keepalive of each connection; `None` turns it off. Default: 10 s, 5 s, 3 probes, as in the
    /// Python broker.
    #[must_use]
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.keepalive = keepalive.into();
        self
    }

    /// Takes connections from proxies only: from this one, or those of this network; further calls
    /// add others. Each connection begins with a header of the PROXY protocol, version 1 or 2,
    /// before TLS if there is any, and limits, delays and the log see the client that it names. A
    /// connection whose header names none is the proxy's own.
    #[must_use]
    pub fn proxy(mut self, from: impl Into<Network>) -> Self {
        self.proxies.push(from.into());
        self
    }

    /// The address or host name that the broker listens on, without brackets.
    #[cfg(any(feature = "cli", feature = "dashboard"))]
    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    /// The port; 0 lets the system pick one.
    #[cfg(feature = "dashboard")]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it speaks TLS.
    #[cfg(feature = "dashboard")]
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}
