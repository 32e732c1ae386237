//! The address of a broker.

use std::{fmt, net::SocketAddr};

/// Where a broker listens: a host name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BrokerAddr {
    host: String,
    port: u16,
}

impl BrokerAddr {
    /// The host may be a name, an IPv4 address or an IPv6 address (without brackets).
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The host name or IP address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for BrokerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<H: Into<String>> From<(H, u16)> for BrokerAddr {
    fn from((host, port): (H, u16)) -> Self {
        Self::new(host, port)
    }
}

impl From<SocketAddr> for BrokerAddr {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Self::new(format!("{}%{}", v6.ip(), v6.scope_id()), v6.port()),
            _ => Self::new(addr.ip().to_string(), addr.port()),
        }
    }
}
