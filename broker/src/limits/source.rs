//! The source of a connection: the address or network that limits apply to.

use std::net::{IpAddr, Ipv6Addr};

/// What one client may have: an IPv4 address, or an IPv6 network of 64 bits.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
