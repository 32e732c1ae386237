//! The environment variables that name a broker and a key, for builder and tool.
//!
//! Not part of the library's interface; it may change at any time.

use std::{env, ffi::OsString, net::Ipv6Addr};

pub use super::connect::url::PORT as DEFAULT_PORT;
use super::{
    connect::{addr::BrokerAddr, url::BrokerUrl},
    error::Error,
};
use crate::wire::{Channel, Secret};

/// Broker, key and channels in one. Where it is set, [`HOST`] and [`PORT`] are not read.
pub const URL: &str = "HPFEEDS_URL";
/// The broker's name or address.
pub const HOST: &str = "HPFEEDS_HOST";
/// The broker's port.
pub const PORT: &str = "HPFEEDS_PORT";
/// The key's name.
pub const IDENT: &str = "HPFEEDS_IDENT";
/// The key's secret.
pub const SECRET: &str = "HPFEEDS_SECRET";

/// The settings that the environment holds.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) addr: BrokerAddr,
    pub(crate) is_tls: bool,
    pub(crate) ident: String,
    pub(crate) secret: Secret,
    pub(crate) channels: Vec<Channel>,
}

/// Reads the host's name or address; an IPv6 address may stand in brackets. The fault comes behind the
/// name of the variable, and quotes nothing: a URL holds a secret.
pub fn host(text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('@') {
        return Err(IS_URL.to_owned());
    }
    let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if host.is_empty() {
        return Err("it is empty".to_owned());
    }
    if host.contains(':') && host.parse::<Ipv6Addr>().is_err() && !host.contains('%') {
        return Err("give a name or an address alone, and the port with --port or HPFEEDS_PORT".to_owned());
    }
    Ok(host.to_owned())
}

/// Reads the port. The fault comes behind the name of the variable.
///
/// Kubernetes sets `HPFEEDS_PORT=tcp://ADDR:PORT` in each pod beside a service named hpfeeds. It is
/// no setting of the user, but a default taken instead could be the wrong broker.
pub fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        if text.contains('@') {
            IS_URL.to_owned()
        } else if text.contains("://") {
            format!(
                "{text:?} is a link that Kubernetes sets for a service named hpfeeds, and no port: give --port, or set \
                 the variable or enableServiceLinks: false in the pod"
            )
        } else {
            format!("{text:?} is not a port from 1 to 65535")
        }
    })
}

impl Settings {
    pub(crate) fn read() -> Result<Self, Error> {
        Self::of(|name| env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        // Without the value, which may be the secret.
        let value = |name| text(variable(name)).map_err(|fault| Error::variable(name, &fault));
        let url = match value(URL)? {
            Some(url) => Some(url.parse::<BrokerUrl>().map_err(|fault| Error::variable(URL, &fault))?),
            None => None,
        };
        let (addr, is_tls, channels) = match &url {
            Some(url) => (url.addr().clone(), url.is_tls(), url.channels().to_vec()),
            None => (address(value(HOST)?.as_deref(), value(PORT)?.as_deref())?, false, Vec::new()),
        };
        let ident = match url.as_ref().and_then(BrokerUrl::ident) {
            Some(ident) => ident.to_string(),
            None => value(IDENT)?.ok_or_else(|| Error::variable(IDENT, &MISSING))?,
        };
        let secret = match url.as_ref().and_then(BrokerUrl::secret) {
            Some(secret) => secret,
            None => Secret::from(value(SECRET)?.ok_or_else(|| Error::variable(SECRET, &MISSING))?),
        };
        Ok(Self { addr, is_tls, ident, secret, channels })
    }
}

fn address(host: Option<&str>, given: Option<&str>) -> Result<BrokerAddr, Error> {
    let host = host.map_or_else(|| Ok("localhost".to_owned()), self::host);
    let host = host.map_err(|fault| Error::variable(HOST, &fault))?;
    let port = given.map_or(Ok(DEFAULT_PORT), port);
    let port = port.map_err(|fault| Error::variable(PORT, &fault))?;
    Ok(BrokerAddr::new(host, port))
}

const IS_URL: &str = "it is a URL, or a part of one: give it with --url, or in HPFEEDS_URL";
const MISSING: &str = "it is not set, and nothing says so in HPFEEDS_URL either";

/// Reads a variable; an empty one, as compose files leave it, counts as not set. The fault comes behind
/// the name of the variable.
pub fn read(name: &str) -> Result<Option<String>, &'static str> {
    text(env::var_os(name))
}

