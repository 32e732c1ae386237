//! The arguments of the program and its configuration file, as one value.

use std::{env, ffi::OsString, io, net::IpAddr, process::ExitCode};

use clap::{ArgAction, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use tokio::runtime::{self, Runtime};

use crate::{
    auth::AuthError,
    broker::Broker,
    builder::BrokerBuilder,
    cli::{
        backpressure::Backpressure,
        config_file::{self, ConfigFile},
        dashboard::Dashboard,
        drain::DrainCommand,
        exporter::Exporter,
        health::HealthCommand,
        journal::JournalCommand,
        keys::KeysCommand,
        limits::Limits,
        listen::Listen,
        logging::Logging,
        mailbox::MailboxCommand,
        output::{complain, one_line},
        relay_args::RelayCommand,
        shell::{CompletionsCommand, ManCommand},
        storage::Storage,
        store::{Store, StoreParser},
        values::{parse_threads, switch},
    },
    net::endpoint::Endpoint,
};

const AFTER_HELP: &str = "\
Memory:
  Queues               --high-mark for each slow subscriber; --max-buffered and a quarter of it for
                       all together, and up to twice as much resident, in buffers that are not full
  Stalled publishers   128M for all together (--max-buffered, if that is less), and 32k for each
  Partial messages     their size and 256k for each, from 1k on
  Idle connection      2k, and some hundred bytes for each subscription (--max-subscriptions) and
                       for each of as many channels that it publishes to
                       1k more with the extension hpx/1; 64k more while it does not read its
                       answers, and what was read of it counts as a stalled publisher's
  Streams              0.4k for each that was published lately, up to 1k more for refused messages
  Before AUTH          4k; 100k in the middle of a TLS handshake
  Keys in a JSON file  0.3k for each; up to 1.5k once the file has been read again
  Data folder          32M for the newest messages and those that wait for the disk; 0.3k for each
                       channel with a last value, and its message
  Log                  8M of lines that wait to be written

Signals:
  SIGHUP           reads the keys and certificates again; of a file that cannot be read, the
                   previous content stays in use
  SIGTERM, SIGINT  stop: queued messages are delivered, for at most --write-timeout; a second one
                   ends the broker at once

Exit codes:
  0 stopped, or the configuration is valid; 1 it could not start; 2 wrong arguments or configuration file;
  130 or 143 a second SIGINT or SIGTERM cut the end short

Examples:
  hpfeeds-broker --dev                                try it out
  hpfeeds-broker --bind 0.0.0.0:20000 --auth env      as the image of the Python broker runs
  hpfeeds-broker --config broker.toml --check-config  the first fault, or where it would listen";

/// An hpfeeds broker: a drop-in replacement for the Python one.
///
/// Sizes are in bytes and may end in k, M or G (1024 each); times are in seconds. A flag that is
/// not repeatable counts as it is given last.
#[derive(Debug, Parser)]
#[command(name = "hpfeeds-broker", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
// An image's entry point may give a flag, and its user another value: the last counts, as in the
// Python broker.
#[command(args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    listen: Listen,

    /// A key store (repeatable; the first that knows an ident decides) [default: sqlite]
    ///
    /// env: the environment, as the Python broker reads it. A file that ends in .json. sqlite: the
    /// file sqlite.db in the working directory, or a file that ends in .db, .sqlite or .sqlite3.
    /// database+postgresql://…, database+mysql://… or database+sqlite:///…, and mongodb://…, if
    /// built in.
    #[arg(long, value_name = "STORE", value_parser = StoreParser, help_heading = "Keys")]
    pub(super) auth: Vec<Store>,

    /// A throwaway broker for tests: loopback only, ident and secret "dev", everything allowed
    #[arg(long, conflicts_with = "auth", help_heading = "Keys")]
    pub(crate) dev: bool,

    /// The name that clients are greeted with
    #[arg(long, default_value = "hpfeeds", help_heading = "General")]
    name: String,

    /// Whether clients are offered the extension hpx/1, by which messages are confirmed
    ///
    /// The offer is " hpx/1" behind --name, if that has at most 248 bytes: a client without the
    /// extension shows it, or ignores it. off: every byte is as from the Python broker. An endpoint
    /// can do without, too.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = switch(), action = ArgAction::Set)]
    #[arg(help_heading = "General")]
    extensions: bool,

    /// The number of threads that serve connections
    ///
    /// One thread moves millions of messages a second, at the lowest cost for each. More help when
    /// it is busy all the time, such as with very many clients that connect.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads, help_heading = "General")]
    threads: usize,

    #[command(flatten)]
    pub(super) exporter: Exporter,

    #[command(flatten)]
    pub(super) dashboard: Dashboard,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    backpressure: Backpressure,

    #[command(flatten)]
    storage: Storage,

    #[command(flatten)]
    pub(crate) logging: Logging,

    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

/// A subcommand, which runs instead of a broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Keys(Box<KeysCommand>),
    Relay(Box<RelayCommand>),
    Mailbox(MailboxCommand),
    Drain(DrainCommand),
    Journal(JournalCommand),
    Health(HealthCommand),
    Completions(CompletionsCommand),
    Man(ManCommand),
}

impl Cli {
    /// The arguments of this process and of the file that they name. `Err`: help, or one line about
    /// a fault, has been printed, and the program ends with the exit code.
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
            let usual = Store::usual().map_err(|cause| {
                let text = format!("{cause}, or say with --auth or --dev where the keys are");
                clap::Error::raw(ErrorKind::MissingRequiredArgument, text)
            })?;
            self.auth.push(usual);
        }
        if self.dev
            && let Some(endpoint) = self.endpoints().iter().find(|endpoint| !is_loopback(endpoint))
        {
            let text = format!("--dev lets everybody in: it listens on the loopback interface only, not on {endpoint}");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
        Ok(self)
    }

    /// The builder of the broker that the arguments describe. Reads the files and connects to the
    /// databases that they name.
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
        builder = self.dashboard.apply(builder);
        builder = self.limits.apply(builder);
        builder = self.backpressure.apply(builder);
        builder = self.storage.apply(builder);
        Ok(builder.name(&self.name).extensions(self.extensions))
    }

    /// The runtime of the broker.
    pub(crate) fn runtime(&self) -> io::Result<Runtime> {
        // One thread wakes no other up, and data that it has just read is in its cache when it
        // writes it.
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
