//! The configuration of a honeypot for a key, as `keys add --for` prints it: ready to paste.

use std::fmt::Write as _;

use clap::ValueEnum;
use hpfeeds::wire::Pattern;

/// Stands for the broker's name where none is given.
const PLACEHOLDER: &str = "NAME-OF-THE-BROKER";

/// A program that publishes to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Honeypot {
    Cowrie,
    Dionaea,
    Heralding,
    Conpot,
    Opencanary,
    /// T-Pot, which publishes with its ewsposter
    Tpot,
    /// A program of one's own with the Python package hpfeeds
    Python,
}

/// The broker and the key, as the honeypot is to use them.
#[derive(Clone, Copy)]
pub(super) struct Account<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) port: u16,
    pub(super) ident: &'a str,
    pub(super) secret: &'a str,
    pub(super) publish: &'a [String],
    pub(super) subscribe: &'a [String],
}

/// A configuration, and what to do with it.
pub(super) struct Configuration {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

impl Honeypot {
    /// The channels that it publishes to, unless it is told otherwise.
    fn channels(self) -> &'static [&'static str] {
        match self {
            Self::Cowrie => &["cowrie.sessions"],
            Self::Dionaea => &[
                "dionaea.connections",
                "dionaea.capture",
                "dionaea.dcerpcrequests",
                "dionaea.shellcodeprofiles",
                "mwbinary.dionaea.sensorunique",
            ],
            Self::Heralding => &["heralding.auth", "heralding.session"],
            Self::Conpot => &["conpot.events"],
            Self::Opencanary => &["opencanary.events"],
            Self::Tpot => &["t-pot.events"],
            Self::Python => &[],
        }
    }

    /// The channels of a key that is made for it.
    pub(super) fn grants(self) -> Vec<String> {
        let grants = match self {
            Self::Dionaea => &["dionaea.*", "mwbinary.dionaea.sensorunique"],
            _ => self.channels(),
        };
        grants.iter().map(ToString::to_string).collect()
    }

    /// Whether it publishes to one channel that its configuration names. Others have several, for
    /// different messages, or fixed ones.
    fn has_one_channel(self) -> bool {
        !matches!(self, Self::Dionaea | Self::Heralding)
    }

    /// The channels for its configuration: its own, where the key may publish to them.
    fn chosen(self, publish: &[String]) -> Result<Vec<String>, String> {
        let patterns: Vec<_> = publish.iter().filter_map(|entry| Pattern::new(entry).ok()).collect();
        let may = |channel: &&&str| patterns.iter().any(|pattern| pattern.matches(channel));
        let missing: Vec<_> = self.channels().iter().filter(|channel| !may(channel)).copied().collect();
        if missing.is_empty() && !self.channels().is_empty() {
            return Ok(self.channels().iter().map(ToString::to_string).collect());
        }
        if !self.has_one_channel() {
            let (name, missing) = (self.name(), missing.join(" and "));
            return Err(format!("{name} publishes to {missing} as well: add --publish, or leave --publish out"));
        }
        // A pattern is no channel to publish to.
        let is_name = |entry: &&String| *entry != "*" && !entry.ends_with(".*");
        match publish.iter().find(is_name) {
            Some(channel) => Ok(vec![channel.clone()]),
            None => Err(format!("{} needs a channel to publish to: give it with --publish", self.name())),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The lines of its configuration. An error says what cannot stand in it.
    pub(super) fn configuration(self, account: &Account<'_>) -> Result<Configuration, String> {
        let subscribes = self == Self::Python && account.publish.is_empty();
        let channels = match account.subscribe.first().filter(|_| subscribes) {
            Some(channel) => vec![channel.clone()],
            None if subscribes => return Err("python needs a channel: give --publish or --subscribe".to_owned()),
            None => self.chosen(account.publish)?,
        };
        let host = account.host.unwrap_or(PLACEHOLDER);
        if let Self::Cowrie | Self::Conpot | Self::Tpot = self {
            self.check_plain("host", host)?;
            self.check_plain("ident", account.ident)?;
            self.check_plain("secret", account.secret)?;
            channels.iter().try_for_each(|channel| self.check_plain("channel", channel))?;
        }
        let lines = Lines { host, account, channels: &channels };
        let (text, place) = match self {
            Self::Cowrie => (lines.cowrie(), "into etc/cowrie.cfg; cowrie's Python needs the package hpfeeds"),
            Self::Dionaea => {
                (lines.dionaea(), "into /opt/dionaea/etc/dionaea/ihandlers-enabled/hpfeeds.yaml, as the whole file")
            }
            Self::Heralding => (lines.heralding(), "into heralding.yml, in place of its activity_logging.hpfeeds"),
            Self::Conpot => (lines.conpot(), "into conpot.cfg, in place of its section [hpfriends]"),
            Self::Opencanary => (
                lines.opencanary(),
                "into /etc/opencanaryd/opencanary.conf, with hpfeeds beside the handlers that are there",
            ),
            Self::Tpot => (lines.tpot(), "into docker-compose.yml of T-Pot, in place of these lines of ewsposter"),
            Self::Python => (lines.python(subscribes), "into a file, and install the package hpfeeds with pip"),
        };
        let mut notes = vec![format!("the lines on stdout go {place}")];
        if account.host.is_none() {
            notes.push(format!("put the name of this broker in place of {PLACEHOLDER}, or give it with --host NAME"));
        }
        Ok(Configuration { text, notes })
    }

    /// Values without quotes around them mean what they are only without some characters.
    fn check_plain(self, what: &str, value: &str) -> Result<(), String> {
        let is_plain = |char: char| char.is_ascii_graphic() && !"\"'`\\$%#;".contains(char);
        if value.chars().all(is_plain) {
            return Ok(());
        }
        let name = self.name();
        Err(format!(
            "the {what} has a character that the configuration of {name} does not take as it is: use letters and digits"
        ))
    }
}

/// The values of a configuration.
struct Lines<'a> {
    host: &'a str,
    account: &'a Account<'a>,
    channels: &'a [String],
}

impl Lines<'_> {
    /// The channel of a program that has one.
    fn channel(&self) -> &str {
        self.channels.first().map_or("", String::as_str)
    }

