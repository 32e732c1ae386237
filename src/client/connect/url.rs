//! The URL of a broker: its parser, which is the one of library and tool.

use std::{fmt, str::FromStr};

use crate::{
    client::{connect::addr::BrokerAddr, error::Error},
    wire::{Channel, Ident, Secret},
};

/// The port that hpfeeds clients try by default, with TLS and without.
pub const PORT: u16 = 20000;

const PLAIN: &str = "hpfeeds";
const TLS: &str = "hpfeeds+tls";

/// A broker, a key and channels in one line:
/// `hpfeeds://IDENT:SECRET@HOST:PORT/CHANNEL,CHANNEL`, or `hpfeeds+tls://…` for TLS.
///
/// All but scheme and host may be left out; the port is 20000 then. In the ident, the secret and the
/// channels, `%` and two hexadecimal digits stand for a byte: `/` is written `%2F`, `@` `%40`, `:` in
/// the ident `%3A`, `,` in a channel `%2C`, `?` `%3F`, `#` `%23` and `%` itself `%25`. The host is a
/// name, an IPv4 address or an IPv6 address in brackets.
///
/// Neither `Debug` nor `Display` nor any error shows the secret; errors quote nothing of the URL, as
/// a secret that was not encoded could stand anywhere in it.
///
/// ```
/// # fn main() -> Result<(), hpfeeds::Error> {
/// use hpfeeds::BrokerUrl;
///
/// let url: BrokerUrl = "hpfeeds+tls://sensor-17:s3cr%2Ft@broker.example:20001/cowrie.sessions".parse()?;
/// assert_eq!(url.addr().to_string(), "broker.example:20001");
/// assert_eq!(url.channels()[0], "cowrie.sessions");
/// assert_eq!(url.to_string(), "hpfeeds+tls://sensor-17@broker.example:20001/cowrie.sessions");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct BrokerUrl {
    addr: BrokerAddr,
    is_tls: bool,
    ident: Option<Ident>,
    secret: Vec<u8>,
    channels: Vec<Channel>,
}

impl BrokerUrl {
    /// The host and the port.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.addr
    }

    /// Whether the broker is reached over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The ident, if it names one.
    #[must_use]
    pub fn ident(&self) -> Option<&Ident> {
        self.ident.as_ref()
    }

    /// The secret, if there is one in it.
    #[must_use]
    pub fn secret(&self) -> Option<Secret> {
        if self.secret.is_empty() { None } else { Some(Secret::new(&self.secret)) }
    }

    /// The secret as text, if it is some, for what looks at its form.
    #[doc(hidden)]
    #[must_use]
    pub fn secret_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.secret).ok().filter(|text| !text.is_empty())
    }

    /// The channels, in their order.
    #[must_use]
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        parse(url).map_err(Error::url)
    }
}

/// The fault is a predicate of "the URL".
fn parse(url: &str) -> Result<BrokerUrl, String> {
    if url.contains(|char: char| char.is_whitespace() || char.is_control()) {
        return Err("has a space, a line break or a control character in it: write it %20, %0A and so on".into());
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Err("has no scheme".into()) };
    let is_tls = scheme.eq_ignore_ascii_case(TLS);
    if !is_tls && !scheme.eq_ignore_ascii_case(PLAIN) {
        return Err("has another scheme than hpfeeds:// and hpfeeds+tls://".into());
    }
    if rest.contains(['?', '#']) {
        return Err("has a ? or # in it: write it %3F or %23".into());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // Behind a `/` in the secret: what comes before it would be taken for a host.
    if path.contains('@') {
        return Err("has an @ behind the first single /: write / in a secret %2F, and @ in a channel %40".into());
    }
    let (key, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (ident, secret) = key.split_once(':').unwrap_or((key, ""));
    Ok(BrokerUrl {
        addr: address(place)?,
        is_tls,
        ident: if ident.is_empty() { None } else { Some(name(ident, "ident", |ident| Ident::new(ident))?) },
        secret: decode(secret, "the secret")?,
        channels: match path {
            "" => Vec::new(),
            path => path
                .split(',')
                .map(|part| name(part, "channel", |name| Channel::new(name)))
                .collect::<Result<_, _>>()?,
        },
    })
}

fn address(place: &str) -> Result<BrokerAddr, String> {
    let brackets = || String::from("has a host with brackets or colons in it: only an IPv6 address has, as [::1]");
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(brackets)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(brackets)?) })
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let is_address = place.starts_with('[');
    if host.contains(['[', ']']) || host.contains(':') != is_address {
        return Err(brackets());
    }
    let host = String::from_utf8(decode(host, "the host")?).map_err(|_| "has a host that is no UTF-8")?;
    if host.is_empty() {
        return Err("has no host".into());
    }
    let port =
        match port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(
                "has a port that is no number from 1 to 65535: write / in a secret %2F, and : in an ident %3A",
            )?,
        };
    Ok(BrokerAddr::new(host, port))
}

