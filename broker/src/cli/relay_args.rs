//! Arguments of `hpfeeds-broker relay`.

use std::{collections::BTreeSet, env, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use hpfeeds::{BrokerAddr, BrokerUrl, Channel, Ident, units};

use super::{
    dashboard::Dashboard,
    exporter::Exporter,
    logging::Logging,
    values::{Address, Period, parse_address, parse_message, parse_period, parse_seconds},
};
use crate::net::endpoint::Endpoint;

/// The folder without `--data-dir`, where the supervisor names none.
const DATA_DIR: &str = "/var/lib/hpfeeds-relay";

/// Keep what sensors on this machine publish, and hand it to a parent broker
///
/// Sensors connect to the relay instead of the parent, with the same ident and secret. The relay
/// stores what they publish, and sends it upwards with each ident's own key until the parent has
/// confirmed it. Secrets are in HPFEEDS_<IDENT>_SECRET, or in the file that
/// HPFEEDS_<IDENT>_SECRET_FILE names; the ident stands there in upper case, and - and . may be _.
///
/// Sizes are in bytes and may end in k, M or G (1024 each); times are in seconds, or end in m, h or
/// d where TIME stands.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, rustdoc::invalid_html_tags, reason = "the text is help for a terminal")]
#[command(arg_required_else_help = false, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct RelayCommand {
    #[command(subcommand)]
    pub(super) action: Option<RelayAction>,

    /// The broker that gets everything: its host and port, or its URL, as hpfeeds+tls://HOST:PORT
    #[arg(long, value_name = "HOST:PORT", required = true, help_heading = "Parent", value_parser = parse_parent)]
    parent: Option<Parent>,

    /// An ident that sensors here use, and whose messages go upwards with its own key (repeatable)
    #[arg(long, value_name = "IDENT", required = true, help_heading = "Parent")]
    pub(super) key: Vec<Ident>,

    /// Connect to the parent over TLS
    #[arg(long, help_heading = "Parent")]
    pub(super) parent_tls: bool,

    /// Connect over TLS, trusting only the certificates in this PEM file
    #[arg(long, value_name = "FILE", help_heading = "Parent")]
    pub(super) parent_ca: Option<PathBuf>,

    /// Connect over TLS, expecting this name in the parent's certificate instead of the host
    #[arg(long, value_name = "NAME", help_heading = "Parent")]
    pub(super) parent_tls_name: Option<String>,

    /// Connect over TLS, presenting the certificate in this PEM file
    #[arg(long, value_name = "FILE", requires = "parent_tls_key", help_heading = "Parent")]
    pub(super) parent_tls_cert: Option<PathBuf>,

    /// The key of --parent-tls-cert, a PEM file
    #[arg(long, value_name = "FILE", requires = "parent_tls_cert", help_heading = "Parent")]
    pub(super) parent_tls_key: Option<PathBuf>,

    /// How long messages are kept for a channel that the parent denies; after that they are dropped
    /// and counted
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::period, help_heading = "Parent")]
    pub(super) parent_denied_for: Duration,

    /// The longest message for a parent that does not say what it takes, as Python's does not
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_message, help_heading = "Parent")]
    pub(super) parent_max_message: u32,

    /// A channel, or a pattern such as commands.*, whose messages sensors here get from the parent
    /// (repeatable); the first --key subscribes
    #[arg(long, value_name = "CHANNEL", help_heading = "Parent")]
    pub(super) parent_subscribe: Vec<Channel>,

    /// Listen on this address and port
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:20000", value_parser = parse_address)]
    #[arg(help_heading = "Sensors")]
    pub(super) bind: Address,

    /// The secret that a sensor needs: that of its ident, or any
    ///
    /// any: for sensors whose secret cannot be set. Only the idents of --key are let in.
    #[arg(long, value_name = "WHICH", default_value = "keys", help_heading = "Sensors")]
    pub(super) local_auth: LocalAuth,

    /// The longest message of a sensor, names included
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_message, help_heading = "Sensors")]
    pub(super) max_message: u32,

    /// The name that sensors are greeted with
    #[arg(long, default_value = "hpfeeds", help_heading = "Sensors")]
    pub(super) name: String,

    #[command(flatten)]
    pub(super) storage: RelayStorage,

    #[command(flatten)]
    pub(super) exporter: Exporter,

    #[command(flatten)]
    pub(super) dashboard: Dashboard,

    #[command(flatten)]
    pub(super) logging: Logging,
}

