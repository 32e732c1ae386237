//! The address of a dashboard, and the token that it wants.

use std::{env, fmt, fs::File, io::Read as _, path::Path};

use hpfeeds::BrokerAddr;

/// The variables that stand in for `--url` and the token.
const URL: &str = "HPFEEDS_TOP_URL";
const TOKEN: &str = "HPFEEDS_TOP_TOKEN";

/// The address that is asked when none is given.
const DEFAULT: &str = "http://127.0.0.1:9432";

/// Longer files hold no token, in bytes.
const LONGEST_FILE: u64 = 4096;

/// The longest token in characters.
const LONGEST_TOKEN: usize = 512;

/// Where a dashboard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    pub(super) broker: BrokerAddr,
    /// The path before that of the dashboard, without a slash at its end: of a proxy.
    pub(super) path: String,
}

/// A secret that lets its bearer look. It is not shown by anything.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The value of the header `Authorization`.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => Err("there is no token in it"),
            _ if text.len() > LONGEST_TOKEN => Err("a token is not as long as that"),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err("a token is one word of ASCII"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.broker, self.path)
    }
}

/// The address and the token of the options and the variables. The error quotes no token.
pub(super) fn find(url: Option<&str>, token_file: Option<&Path>) -> Result<(Address, Token), String> {
    let variable = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
    let of_variable = if url.is_none() { variable(URL) } else { None };
    let (text, what) = match (url, &of_variable) {
        (Some(url), _) => (url, "--url"),
        (None, Some(url)) => (url.as_str(), URL),
        (None, None) => (DEFAULT, "the default"),
    };
    let (address, token) = parse(text).map_err(|fault| format!("{what}: {fault}"))?;
    let token = match (token_file, token, variable(TOKEN)) {
        (Some(path), ..) => read(path).map_err(|fault| format!("the token file {}: {fault}", path.display()))?,
        (None, Some(token), _) => token,
        (None, None, Some(token)) => Token::parse(token.trim()).map_err(|fault| format!("{TOKEN}: {fault}"))?,
        (None, None, None) => {
            return Err(format!(
                "no token: give --token-file FILE (dashboard.tokens in the broker's data folder), or the address \
                 as the broker prints it at its start, with its #token=, by --url or {URL}"
            ));
        }
    };
    Ok((address, token))
}

/// Reads an address such as `https://broker.example:9432/#token=…`.
fn parse(text: &str) -> Result<(Address, Option<Token>), String> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        "hpfeeds" | "hpfeeds+tls" => {
            return Err("that is the address for messages: give that of the dashboard, such as http://HOST:9432".into());
        }
        _ => return Err("not an address such as http://HOST:9432 or https://HOST:9432".into()),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') || text.contains('?') {
        return Err("neither a user nor a query belongs in the address: the token stands behind #token=".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("the ] of the IPv6 address is missing")?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some("") => Some(if tls { 443 } else { 80 }),
        Some(port) => port.parse().ok().filter(|port| *port != 0),
        None => None,
    };
    let port = port.ok_or("the port is none from 1 to 65535")?;
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte)) {
        return Err("not a host such as broker.example, 192.0.2.1 or [2001:db8::1]".into());
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
        return Err("the path holds what no path does".into());
    }
    let token =
        fragment.strip_prefix("token=").map(Token::parse).transpose().map_err(|fault| format!("#token=: {fault}"))?;
    let path = path.trim_end_matches('/').to_owned();
    Ok((Address { tls, broker: BrokerAddr::new(host, port), path }, token))
}

