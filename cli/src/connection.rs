//! The connection options: the broker's address, the key, TLS and the largest message.

use std::{env, fmt, path::PathBuf, time::Duration};

use clap::{Args, ValueHint, error::ErrorKind};
use hpfeeds::{
    BrokerAddr, BrokerUrl, Channel, ClientSession, Ident, Limits, Secret, SessionBuilder, TlsOptions, environment, wire,
};

use crate::{exit::Failure, profile::Profile, values};

/// Global options: they work before and after the action. Given twice, the later one counts, as
/// with the Python tool.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    #[arg(
        help = "Broker, key and channels in one: hpfeeds://IDENT:SECRET@HOST:PORT/CHANNEL,CHANNEL, or hpfeeds+tls://… \
            for TLS; better without the secret [env: HPFEEDS_URL]. For top, the address of a dashboard",
        long,
        global = true,
        overrides_with = "url",
        value_name = "URL"
    )]
    url: Option<Hidden>,

    /// Broker and key of the file ~/.config/hpfeeds/profiles/NAME, which only its owner may read:
    /// lines such as `url = hpfeeds://IDENT:SECRET@HOST:PORT` and `tlscert = FILE`.
    #[arg(long, global = true, overrides_with = "profile", value_name = "NAME")]
    profile: Option<String>,

    /// The channels of the URL, and its secret if that is no text.
    #[arg(skip)]
    channels: Vec<Channel>,

    #[arg(skip)]
    url_secret: Option<Secret>,

    /// The settings that the URL has given.
    #[arg(skip)]
    of_url: Vec<&'static str>,

    #[arg(help = "The broker's name or address [env: HPFEEDS_HOST] [default: localhost]",
        long, global = true, overrides_with = "host", value_parser = host, value_hint = ValueHint::Hostname)]
    host: Option<String>,

    #[arg(help = "The broker's port [env: HPFEEDS_PORT] [default: 20000]",
        short, long, global = true, overrides_with = "port", value_parser = port)]
    port: Option<u16>,

    #[arg(help = "The key's name [env: HPFEEDS_IDENT]",
        short, long, global = true, overrides_with = "ident", value_parser = values::name, allow_hyphen_values = true)]
    ident: Option<String>,

    #[arg(
        help = "The key's secret; better given in the environment [env: HPFEEDS_SECRET]",
        short,
        long,
        global = true,
        overrides_with = "secret",
        allow_hyphen_values = true
    )]
    secret: Option<Hidden>,

    /// Connect over TLS, trusting the system's roots.
    #[arg(long, global = true, overrides_with = "tls")]
    tls: bool,

    /// Connect over TLS, trusting only the certificates in this PEM file.
    #[arg(long, global = true, overrides_with = "tlscert", value_name = "CAFILE", value_hint = ValueHint::FilePath)]
    tlscert: Option<PathBuf>,

    /// Connect over TLS, and expect this name in the broker's certificate instead of the host.
    #[arg(long, global = true, overrides_with = "tls_name", value_name = "NAME")]
    tls_name: Option<String>,

    /// Connect over TLS, and present the certificate in this PEM file.
    #[arg(long, global = true, overrides_with = "tls_client_cert", value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_client_cert: Option<PathBuf>,

    /// The private key (PEM) of the client certificate.
    #[arg(long, global = true, overrides_with = "tls_client_key", value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_client_key: Option<PathBuf>,

    /// The largest message, names included, in bytes or as 512K or 10M; the broker needs the same.
    #[arg(long, global = true, overrides_with = "max_message", value_name = "SIZE", default_value = "1M", value_parser = values::size)]
    max_message: u32,

    /// Say on stderr what happens on the connection.
    #[arg(long, global = true, overrides_with = "debug")]
    pub(crate) debug: bool,
}

/// The place that a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    /// The command line, and the variable says something else.
    FlagOverVariable,
    Variable,
    /// The URL, wherever that comes from.
    Url,
    /// Nothing gives it.
    Missing,
}

/// A secret, or a URL with one in it, as it was typed. Redacted when it is printed, as [`Secret`] is,
/// which does not tell whether it is empty.
#[derive(Clone)]
struct Hidden(String);

