//! The parser of the PROXY protocol's header, versions 1 and 2: bytes in, an address out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is taken, in bytes. One of version 1 has at most 107; to one of version
/// 2 the proxy adds fields, such as names.
pub(crate) const MAX: usize = 4096;

const MAX_1: usize = 107;
const START_1: &[u8] = b"PROXY ";
const START_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of a header of version 2 up to its length, inclusive.
const FIXED_2: usize = 16;

/// The source of a proxied connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A client at this address.
    Client(SocketAddr),
    /// The proxy itself, such as its health check, or a client that has no IP address.
    Proxy,
}

/// The fault of a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("no header of the PROXY protocol: does the proxy send one (haproxy: send-proxy or send-proxy-v2)?")]
    None,
    #[error("the header of the PROXY protocol has no end within 107 bytes")]
    Endless,
    #[error("the header of the PROXY protocol has {0} bytes: the limit is {MAX}")]
    TooLong(usize),
    #[error("the header of the PROXY protocol is of an unknown version or command")]
    Unknown,
    #[error("the header of the PROXY protocol has no valid addresses and ports")]
    Addresses,
}

/// The header at the start of what a proxy sends, and its length; `None` while it is not complete,
/// and then there is nothing else in the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Source, usize)>, Fault> {
    if bytes.starts_with(START_1) {
        parse_1(bytes)
    } else if bytes.starts_with(START_2) {
        parse_2(bytes)
    } else if START_1.starts_with(bytes) || START_2.starts_with(bytes) {
        Ok(None)
    } else {
        Err(Fault::None)
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 20000\r\n`
fn parse_1(bytes: &[u8]) -> Result<Option<(Source, usize)>, Fault> {
    let head = bytes.get(..MAX_1).unwrap_or(bytes);
    let Some(end) = head.windows(2).position(|two| two == b"\r\n") else {
        return if head.len() < MAX_1 { Ok(None) } else { Err(Fault::Endless) };
    };
    let line = str::from_utf8(&head[START_1.len()..end]).map_err(|_| Fault::Addresses)?;
    let fields: Vec<_> = line.split(' ').collect();
    let source = match fields[..] {
        // The rest of the line says nothing.
        ["UNKNOWN", ..] => Source::Proxy,
        [family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let ip = |text: &str| -> Option<IpAddr> {
                if family == "TCP4" {
                    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
                } else {
                    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
                }
            };
            let port = |text: &str| text.parse().ok().filter(|_: &u16| text.bytes().all(|byte| byte.is_ascii_digit()));
            let (Some(from), Some(_), Some(port), Some(_)) = (ip(from), ip(to), port(from_port), port(to_port)) else {
                return Err(Fault::Addresses);
            };
            Source::Client(SocketAddr::new(from, port))
        }
        _ => return Err(Fault::Addresses),
    };
    Ok(Some((source, end + 2)))
}

fn parse_2(bytes: &[u8]) -> Result<Option<(Source, usize)>, Fault> {
    let Some(&[command, family, a, b]) = bytes.get(START_2.len()..FIXED_2) else {
        return Ok(None);
    };
    let total = FIXED_2 + usize::from(u16::from_be_bytes([a, b]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Fault::Unknown),
    };
    if total > MAX {
        return Err(Fault::TooLong(total));
    }
    let Some(body) = bytes.get(FIXED_2..total) else {
        return Ok(None);
    };
    let source = match family {
        _ if is_local => Source::Proxy,
        // TCP over IPv4 and IPv6: both addresses, then both ports. The fields behind them are not
        // used.
        0x11 => client::<4>(body)?,
        0x21 => client::<16>(body)?,
        _ => Source::Proxy,
    };
    Ok(Some((source, total)))
}

fn client<const N: usize>(body: &[u8]) -> Result<Source, Fault>
where
    IpAddr: From<[u8; N]>,
{
    let ip: Option<&[u8; N]> = body.first_chunk();
    let port = body.get(2 * N..2 * N + 4).and_then(|ports| ports.first_chunk());
    let (Some(ip), Some(port)) = (ip, port) else {
        return Err(Fault::Addresses);
    };
    Ok(Source::Client(SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::{arbitrary::any, collection::vec, prop_assert, prop_oneof, proptest, strategy::Just};

    use super::*;

    fn client(text: &str) -> Source {
        Source::Client(text.parse().unwrap())
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [START_2, &[command, family], &len, body].concat()
    }

    /// Headers and their sources.
    fn good() -> Vec<(Vec<u8>, Source)> {
        let v4 = b"\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x4e\x20";
        let v6 =
            b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x4e\x20";
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), MAX_1);
        vec![
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 20000\r\n".to_vec(), client("192.0.2.1:56324")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 20000\r\n".to_vec(), client("[2001:db8::1]:56324")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Source::Proxy),
            (longest.into(), Source::Proxy),
            (version_2(0x21, 0x11, v4), client("192.0.2.1:56324")),
            (version_2(0x21, 0x21, v6), client("[2001:db8::1]:56324")),
            // A field that a proxy adds, here its unique id.
            (version_2(0x21, 0x11, &[&v4[..], b"\x05\0\x02ab"].concat()), client("192.0.2.1:56324")),
            (version_2(0x21, 0x11, &[&v4[..], &[0; MAX - 28]].concat()), client("192.0.2.1:56324")),
            (version_2(0x20, 0x00, b""), Source::Proxy),
            (version_2(0x20, 0x11, v4), Source::Proxy),
            (version_2(0x21, 0x00, b""), Source::Proxy),
            // A Unix socket.
            (version_2(0x21, 0x31, &[0; 216]), Source::Proxy),
        ]
    }

    #[test]
    fn headers_of_both_versions_are_read_however_they_are_split() {
        for (header, source) in good() {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Ok(None), "{len} bytes of {}", header.escape_ascii());
            }
            assert_eq!(parse(&header), Ok(Some((source, header.len()))));
            let more = [&header[..], b"PROXY \r\n\r\n\0"].concat();
            assert_eq!(parse(&more), Ok(Some((source, header.len()))));
        }
    }

    #[test]
    fn other_bytes_are_refused_as_soon_as_they_are_no_header() {
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; MAX_1 - 11]].concat();
        let mut long = version_2(0x21, 0x11, b"");
        long[14..].copy_from_slice(&4081u16.to_be_bytes());
        let cases: [(&[u8], _); 20] = [
            (b"\x16", Fault::None),
            (b"\0\0\0\x20\x02", Fault::None),
            (b"PROXYTCP4", Fault::None),
            (b"\r\n\r\n\0\r\nQUIT\r", Fault::None),
            (&endless, Fault::Endless),
            (b"PROXY \r\n", Fault::Addresses),
            (b"PROXY TCP4\r\n", Fault::Addresses),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", Fault::Addresses),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 20000 1\r\n", Fault::Addresses),
            (b"PROXY TCP4  192.0.2.1 192.0.2.2 56324 20000\r\n", Fault::Addresses),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 +5632 20000\r\n", Fault::Addresses),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 20000\r\n", Fault::Addresses),
            (b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 20000\r\n", Fault::Addresses),
            (b"PROXY TCP6 192.0.2.1 192.0.2.2 56324 20000\r\n", Fault::Addresses),
            (b"PROXY UDP4 192.0.2.1 192.0.2.2 56324 20000\r\n", Fault::Addresses),
            (b"PROXY TCP4 192.0.2.\xff 192.0.2.2 56324 20000\r\n", Fault::Addresses),
            (&long, Fault::TooLong(4097)),
            (&version_2(0x11, 0x11, &[0; 12]), Fault::Unknown),
            (&version_2(0x22, 0x11, &[0; 12]), Fault::Unknown),
            (&version_2(0x21, 0x11, &[0; 11]), Fault::Addresses),
        ];
        for (bytes, fault) in cases {
            assert_eq!(parse(bytes), Err(fault), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn header_is_never_longer_than_the_bytes(
            start in prop_oneof![Just(START_1.to_vec()), Just(START_2.to_vec()), Just(b"PROXY TCP4 1.1.1.1 1.1.1.1 1 ".to_vec())],
            more in vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, more].concat();
            match parse(&bytes) {
                Ok(Some((_, len))) => prop_assert!(len <= bytes.len() && len <= MAX),
                Ok(None) => prop_assert!(bytes.len() < MAX),
                Err(_) => {}
            }
        }
    }
}