/// Reads the token of a file that others cannot read: all that stands in it, or of the lines
/// `view TOKEN` and `tail TOKEN` the one that lets see more.
fn read(path: &Path) -> Result<Token, String> {
    let file = File::open(path).map_err(|cause| cause.to_string())?;
    // Of the file that is open, so that it cannot be another one.
    let metadata = file.metadata().map_err(|cause| cause.to_string())?;
    if metadata.is_dir() {
        return Err("it is a folder".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mode = metadata.mode() & 0o777;
        // A pipe, as a shell makes it of <(…), has no mode to speak of.
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(format!("others on this machine can read it (its mode is {mode:03o}): chmod 600 it"));
        }
    }
    let mut text = String::new();
    let read = file.take(LONGEST_FILE + 1).read_to_string(&mut text).map_err(|cause| cause.to_string())?;
    if read as u64 > LONGEST_FILE {
        return Err("it is longer than 4 KiB".to_owned());
    }
    let line = |scope: &str| text.lines().find_map(|line| line.trim().strip_prefix(scope)?.strip_prefix(' '));
    let token = line("tail").or_else(|| line("view")).unwrap_or(&text);
    Ok(Token::parse(token.trim())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn address(tls: bool, host: &str, port: u16, path: &str) -> Address {
        Address { tls, broker: BrokerAddr::new(host, port), path: path.to_owned() }
    }

    #[test]
    fn addresses_are_read_as_the_broker_prints_them() {
        let token = Some(Token("0123".to_owned()));
        for (text, expected, token) in [
            ("http://127.0.0.1:9432/#token=0123", address(false, "127.0.0.1", 9432, ""), token.clone()),
            ("HTTPS://broker.example", address(true, "broker.example", 443, ""), None),
            ("http://[2001:db8::1]", address(false, "2001:db8::1", 80, ""), None),
            ("https://[::1]:1/hpfeeds/#token=0123", address(true, "::1", 1, "/hpfeeds"), token),
            ("localhost:9432", address(false, "localhost", 9432, ""), None),
            ("http://a/#other", address(false, "a", 80, ""), None),
        ] {
            assert_eq!(parse(text), Ok((expected, token)), "{text}");
        }
        assert_eq!(address(true, "::1", 1, "/x").to_string(), "https://[::1]:1/x");
    }

    #[test]
    fn an_address_that_makes_no_sense_says_why_and_quotes_no_token() {
        for (text, expected) in [
            ("hpfeeds://a:b@c", "that is the address for messages"),
            ("ftp://a", "not an address"),
            ("http://user:0123@host", "neither a user nor a query"),
            ("http://host/?token=0123", "neither a user nor a query"),
            ("http://host:0", "the port"),
            ("http://host:x", "the port"),
            ("http://[::1]x", "the port"),
            ("http://[::1", "the ]"),
            ("http://", "not a host"),
            ("http://a b", "not a host"),
            ("http://h\u{f6}st", "not a host"),
            ("http://host/a b", "the path"),
            ("http://host/#token=", "#token=: there is no token"),
            ("http://host/#token=0123 4", "#token=: a token is one word"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.starts_with(expected) && !fault.contains("0123"), "{text}: {fault}");
        }
        assert_eq!(format!("{:?}", Token("0123".to_owned())), "Token(…)");
    }

    #[test]
    #[cfg(unix)]
    fn the_token_of_a_file_is_the_one_that_lets_see_more() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let found = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path).map(|token| token.0)
        };
        assert_eq!(found("  abc\n", 0o600).as_deref(), Ok("abc"));
        assert_eq!(found("view abc\ntail def\n", 0o400).as_deref(), Ok("def"));
        assert_eq!(found("# mine\n view abc\n", 0o600).as_deref(), Ok("abc"));
        for (text, mode, expected) in [
            ("", 0o600, "there is no token"),
            ("a b", 0o600, "a token is one word"),
            ("abc", 0o640, "others on this machine"),
            (&*"a".repeat(5000), 0o600, "it is longer"),
            (&*"a".repeat(600), 0o600, "a token is not as long"),
        ] {
            let fault = found(text, mode).unwrap_err();
            assert!(fault.starts_with(expected), "{fault}");
        }
        assert_eq!(read(folder.path()).unwrap_err(), "it is a folder");
    }
}