impl From<String> for Hidden {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl ConnectionArgs {
    /// Takes from the environment what the command line has not given, wherever that stands. clap
    /// would read a variable before it has seen what follows the action, and end on one that is not
    /// used.
    pub(crate) fn complete(&mut self) -> Result<(), (ErrorKind, String)> {
        if let Some(url) = self.find_url()? {
            self.take(&url);
        } else {
            fill(&mut self.host, environment::HOST, |text| environment::host(&text))?;
            fill(&mut self.port, environment::PORT, |text| environment::port(&text))?;
        }
        if let Some(fault) = self.host.as_ref().and_then(|host| environment::host(host).err()) {
            return Err((ErrorKind::ValueValidation, format!("the host: {fault}")));
        }
        fill(&mut self.ident, environment::IDENT, |text| values::name(&text).map_err(|cause| cause.to_string()))?;
        if self.url_secret.is_none() {
            fill(&mut self.secret, environment::SECRET, |text| Ok(text.into()))?;
        }
        Ok(())
    }

    /// The URL of the command line, of the profile, or of the environment, where no option says where
    /// the broker is.
    fn find_url(&mut self) -> Result<Option<BrokerUrl>, (ErrorKind, String)> {
        let is_placed = self.names_a_broker();
        let conflict = |text: &str| Err((ErrorKind::ArgumentConflict, text.to_owned()));
        let invalid = |text: String| (ErrorKind::ValueValidation, text);
        match (&self.url, &self.profile) {
            (Some(_), Some(_)) => conflict("--url URL and --profile NAME both say where the broker is: give one"),
            (Some(_), None) if is_placed => {
                conflict("--url URL says where the broker is, so there can be no --host or --port")
            }
            (None, Some(_)) if is_placed => {
                conflict("--profile NAME says where the broker is, so there can be no --host or --port")
            }
            (Some(url), None) => url.0.parse().map(Some).map_err(|fault: hpfeeds::Error| invalid(fault.to_string())),
            (None, Some(name)) => {
                let profile = Profile::load(name).map_err(invalid)?;
                let url: BrokerUrl =
                    profile.url.parse().map_err(|fault| invalid(format!("the profile {name}: {fault}")))?;
                self.tls_name = self.tls_name.take().or(profile.tls_name);
                self.tlscert = self.tlscert.take().or(profile.tlscert);
                if self.tls_client_cert.is_none() && self.tls_client_key.is_none() {
                    (self.tls_client_cert, self.tls_client_key) = (profile.tls_client_cert, profile.tls_client_key);
                }
                Ok(Some(url))
            }
            (None, None) if is_placed => Ok(None),
            (None, None) => {
                let mut url = None;
                fill(&mut url, environment::URL, |text| {
                    text.parse().map_err(|fault: hpfeeds::Error| fault.to_string())
                })?;
                Ok(url)
            }
        }
    }

    /// Takes over what a URL says and no option does.
    fn take(&mut self, url: &BrokerUrl) {
        self.host = Some(url.addr().host().to_owned());
        self.port = Some(url.addr().port());
        self.tls |= url.is_tls();
        if let (None, Some(ident)) = (&self.ident, url.ident()) {
            self.ident = Some(ident.to_string());
            self.of_url.push("ident");
        }
        if let (None, Some(secret)) = (&self.secret, url.secret()) {
            match url.secret_text() {
                Some(text) => self.secret = Some(Hidden(text.to_owned())),
                None => self.url_secret = Some(secret),
            }
            self.of_url.push("secret");
        }
        self.channels = url.channels().to_vec();
    }

    /// The channels of the URL.
    pub(crate) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Checks the options for a dashboard, which is said by `--url` alone.
    #[cfg(feature = "top")]
    pub(crate) fn check_for_dashboard(&self) -> Result<(), (ErrorKind, String)> {
        if self.names_a_broker() || self.profile.is_some() {
            let message = "--host, --port and --profile are for a broker's messages: give the address of its \
                dashboard with --url http://HOST:PORT";
            return Err((ErrorKind::ArgumentConflict, message.to_owned()));
        }
        self.check_client_certificate()
    }

