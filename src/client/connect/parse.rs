//! Parses the address of a broker, `HOST:PORT`.

use std::str::FromStr;

use crate::client::{connect::addr::BrokerAddr, error::Error};

impl FromStr for BrokerAddr {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        let (host, port) = given.rsplit_once(':').ok_or_else(|| Error::address(given))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| Error::address(given))?,
            // An IPv6 address without brackets: which colon ends it?
            None if host.contains(':') => return Err(Error::address(given)),
            None => host,
        };
        match port.parse() {
            // No address and no name has brackets of its own, or a part of a URL.
            Ok(port) if !host.is_empty() && !host.contains(['[', ']', '@', '/']) => Ok(Self::new(host, port)),
            _ => Err(Error::address(given)),
        }
    }
}

impl TryFrom<String> for BrokerAddr {
    type Error = Error;

    fn try_from(given: String) -> Result<Self, Error> {
        given.parse()
    }
}

impl TryFrom<&String> for BrokerAddr {
    type Error = Error;

    fn try_from(given: &String) -> Result<Self, Error> {
        given.parse()
    }
}

impl TryFrom<&str> for BrokerAddr {
    type Error = Error;

    fn try_from(given: &str) -> Result<Self, Error> {
        given.parse()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for text in ["localhost:20000", "192.0.2.1:1", "[2001:db8::1]:20000"] {
            assert_eq!(text.parse::<BrokerAddr>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:1".parse::<BrokerAddr>().unwrap().host(), "::1");
    }

    #[test]
    fn a_bad_address_says_what_is_wanted() {
        for text in ["localhost", ":20000", "localhost:port", "localhost:70000", "::1:20000", "[::1:5", "[[a]:1"] {
            let error = text.parse::<BrokerAddr>().unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("HOST:PORT"), "{text}: {error}");
        }
        for text in ["hpfeeds://me:hunter2@h:1", "hpfeeds://h:1", "me:hunter2@h:1", "hunter2@h:1", "hpfeeds+tls://h"] {
            let error = text.parse::<BrokerAddr>().unwrap_err();
            let said = error.to_string();
            assert!(error.is_usage() && said.contains("from_url") && !said.contains("hunter2"), "{said}");
        }
    }
}