/// Arguments about what is stored.
#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct RelayStorage {
    /// The folder of messages that the parent has not confirmed, readable for this user alone
    /// [default: the state directory of systemd, or /var/lib/hpfeeds-relay]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The longest wait at the start for another process that uses the folder
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    pub(super) data_dir_wait: Duration,

    /// Allow a folder on a network file system, where locks and syncs mean less
    #[arg(long)]
    pub(super) allow_network_fs: bool,

    /// The most that is stored, at least 8M, never more than half of the file system: above it the
    /// oldest messages go, counted
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = units::size)]
    pub(super) journal_max_bytes: u64,

    /// The age at which messages go, sent or not; 0: never
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_period)]
    pub(super) journal_max_age: Period,

    /// The longest time between two syncs of the disk while the parent is away: a power cut may cost
    /// so much
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub(super) journal_sync: Duration,
}

/// The parent, or what is wrong with its URL: that is said without the URL, in which a secret may be.
type Parent = Result<Place, String>;

#[derive(Debug, Clone)]
struct Place {
    addr: BrokerAddr,
    is_tls: bool,
}

fn parse_parent(text: &str) -> Result<Parent, hpfeeds::Error> {
    if !text.contains("://") && !text.contains('@') {
        return Ok(Ok(Place { addr: text.parse()?, is_tls: false }));
    }
    Ok(text.parse::<BrokerUrl>().map_err(|fault| fault.to_string()).and_then(|url| {
        if url.ident().is_some() || url.secret().is_some() {
            return Err("the URL has a key in it: name the ident with --key, and its secret in \
                        HPFEEDS_<IDENT>_SECRET"
                .to_owned());
        }
        if !url.channels().is_empty() {
            return Err("the URL has channels in it: name those that come down with --parent-subscribe".to_owned());
        }
        Ok(Place { addr: url.addr().clone(), is_tls: url.is_tls() })
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LocalAuth {
    Keys,
    Any,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelayAction {
    /// Show what the relay on this machine holds and sends, on one screen
    Status {
        /// The data folder of the relay [default: as for the relay]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// The folder that is named, or the default one.
pub(super) fn data_dir(given: Option<&PathBuf>) -> PathBuf {
    let state = || env::var_os("STATE_DIRECTORY").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.cloned().or_else(state).unwrap_or_else(|| DATA_DIR.into())
}

impl RelayStorage {
    pub(super) fn data_dir(&self) -> PathBuf {
        data_dir(self.data_dir.as_ref())
    }
}

impl RelayCommand {
    /// The fault of the arguments together, if they have one.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(Err(fault)) = &self.parent {
            return Err(format!("--parent: {fault}"));
        }
        let mut idents = BTreeSet::new();
        if let Some(ident) = self.key.iter().find(|ident| !idents.insert(ident.as_str())) {
            return Err(format!("--key {ident} is given twice"));
        }
        if self.bind().is_none() {
            return Err("--bind is empty: sensors need an address, such as 127.0.0.1:20000".to_owned());
        }
        if NonZeroU32::new(self.parent_max_message).is_none() {
            return Err("--parent-max-message must be at least 1".to_owned());
        }
        Ok(())
    }

    pub(super) fn bind(&self) -> Option<&Endpoint> {
        self.bind.0.as_ref()
    }

    fn place(&self) -> Option<&Place> {
        self.parent.as_ref()?.as_ref().ok()
    }

    /// The address of the parent.
    pub(super) fn parent(&self) -> Option<&BrokerAddr> {
        self.place().map(|place| &place.addr)
    }

    /// Whether the parent is reached over TLS.
    pub(super) fn uses_tls(&self) -> bool {
        self.place().is_some_and(|place| place.is_tls)
            || self.parent_tls
            || self.parent_ca.is_some()
            || self.parent_tls_name.is_some()
            || self.parent_tls_cert.is_some()
    }
}