    /// The URL as it was typed.
    #[cfg(feature = "top")]
    pub(crate) fn url_text(&self) -> Option<&str> {
        self.url.as_ref().map(|url| &*url.0)
    }

    /// Whether an option or the URL wants TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.tls_client_cert.is_some() || self.tls_options().is_some()
    }

    /// Whether the user has said where the broker is.
    pub(crate) fn names_a_broker(&self) -> bool {
        self.host.is_some() || self.port.is_some()
    }

    /// Checks that the key and the client certificate are complete. An empty value, as an unset
    /// variable of a compose file leaves it, counts as none.
    pub(crate) fn check(&self) -> Result<(), (ErrorKind, String)> {
        let missing = |what: &str| {
            let (long, variable) = (format!("--{what}"), format!("HPFEEDS_{}", what.to_uppercase()));
            let message = format!("no {what}: give {long} {} or set {variable}", what.to_uppercase());
            Err((ErrorKind::MissingRequiredArgument, message))
        };
        if self.ident.as_deref().unwrap_or_default().is_empty() {
            return missing("ident");
        }
        if self.url_secret.is_none() && self.secret.as_ref().is_none_or(|secret| secret.0.is_empty()) {
            return missing("secret");
        }
        self.check_client_certificate()
    }

    /// Checks that the client certificate is complete.
    pub(crate) fn check_client_certificate(&self) -> Result<(), (ErrorKind, String)> {
        match (&self.tls_client_cert, &self.tls_client_key) {
            (Some(_), None) => Err((
                ErrorKind::MissingRequiredArgument,
                "--tls-client-cert FILE needs its private key: give --tls-client-key FILE".to_owned(),
            )),
            (None, Some(_)) => Err((
                ErrorKind::MissingRequiredArgument,
                "--tls-client-key FILE needs its certificate: give --tls-client-cert FILE".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn addr(&self) -> BrokerAddr {
        BrokerAddr::new(self.host.as_deref().unwrap_or("localhost"), self.port.unwrap_or(environment::DEFAULT_PORT))
    }

    /// The key's name and secret, which are empty when they were not given.
    pub(crate) fn key(&self) -> (&str, Secret) {
        let given = || Secret::from(self.secret.as_ref().map_or("", |secret| &*secret.0));
        (self.ident.as_deref().unwrap_or_default(), self.url_secret.clone().unwrap_or_else(given))
    }

    /// The secret as it was given, for what looks at its form; it is empty when it was not given.
    pub(crate) fn secret_text(&self) -> &str {
        self.secret.as_ref().map_or("", |secret| &*secret.0)
    }

    /// The largest message in bytes.
    pub(crate) fn max_message(&self) -> u32 {
        self.max_message
    }

    /// The name that the broker's certificate must have instead of the host.
    pub(crate) fn tls_name(&self) -> Option<&str> {
        self.tls_name.as_deref()
    }

    /// Whether a file says whom to trust.
    pub(crate) fn has_own_trust(&self) -> bool {
        self.tlscert.is_some()
    }

    /// Where each setting comes from that a variable can give, before [`complete`](Self::complete).
    pub(crate) fn origins(&self) -> Vec<(&'static str, Origin)> {
        let port = self.port.map(|port| port.to_string());
        let secret = self.secret.as_ref().map(|secret| secret.0.as_str());
        let flags = [
            ("host", self.host.as_deref()),
            ("port", port.as_deref()),
            ("ident", self.ident.as_deref()),
            ("secret", secret),
        ];
        let origin = |name: &str, flag: Option<&str>| {
            let variable = env::var_os(format!("HPFEEDS_{}", name.to_uppercase())).filter(|value| !value.is_empty());
            match (flag, variable) {
                (Some(flag), Some(variable)) if variable != flag => Origin::FlagOverVariable,
                (Some(_), _) => Origin::Flag,
                (None, Some(_)) => Origin::Variable,
                (None, None) => Origin::Missing,
            }
        };
        let of_url = match (&self.url, &self.profile) {
            (None, None) if self.names_a_broker() => None,
            (None, None) => Some(("url", origin("url", None))).filter(|(_, origin)| *origin != Origin::Missing),
            (Some(_), _) => Some(("url", Origin::Flag)),
            (None, Some(_)) => Some(("profile", Origin::Flag)),
        };
        // A URL says both, and then their variables are not read.
        let has_url = of_url.is_some();
        let others = flags.into_iter().filter(|(name, _)| !has_url || !matches!(*name, "host" | "port"));
        of_url.into_iter().chain(others.map(|(name, flag)| (name, origin(name, flag)))).collect()
    }

    /// The settings that the URL has given, after [`complete`](Self::complete).
    pub(crate) fn of_url(&self) -> &[&'static str] {
        &self.of_url
    }

    /// A session that does not exist yet.
    pub(crate) fn builder(&self) -> SessionBuilder {
        let (ident, secret) = self.key();
        let builder = ClientSession::builder(self.addr(), ident, secret).limits(Limits::new(self.max_message));
        match self.tls_options() {
            Some(tls) => builder.tls(tls),
            None => builder,
        }
    }

    pub(crate) fn tls_options(&self) -> Option<TlsOptions> {
        let mut tls = self.tls.then(TlsOptions::new);
        if let Some(file) = &self.tlscert {
            tls = Some(tls.unwrap_or_default().ca_file(file));
        }
        if let Some(name) = &self.tls_name {
            tls = Some(tls.unwrap_or_default().server_name(name));
        }
        if let (Some(cert), Some(key)) = (&self.tls_client_cert, &self.tls_client_key) {
            tls = Some(tls.unwrap_or_default().client_certificate(cert, key));
        }
        tls
    }

    /// The room that messages of this key have for payloads.
    pub(crate) fn room(&self) -> Result<Room, Failure> {
        let ident = Ident::new(self.ident.as_deref().unwrap_or_default());
        let ident = ident.map_err(|cause| Failure::new(format!("the ident {cause}")))?;
        Ok(Room::new(ident, self.max_message))
    }

    /// The largest payload that fits a message to each of the channels.
    pub(crate) fn largest_payload(&self, channels: &[Channel]) -> Result<usize, Failure> {
        self.room()?.of(channels).ok_or_else(|| {
            let size = self.max_message;
            Failure::with_code(crate::exit::USAGE, format!("--max-message {size} leaves no room for the names"))
        })
    }
}

/// The room that messages have for payloads.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    ident: Ident,
    largest_message: usize,
}

impl Room {
    pub(crate) fn new(ident: Ident, max_message: u32) -> Self {
        Self { ident, largest_message: Limits::new(max_message).of(wire::Opcode::Publish) as usize }
    }

    /// The largest message, with its names.
    pub(crate) fn largest_message(&self) -> usize {
        self.largest_message
    }

    /// The largest payload of a message to each of the channels; `None` when the names alone are
    /// too long.
    pub(crate) fn of<'a>(&self, channels: impl IntoIterator<Item = &'a Channel>) -> Option<usize> {
        let names = channels.into_iter().map(|channel| wire::publish_len(&self.ident, channel, 0)).max();
        self.largest_message.checked_sub(names.unwrap_or_default())
    }
}

/// How long dialling and the broker's greeting may take, for somebody who is willing to wait so
/// long for an answer.
pub(crate) fn handshake_timeout(patience: Duration) -> Duration {
    patience.min(Duration::from_secs(10))
}

/// Sets what is not given to the value of a variable, if that is set. One that is not needed is not
/// read.
fn fill<T>(
    given: &mut Option<T>,
    variable: &str,
    parse: impl FnOnce(String) -> Result<T, String>,
) -> Result<(), (ErrorKind, String)> {
    if given.is_none() {
        let read = environment::read(variable).map_err(str::to_owned);
        // Without the value, which may be the secret; those of the others are in what is wrong with
        // them.
        let parsed = read.and_then(|value| value.map(parse).transpose());
        *given = parsed.map_err(|fault| (ErrorKind::ValueValidation, format!("the variable {variable}: {fault}")))?;
    }
    Ok(())
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port != 0).ok_or("not a port from 1 to 65535")
}

fn host(text: &str) -> Result<String, String> {
    // Refused later: here, the message would hold the value, with a secret.
    if text.contains("://") || text.contains('@') {
        return Ok(text.to_owned());
    }
    environment::host(text)
}
