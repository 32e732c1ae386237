//! The arguments of the program and its configuration file, as one value.

use std::{env, ffi::OsString, io, net::IpAddr, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tokio::runtime::{self, Runtime};

use crate::{
    auth::AuthError,
    broker::Broker,
    builder::BrokerBuilder,
    cli::{
        backpressure::Backpressure,
        config_file::{self, ConfigFile},
        exporter::Exporter,
        keys::KeysCommand,
        limits::Limits,
        listen::Listen,
        logging::Logging,
        output::{complain, one_line},
        store::{Store, StoreParser},
        values::parse_threads,
    },
    net::endpoint::Endpoint,
};

const AFTER_HELP: &str = "\
Signals:
  SIGHUP           reads the keys and certificates again; what cannot be read stays as it was
  SIGTERM, SIGINT  stop: subscribers get what is queued for them, for at most --write-timeout; again: end at once

Exit codes:
  0 stopped, or the configuration is valid; 1 it could not start; 2 wrong arguments or configuration file;
  130 or 143 a second SIGINT or SIGTERM cut the end short

Examples:
  hpfeeds-broker --dev                                try it out
  hpfeeds-broker --bind 0.0.0.0:20000 --auth env      as the image of the Python broker runs
  hpfeeds-broker --config broker.toml --check-config  what is wrong, or where it would listen";

/// An hpfeeds broker: a drop-in replacement for the Python one.
///
/// Sizes are in bytes and may end in k, M or G (1024 each); times are in seconds. Of a flag that is not repeatable and is
/// given twice, the last counts.
///
/// Memory: what is queued for one slow subscriber is bounded by --high-mark, for all together by --max-buffered and
/// a quarter of it; that may keep up to twice as much memory, as it lies in buffers that are not full of it. What publishers wait with is at most 128M (or
/// --max-buffered, if that is less) for all together, and some 32k for each. A connection that waits with a longer message, or is in the middle of one of more than 1k, adds that
/// and 256k; an idle one costs about 2k, and some hundred bytes for each of at most --max-subscriptions, and of as many channels that
/// it publishes to; one that has not authenticated 4k, or 100k in the middle of a TLS handshake. Each key of
/// a JSON file takes about 0.3k, and up to 1.5k once the file has been read again. What waits to be logged takes at most
/// 8M.
#[derive(Debug, Parser)]
#[command(name = "hpfeeds-broker", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
// An image's entry point gives a flag, and who runs it another value: the last counts, as in the Python broker.
#[command(args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    listen: Listen,

    /// Where the keys are (repeatable; the first that knows an ident decides) [default: sqlite]
    ///
    /// env: the environment, as the Python broker reads it. A file that ends in .json. sqlite: the file sqlite.db in the
    /// working directory, or a file that ends in .db, .sqlite or .sqlite3. database+postgresql://…, database+mysql://…
    /// or database+sqlite:///…, and mongodb://…, if built in.
    #[arg(long, value_name = "STORE", value_parser = StoreParser, help_heading = "Keys")]
    pub(super) auth: Vec<Store>,

    /// A throwaway broker for tests: loopback only, ident and secret "dev", everything allowed
    #[arg(long, conflicts_with = "auth", help_heading = "Keys")]
    pub(crate) dev: bool,

    /// The name that clients are greeted with
    #[arg(long, default_value = "hpfeeds", help_heading = "General")]
    name: String,

    /// How many threads serve connections
    ///
    /// One moves millions of messages a second, at the lowest cost for each; more help when it is busy all the time, say
    /// because very many clients connect.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads, help_heading = "General")]
    threads: usize,

    #[command(flatten)]
    exporter: Exporter,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    backpressure: Backpressure,

    #[command(flatten)]
    pub(crate) logging: Logging,

    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

/// What it does instead of running a broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Keys(KeysCommand),
}

impl Cli {
    /// The arguments of this process and of the file that they name. Otherwise what they ask for has been printed: help, or one line that says what
    /// is wrong with them.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        Self::read_from(env::args_os().collect()).map_err(|error| {
            if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
                // A closed pipe is no reason to fail.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            complain(format_args!("{} (try --help)", one_line(&error)));
            ExitCode::from(2)
        })
    }

    /// The arguments, with the program's name before them, and those of the file that they name.
    pub(crate) fn read_from(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let arguments = config_file::expand(&Self::command(), arguments)?;
        Self::try_parse_from(arguments)?.checked()
    }

    pub(super) fn checked(mut self) -> Result<Self, clap::Error> {
        self.listen.check().map_err(|text| clap::Error::raw(ErrorKind::MissingRequiredArgument, text))?;
        if self.auth.is_empty() && !self.dev {
            self.auth.push(Store::usual());
        }
        if self.dev
            && let Some(endpoint) = self.endpoints().iter().find(|endpoint| !is_loopback(endpoint))
        {
            let text = format!("--dev lets everybody in: it listens on the loopback interface only, not on {endpoint}");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
        Ok(self)
    }

    /// The broker that the arguments describe. Reads the files and connects to the databases that they name.
    pub(crate) async fn builder(&self) -> Result<BrokerBuilder, AuthError> {
        let mut builder = if self.dev { Broker::dev_builder() } else { Broker::builder() };
        for store in &self.auth {
            builder = store.add_to(builder, self.config.check_config).await?;
            store.warn_if_exposed();
        }
        for endpoint in self.endpoints() {
            builder = builder.endpoint(endpoint);
        }
        builder = self.exporter.apply(builder);
        builder = self.limits.apply(builder);
        builder = self.backpressure.apply(builder);
        Ok(builder.name(&self.name))
    }

    /// What the broker runs on.
    pub(crate) fn runtime(&self) -> io::Result<Runtime> {
        // One thread has nobody to wake up, and what it has just read is in its cache when it writes it.
        let mut builder = match self.threads {
            1 => runtime::Builder::new_current_thread(),
            _ => runtime::Builder::new_multi_thread(),
        };
        builder.worker_threads(self.threads).enable_all().build()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.listen.endpoints(self.dev)
    }
}

fn is_loopback(endpoint: &Endpoint) -> bool {
    let interface = endpoint.interface();
    interface == "localhost" || interface.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