fn text(value: Option<OsString>) -> Result<Option<String>, &'static str> {
    value.filter(|value| !value.is_empty()).map(OsString::into_string).transpose().map_err(|_| "it is not UTF-8")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::wire::Nonce;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    fn signs_as(settings: &Settings, secret: &str) -> bool {
        let nonce = Nonce::new([7; 4]);
        settings.secret.sign(&nonce) == Secret::from(secret).sign(&nonce)
    }

    #[test]
    fn four_variables_name_a_broker_and_a_key() {
        let set = settings(&[(IDENT, "me"), (SECRET, "hunter2"), (HOST, ""), (PORT, "")]).unwrap();
        assert_eq!((set.addr.to_string().as_str(), set.ident.as_str()), ("localhost:20000", "me"));
        assert!(signs_as(&set, "hunter2") && !set.is_tls && set.channels.is_empty());
        let set = settings(&[(IDENT, "me"), (SECRET, "x"), (HOST, "[::1]"), (PORT, "5")]).unwrap();
        assert_eq!(set.addr, BrokerAddr::new("::1", 5));
    }

    #[test]
    fn a_url_comes_first_and_the_key_may_stand_beside_it() {
        let beside = [(HOST, "other"), (PORT, "nonsense"), (IDENT, "you"), (SECRET, "hunter3")];
        let with = |url| settings(&[&[(URL, url)], &beside[..]].concat()).unwrap();
        let set = with("hpfeeds+tls://me:hunter2@h/a,b");
        assert_eq!((set.addr, set.is_tls, &*set.ident), (BrokerAddr::new("h", 20000), true, "me"));
        assert_eq!(set.channels, ["a", "b"]);
        let set = with("hpfeeds://me@h:7");
        assert!(signs_as(&set, "hunter3") && set.ident == "me");
        assert_eq!(with("hpfeeds://h").ident, "you");
        assert_eq!(
            settings(&beside).unwrap_err().to_string(),
            "the variable HPFEEDS_PORT: \"nonsense\" is not a port from 1 to 65535"
        );
    }

    #[test]
    fn a_fault_names_its_variable_and_not_the_secret() {
        for (variables, name) in [
            (&[(SECRET, "hunter2")][..], IDENT),
            (&[(IDENT, "me"), (SECRET, "")], SECRET),
            (&[(URL, "hpfeeds://me:hunter2/@h")], URL),
            (&[(HOST, "hpfeeds://me:hunter2@h")], HOST),
            (&[(HOST, "me:hunter2@h")], HOST),
            (&[(HOST, "h:20000")], HOST),
            (&[(PORT, "hpfeeds://me:hunter2@h")], PORT),
            (&[(PORT, "tcp://10.0.0.1:20000")], PORT),
        ] {
            let error = settings(variables).unwrap_err();
            let text = error.to_string();
            assert!(error.is_usage() && text.contains(name) && !text.contains("hunter2"), "{text}");
        }
        let error = settings(&[(PORT, "tcp://10.0.0.1:20000")]).unwrap_err();
        assert!(error.to_string().contains("enableServiceLinks"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_no_text_is_not_shown() {
        use std::os::unix::ffi::OsStringExt as _;
        let value = OsString::from_vec(b"hunter2\xff".to_vec());
        let error = Settings::of(|name| (name == URL).then(|| value.clone())).unwrap_err();
        assert_eq!(error.to_string(), "the variable HPFEEDS_URL: it is not UTF-8");
    }
}