fn name<T, E: fmt::Display>(part: &str, what: &str, make: impl FnOnce(&str) -> Result<T, E>) -> Result<T, String> {
    let name =
        String::from_utf8(decode(part, what)?).map_err(|_| format!("has a name that is no UTF-8: the {what}"))?;
    make(&name).map_err(|fault| format!("has a name that cannot be: the {what} {fault}"))
}

fn decode(part: &str, what: &str) -> Result<Vec<u8>, String> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.extend(u8::try_from(high << 4 | low)),
            _ => return Err(format!("has a % without two hexadecimal digits behind it in {what}: write % itself %25")),
        }
    }
    Ok(decoded)
}

/// Without the secret.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_tls { TLS } else { PLAIN })?;
        f.write_str("://")?;
        if let Some(ident) = &self.ident {
            write!(f, "{}@", Encoded(ident))?;
        }
        let host = Encoded(self.addr.host());
        if self.addr.host().contains(':') {
            write!(f, "[{host}]:{}", self.addr.port())?;
        } else {
            write!(f, "{host}:{}", self.addr.port())?;
        }
        for (at, channel) in self.channels.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { '/' } else { ',' }, Encoded(channel))?;
        }
        Ok(())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// A part of a URL: what has a meaning there, and what no terminal shows, is encoded.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The colons of an IPv6 address stand in brackets.
        let is_address = self.0.parse::<std::net::Ipv6Addr>().is_ok();
        for byte in self.0.bytes() {
            match byte {
                b':' if is_address => f.write_str(":")?,
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'-' | b'_' | b'~' | b'*' => {
                    write!(f, "{}", char::from(byte))?;
                }
                byte => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<&str> for BrokerUrl {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        url.parse()
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = Error;

    fn try_from(url: String) -> Result<Self, Error> {
        url.parse()
    }
}

impl TryFrom<&String> for BrokerUrl {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        url.parse()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Nonce;

    fn signs_as(url: &BrokerUrl, secret: &[u8]) -> bool {
        let nonce = Nonce::new([7; 4]);
        url.secret().unwrap().sign(&nonce) == Secret::new(secret).sign(&nonce)
    }

    #[test]
    fn every_part_of_a_url_is_found() {
        let url: BrokerUrl = "HPFEEDS+tls://me%3a:s%2F:@@h.example:1/a%2Cb,c.*,%C3%A9".parse().unwrap();
        assert_eq!((url.is_tls(), url.addr()), (true, &BrokerAddr::new("h.example", 1)));
        assert_eq!(url.ident().unwrap(), "me:");
        assert!(signs_as(&url, b"s/:@"));
        assert_eq!(url.channels(), ["a,b", "c.*", "é"]);
        assert_eq!(url.to_string(), "hpfeeds+tls://me%3A@h.example:1/a%2Cb,c.*,%C3%A9");
        let url: BrokerUrl = "hpfeeds://me:%00%ff@[2001:db8::1]".parse().unwrap();
        assert!(signs_as(&url, &[0, 0xff]) && !url.is_tls());
        assert_eq!(format!("{url:?}"), "BrokerUrl(hpfeeds://me@[2001:db8::1]:20000)");
        let url: BrokerUrl = "hpfeeds://[fe80::1%25eth0]:5".parse().unwrap();
        assert_eq!((url.addr().host(), url.addr().port()), ("fe80::1%eth0", 5));
    }

    #[test]
    fn what_is_left_out_is_none() {
        for url in ["hpfeeds://h", "hpfeeds://h/", "hpfeeds://h:20000", "hpfeeds://@h", "hpfeeds://:@h"] {
            let url: BrokerUrl = url.parse().unwrap();
            assert!(url.ident().is_none() && url.secret().is_none() && url.channels().is_empty());
            assert_eq!(url.addr(), &BrokerAddr::new("h", 20000));
        }
        let url: BrokerUrl = "hpfeeds://me:@h".parse().unwrap();
        assert!(url.ident().is_some() && url.secret().is_none());
    }

    #[test]
    fn a_fault_is_named_and_nothing_is_quoted() {
        for (url, fault) in [
            ("me:hunter2@h:1", "has no scheme"),
            ("http://me:hunter2@h", "another scheme"),
            ("hpfeeds://me:hunter2@", "no host"),
            ("hpfeeds://me:hunter2@:1", "no host"),
            ("hpfeeds://me:hunter2@h:0", "no number from 1 to 65535"),
            ("hpfeeds://me:hunter2@h:65536", "no number from 1 to 65535"),
            ("hpfeeds://me:hunter2@h:", "no number from 1 to 65535"),
            ("hpfeeds://me:hunter2@::1:1", "only an IPv6 address"),
            ("hpfeeds://me:hunter2@[::1", "only an IPv6 address"),
            ("hpfeeds://me:hunter2@[::1]1", "only an IPv6 address"),
            ("hpfeeds://me:hunter2@[h]:1", "only an IPv6 address"),
            ("hpfeeds://me:hunter2@h/a,,b", "the channel is empty"),
            ("hpfeeds://me:hunter2@h/a,", "the channel is empty"),
            ("hpfeeds://me:hunter2%@h", "%25"),
            ("hpfeeds://me:hunter2%4@h", "%25"),
            ("hpfeeds://me:hunter2%+1@h", "%25"),
            ("hpfeeds://%ff:hunter2@h", "no UTF-8"),
            // Secrets that were not encoded.
            ("hpfeeds://me:hun/ter2@h:1/a", "%2F"),
            ("hpfeeds://me:1/hunter2@h:1/a", "%2F"),
            ("hpfeeds://me:hun/ter2", "%2F"),
            ("hpfeeds://me:hunter2?@h", "%3F"),
            ("hpfeeds://me:hunter2#@h", "%23"),
            ("hpfeeds://me:hunter2\n@h", "%0A"),
            ("hpfeeds://me:hunter2@h\n", "line break"),
        ] {
            let error = url.parse::<BrokerUrl>().unwrap_err();
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(error.is_usage() && shown.contains(fault), "{url}: {shown}");
            for secret in ["hun", "ter2"] {
                assert!(!shown.contains(secret) && !debug.contains(secret), "{url}: {shown}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_an_error(text in "(hpfeeds://)?[a@:/%\\[\\]?#,. \\PC]{0,30}") {
            if let Ok(url) = text.parse::<BrokerUrl>() {
                prop_assert_eq!(url.to_string().parse::<BrokerUrl>().unwrap().to_string(), url.to_string());
            }
        }

        #[test]
        fn a_secret_of_any_bytes_comes_through(secret in proptest::collection::vec(any::<u8>(), 1..40)) {
            let encoded = secret.iter().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
            let url: BrokerUrl = format!("hpfeeds://me:{encoded}@h").parse().unwrap();
            prop_assert!(signs_as(&url, &secret));
        }
    }
}
