//! The command line: one group of arguments a file.

mod backpressure;
mod keys;
mod limits;
mod listen;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
mod values;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};
use hpfeeds_broker::{AuthError, Broker, BrokerBuilder, Endpoint};
use tokio::runtime::{self, Runtime};

use self::{
    backpressure::Backpressure,
    keys::KeysCommand,
    limits::Limits,
    listen::Listen,
    store::{Store, StoreParser},
    values::{parse_threads, unsupported},
};

/// An hpfeeds broker: a drop-in replacement for the Python one.
///
/// Sizes are in bytes and may end in k, M or G (1024 each); times are in seconds.
///
/// Memory: what is queued for one slow subscriber is bounded by --high-mark, for all together by --max-buffered; it may
/// keep up to twice as much memory, as it shares read buffers. A connection that is active at the moment adds at most
/// two buffers of 256k, or of one message if that is longer; an idle one costs about 2k, and some hundred bytes for
/// each of at most --max-subscriptions.
#[derive(Debug, Parser)]
#[command(name = "hpfeeds-broker", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    listen: Listen,

    /// Where the keys are: env; a file that ends in .json; sqlite (the file sqlite.db in the working directory, the
    /// default) or a file that ends in .db, .sqlite or .sqlite3; database+postgresql://…, database+mysql://… or
    /// database+sqlite:///…; mongodb://HOST/NAME, if built in (repeatable; the first that knows an ident decides)
    #[arg(long, value_name = "STORE", value_parser = StoreParser)]
    auth: Vec<Store>,

    /// A throwaway broker for tests: loopback only, ident and secret "dev", everything allowed
    #[arg(long, conflicts_with = "auth")]
    pub(crate) dev: bool,

    /// The name that clients are greeted with
    #[arg(long, default_value = "hpfeeds")]
    name: String,

    /// How many threads serve connections. One moves millions of messages a second, at the lowest cost for each; more
    /// help when it is busy all the time, say because very many clients connect
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,

    /// Log more
    #[arg(long)]
    pub(crate) debug: bool,

    #[arg(long, hide = true, value_parser = unsupported)]
    exporter: Option<String>,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    backpressure: Backpressure,
}

/// What it does instead of running a broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Keys(KeysCommand),
}

impl Cli {
    /// The arguments of this process. Otherwise what they ask for has been printed: help, or one line that says what
    /// is wrong with them.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        Self::try_parse().and_then(Self::checked).map_err(|error| {
            if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
                // A closed pipe is no reason to fail.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            eprintln!("hpfeeds-broker: {} (try --help)", one_line(&error));
            ExitCode::from(2)
        })
    }

    fn checked(mut self) -> Result<Self, clap::Error> {
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
            builder = store.add_to(builder).await?;
        }
        for endpoint in self.endpoints() {
            builder = builder.endpoint(endpoint);
        }
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

    fn endpoints(&self) -> Vec<Endpoint> {
        self.listen.endpoints(self.dev)
    }
}

fn is_loopback(endpoint: &Endpoint) -> bool {
    let interface = endpoint.interface();
    interface == "localhost" || interface.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What somebody with a new `--dev` broker types next.
pub(crate) fn hints(addr: SocketAddr) -> String {
    let usual = addr.ip() == Ipv4Addr::LOCALHOST || addr.ip() == Ipv6Addr::LOCALHOST;
    let host = if usual { "localhost".to_owned() } else { addr.ip().to_string() };
    let command = format!("hpfeeds --host {host} -p {} -i dev -s dev -c test", addr.port());
    format!("subscribe with: {command} subscribe\npublish with:   {command} publish 'hello'\n")
}

/// clap's message without its usage and hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}
