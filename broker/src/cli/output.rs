//! Output for a person at a terminal: hints, and errors on one line.

use std::{
    fmt,
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::error::{ContextKind, ContextValue};

/// The next commands for the user of a new `--dev` broker.
pub(crate) fn hints(addr: SocketAddr) -> String {
    let usual = addr.ip() == Ipv4Addr::LOCALHOST || addr.ip() == Ipv6Addr::LOCALHOST;
    let host = if usual { "localhost".to_owned() } else { addr.ip().to_string() };
    let command = format!("hpfeeds --host {host} -p {} -i dev -s dev -c test", addr.port());
    format!("subscribe with: {command} subscribe\npublish with:   {command} publish 'hello'\n")
}

/// Prints on stderr why the program ends. A stderr whose disk is full is no reason to panic.
pub(crate) fn complain(what: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "hpfeeds-broker: {what}");
}

/// The flag, subcommand or value that clap suggests for an unknown one.
pub(super) fn suggestion(error: &clap::Error) -> Option<&str> {
    let kinds = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(suggested) => Some(&**suggested),
        ContextValue::Strings(suggested) => suggested.first().map(|suggested| &**suggested),
        _ => None,
    })
}

/// clap's message with its suggestion, but without its usage. Control characters of the arguments
/// in the message are escaped.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    let mut line = without_passwords(&first.split_whitespace().collect::<Vec<_>>().join(" "));
    if let Some(suggestion) = suggestion(error) {
        line.extend([": did you mean ", suggestion, "?"]);
    }
    let escaped = |char: char| if char.is_control() { char.escape_default().to_string() } else { char.to_string() };
    line.chars().map(escaped).collect()
}

/// Takes the passwords out of addresses of databases: the text between the user and the host. A
/// slash in a password should be written as `%2F`, but is taken out all the same.
pub(super) fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str("://");
        let end = part.find([' ', '\'']).unwrap_or(part.len());
        match part[..end].rfind('@').and_then(|at| Some((part[..at].find(':')?, at))) {
            Some((colon, at)) => clean.extend([&part[..=colon], "***", &part[at..]]),
            None => clean.push_str(part),
        }
    }
    clean
}