    fn cowrie(&self) -> String {
        let Account { port, ident, secret, .. } = self.account;
        let (host, channel) = (self.host, self.channel());
        format!(
            "[output_hpfeeds3]\nenabled = true\nserver = {host}\nport = {port}\nidentifier = {ident}\n\
             secret = {secret}\nchannel = {channel}\n"
        )
    }

    fn conpot(&self) -> String {
        let Account { port, ident, secret, .. } = self.account;
        let (host, channels) = (self.host, list(self.channels));
        format!(
            "[hpfriends]\nenabled = True\nhost = {host}\nport = {port}\nident = {ident}\nsecret = {secret}\n\
             channels = {channels}\n"
        )
    }

    fn dionaea(&self) -> String {
        let [host, ident, secret] = self.quoted();
        let port = self.account.port;
        format!(
            "- name: hpfeeds\n  config:\n    server: {host}\n    port: {port}\n    ident: {ident}\n    \
             secret: {secret}\n    dynip_resolve: \"\"\n"
        )
    }

    fn heralding(&self) -> String {
        let [host, ident, secret] = self.quoted();
        let port = self.account.port;
        format!(
            "activity_logging:\n  hpfeeds:\n    enabled: true\n    session_channel: \"heralding.session\"\n    \
             auth_channel: \"heralding.auth\"\n    host: {host}\n    port: {port}\n    ident: {ident}\n    \
             secret: {secret}\n"
        )
    }

    fn opencanary(&self) -> String {
        let [host, ident, secret] = self.quoted();
        let (port, channels) = (self.account.port, list(self.channels));
        format!(
            r#"{{
    "logger": {{
        "class": "PyLogger",
        "kwargs": {{
            "handlers": {{
                "hpfeeds": {{
                    "class": "opencanary.logger.HpfeedsHandler",
                    "host": {host},
                    "port": {port},
                    "ident": {ident},
                    "secret": {secret},
                    "channels": {channels}
                }}
            }}
        }}
    }}
}}
"#
        )
    }

    fn tpot(&self) -> String {
        let Account { port, ident, secret, .. } = self.account;
        let port = port.to_string();
        let variables = [
            ("ENABLE", "true"),
            ("HOST", self.host),
            ("PORT", &port),
            ("CHANNELS", self.channel()),
            ("IDENT", ident),
            ("SECRET", secret),
            ("TLSCERT", "false"),
            ("FORMAT", "json"),
        ];
        let mut text = "services:\n  ewsposter:\n    environment:\n".to_owned();
        for (name, value) in variables {
            // Nothing fails in memory.
            let _ = writeln!(text, "      - {}", quoted(&format!("EWS_HPFEEDS_{name}={value}")));
        }
        text
    }

    fn python(&self, subscribes: bool) -> String {
        let [host, ident, secret] = self.quoted();
        let (port, channel) = (self.account.port, quoted(self.channel()));
        let work = if subscribes {
            format!(
                "        client.subscribe({channel})\n        async for ident, channel, payload in client:\n            \
                 print(ident, channel, payload)\n"
            )
        } else {
            format!("        client.publish({channel}, b\"hello\")\n")
        };
        format!(
            "import asyncio\n\nfrom hpfeeds.asyncio import ClientSession\n\n\nasync def main():\n    \
             async with ClientSession({host}, {port}, {ident}, {secret}) as client:\n{work}\n\nasyncio.run(main())\n"
        )
    }

    /// Host, ident and secret in quotes.
    fn quoted(&self) -> [String; 3] {
        [self.host, self.account.ident, self.account.secret].map(quoted)
    }
}

