//! Networks: the addresses of proxies.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network: one address, or all addresses that begin with the same bits: `10.0.0.1`,
/// `10.0.0.0/8`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The bits that are not fixed are 0.
    first: IpAddr,
    /// How many bits are fixed.
    prefix: u8,
}

/// A string that is no [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError;

impl Network {
    /// `None` when an address has not that many bits.
    fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let (ip, bits) = (ip.to_canonical(), width(ip));
        // Of an IPv4 address in IPv6 the first 96 bits are always the same.
        let prefix = prefix.checked_sub(bits - width(ip))?;
        (prefix <= width(ip)).then(|| Self { first: mask(ip, prefix), prefix })
    }

    /// Whether the network has an address. IPv4 addresses as IPv6 writes them are IPv4 addresses.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.first.is_ipv4() && mask(ip, self.prefix) == self.first
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first bits 0.
fn mask(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or_default();
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or_default();
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        Self { first, prefix: width(first) }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let Some((ip, prefix)) = text.split_once('/') else {
            return text.parse().map(|ip: IpAddr| ip.into()).map_err(|_| NetworkError);
        };
        let network = ip.parse().ok().zip(prefix.parse().ok()).and_then(|(ip, prefix)| Self::new(ip, prefix));
        network.ok_or(NetworkError)
    }
}

/// In the form that can be read back.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.prefix < width(self.first) { write!(f, "/{}", self.prefix) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn network_has_the_addresses_with_its_first_bits() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.9.9.9/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/31", "10.0.0.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
        ];
        for (network, ip, contains) in cases {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(ip.parse().unwrap()), contains, "{network} {ip}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn other_text_is_no_network() {
        for text in ["", "x", "10.0.0.1/33", "10.0.0.1/", "/8", "10.0.0.1/-1", "::1/129", "::ffff:10.0.0.0/8", "10.1/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }
}
