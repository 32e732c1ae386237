//! Other protocols that are met at the port of hpfeeds, told by their first bytes.

use std::fmt;

/// A protocol that is met at a port by mistake, told by the first bytes of a peer.
///
/// For the client and the broker, which say so to people: the bytes alone make a length or an
/// opcode that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherProtocol {
    /// A handshake or an alert of TLS.
    Tls,
    /// The banner of SSH.
    Ssh,
    /// A request or an answer.
    Http,
    /// The header that a proxy sends before what a client says.
    Proxy,
    /// hpfeeds, where something else is expected: INFO of a broker, or AUTH of a client.
    Hpfeeds,
}

impl OtherProtocol {
    /// How many bytes are needed at most; fewer do if they are enough.
    pub const LEN: usize = 12;

    /// `None` when the bytes are none of these, or too few.
    #[must_use]
    pub fn of(first: &[u8]) -> Option<Self> {
        // Some servers answer what they do not understand with a page and no header.
        const HTTP: [&[u8]; 10] = [
            b"<!DOCTYPE",
            b"<html",
            b"HTTP/",
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"PUT ",
            b"OPTIONS ",
            b"CONNECT ",
            b"PRI * HTTP",
        ];
        match first {
            [0x14..=0x16, 3, ..] => Some(Self::Tls),
            [b'S', b'S', b'H', b'-', ..] => Some(Self::Ssh),
            [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, b'\r', ..] => Some(Self::Proxy),
            [0, 0, _, _, 1 | 2, ..] => Some(Self::Hpfeeds),
            _ => HTTP.iter().any(|start| first.starts_with(start)).then_some(Self::Http),
        }
    }
}

impl fmt::Display for OtherProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS",
            Self::Ssh => "SSH",
            Self::Http => "HTTP",
            Self::Proxy => "the PROXY protocol",
            Self::Hpfeeds => "hpfeeds without TLS",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let cases: [(&[u8], _); 12] = [
            (b"\x16\x03\x01\x02\0\x01", Some(OtherProtocol::Tls)),
            (b"\x15\x03\x03\0\x02\x02\x46", Some(OtherProtocol::Tls)),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", Some(OtherProtocol::Ssh)),
            (b"GET / HTTP/1.1\r\n", Some(OtherProtocol::Http)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(OtherProtocol::Http)),
            (b"<!DOCTYPE HTML>", Some(OtherProtocol::Http)),
            (b"PROXY TCP4 ", Some(OtherProtocol::Proxy)),
            (b"\r\n\r\n\0\r\nQUIT\n", Some(OtherProtocol::Proxy)),
            (b"\0\0\0\x10\x01\x07hpfeeds", Some(OtherProtocol::Hpfeeds)),
            (b"\0\0\0\x10\x03\x07hpfeeds", None),
            (b"", None),
            (b"220 mail", None),
        ];
        for (first, expected) in cases {
            assert_eq!(OtherProtocol::of(first), expected, "{}", first.escape_ascii());
        }
    }
}