/// A list in quotes, which JSON, YAML and Python read alike.
fn list(channels: &[String]) -> String {
    let quoted: Vec<_> = channels.iter().map(|channel| quoted(channel)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A text in double quotes, which JSON, YAML and Python read alike.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            // The last two: what YAML takes for a line break, and lets stand nowhere.
            char if char.is_control()
                || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                let _ = write!(quoted, "\\u{:04x}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const SECRET: &str = "s3cret-of-the-key";

    fn account<'a>(publish: &'a [String], subscribe: &'a [String]) -> Account<'a> {
        Account { host: Some("broker.example"), port: 20001, ident: "sensor-1", secret: SECRET, publish, subscribe }
    }

    #[test]
    fn each_configuration_has_the_broker_and_the_key_once() {
        for honeypot in Honeypot::value_variants() {
            let publish = match honeypot {
                Honeypot::Python => vec!["a.b".to_owned()],
                _ => honeypot.grants(),
            };
            let Configuration { text, notes } = honeypot.configuration(&account(&publish, &[])).unwrap();
            for (part, times) in [(SECRET, 1), ("broker.example", 1), ("20001", 1), ("sensor-1", 1), (PLACEHOLDER, 0)] {
                assert_eq!(text.matches(part).count(), times, "{part} in {text}");
            }
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text:?}");
            assert!(notes.len() == 1 && !notes[0].contains(SECRET), "{notes:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_given_has_a_placeholder_that_says_so() {
        let publish = ["cowrie.*".to_owned()];
        let without = Account { host: None, ..account(&publish, &[]) };
        let Configuration { text, notes } = Honeypot::Cowrie.configuration(&without).unwrap();
        assert!(text.contains("server = NAME-OF-THE-BROKER\n"), "{text}");
        assert!(notes[1].contains(PLACEHOLDER) && notes[1].contains("--host"), "{notes:?}");
    }

    #[test]
    fn channels_are_those_that_the_key_may_publish_to() {
        let chosen = |honeypot: Honeypot, publish: &[&str]| {
            honeypot.chosen(&publish.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(chosen(Honeypot::Cowrie, &["*"]).unwrap(), ["cowrie.sessions"]);
        assert_eq!(chosen(Honeypot::Cowrie, &["mine.*", "mine.one", "mine.two"]).unwrap(), ["mine.one"]);
        assert_eq!(chosen(Honeypot::Python, &["a"]).unwrap(), ["a"]);
        assert_eq!(chosen(Honeypot::Heralding, &["heralding.*"]).unwrap(), ["heralding.auth", "heralding.session"]);
        let denied = chosen(Honeypot::Heralding, &["heralding.auth"]).unwrap_err();
        assert!(denied.contains("heralding publishes to heralding.session as well"), "{denied}");
        let denied = chosen(Honeypot::Dionaea, &["dionaea.*"]).unwrap_err();
        assert!(denied.contains("mwbinary.dionaea.sensorunique"), "{denied}");
        assert!(chosen(Honeypot::Conpot, &["mine.*"]).unwrap_err().contains("--publish"));
        for honeypot in Honeypot::value_variants().iter().filter(|honeypot| **honeypot != Honeypot::Python) {
            assert!(honeypot.chosen(&honeypot.grants()).is_ok(), "{honeypot:?}");
        }
    }

    #[test]
    fn python_subscribes_where_it_may_not_publish() {
        let subscribe = ["cowrie.*".to_owned()];
        let text = Honeypot::Python.configuration(&account(&[], &subscribe)).unwrap().text;
        assert!(text.contains("client.subscribe(\"cowrie.*\")") && !text.contains("publish"), "{text}");
        assert!(Honeypot::Python.configuration(&account(&[], &[])).is_err());
    }

    #[test]
    fn values_that_would_be_read_otherwise_are_quoted_or_refused() {
        assert_eq!(quoted("a\"b\\c\n\u{9b}\u{feff}ü"), "\"a\\\"b\\\\c\\u000a\\u009b\\ufeffü\"");
        let publish = Honeypot::Conpot.grants();
        for secret in ["a%b", "a$b", "a b", "a#b", "ü", "a\n[x]", "'a'"] {
            let odd = Account { secret, ..account(&publish, &[]) };
            let fault = Honeypot::Conpot.configuration(&odd).err().unwrap();
            assert!(fault.contains("secret") && !fault.contains(secret), "{fault}");
            let publish = Honeypot::Heralding.grants();
            let text = Honeypot::Heralding.configuration(&Account { publish: &publish, ..odd }).unwrap().text;
            assert!(text.contains(&quoted(secret)) && text.lines().count() == 9, "{text}");
        }
    }
}
