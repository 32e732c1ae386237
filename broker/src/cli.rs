//! The command line.

use std::{
    ffi::OsStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use clap::{Parser, ValueEnum, error::ErrorKind};
use hpfeeds_broker::{AuthError, Broker, BrokerBuilder, Endpoint, EndpointError, EnvStore, JsonStore, SlowPolicy};
use tokio::runtime::{self, Runtime};

/// The port that hpfeeds clients try by default.
const PORT: u16 = 20000;

/// An hpfeeds broker: a drop-in replacement for the Python one.
///
/// Sizes are in bytes and may end in k, M or G (1024 each); times are in seconds.
///
/// Memory: what is queued for one slow subscriber is bounded by --high-mark, for all together by --max-buffered; it may
/// keep up to twice as much memory, as it shares read buffers. A connection that is active at the moment adds at most
/// two buffers of 256k, or of one message if that is longer; an idle one costs about 2k, and some hundred bytes for
/// each of at most --max-subscriptions.
#[derive(Debug, Parser)]
#[command(name = "hpfeeds-broker", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Listen on this address and port [default: 0.0.0.0:20000 unless --endpoint is given]
    #[arg(long, value_name = "ADDR:PORT", value_parser = Endpoint::bind)]
    bind: Option<Endpoint>,

    /// Listen on the default address, but on this port
    #[arg(short, long, conflicts_with_all = ["bind", "endpoint"])]
    port: Option<u16>,

    /// Listen on an endpoint such as tcp:interface=0.0.0.0:port=20000:device=eth0 (repeatable)
    #[arg(short, long, value_name = "ENDPOINT", value_parser = parse_endpoint)]
    endpoint: Vec<Endpoint>,

    /// Where the keys are: env, or a file that ends in .json (repeatable; the first that knows an ident decides)
    #[arg(long, value_name = "STORE")]
    auth: Vec<Store>,

    /// A throwaway broker for tests: loopback only, ident and secret "dev", everything allowed
    #[arg(long, conflicts_with = "auth")]
    pub(crate) dev: bool,

    /// How many threads serve connections. One moves millions of messages a second, at the lowest cost for each; more
    /// help when it is busy all the time, say because very many clients connect
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,

    /// The name that clients are greeted with
    #[arg(long, default_value = "hpfeeds")]
    name: String,

    /// Log more
    #[arg(long)]
    pub(crate) debug: bool,

    /// The longest message, names included; clients must agree
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_message)]
    max_message: u32,

    /// How many connections are held at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,

    /// How many channels one connection may subscribe to at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_subscriptions: usize,

    /// How long a client may take to authenticate
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    handshake_timeout: Duration,

    /// How long the last bytes for a client may take, at its end and at shutdown
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    write_timeout: Duration,

    /// Publishers wait while a subscriber that keeps up has more than this queued
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_size)]
    low_mark: usize,

    /// A subscriber that drains less than this in a second, while there is more than --low-mark, is slow: after a
    /// few seconds, nobody waits for it
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = parse_size)]
    floor_rate: usize,

    /// The most that is queued for a slow subscriber [default: 50 times --max-message]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    high_mark: Option<usize>,

    /// What happens to a slow subscriber at --high-mark: disconnect drops its new messages and disconnects it after
    /// --slow-deadline; drop-oldest drops the oldest and keeps it
    #[arg(long, value_name = "POLICY", default_value = "disconnect")]
    slow_policy: Policy,

    /// How long a slow subscriber may take to fall below --low-mark again, or to drain --floor-rate
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    slow_deadline: Duration,

    /// The most that is queued for all subscribers together
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    max_buffered: usize,

    #[arg(long, hide = true, value_parser = unsupported)]
    exporter: Option<String>,

    #[arg(long, hide = true, value_parser = unsupported)]
    tlscert: Option<String>,

    #[arg(long, hide = true, value_parser = unsupported)]
    tlskey: Option<String>,
}

/// A value of `--auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Store {
    Env,
    Json(PathBuf),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Disconnect,
    DropOldest,
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

    fn checked(self) -> Result<Self, clap::Error> {
        if self.auth.is_empty() && !self.dev {
            let text = "nobody could authenticate: use --auth env, --auth users.json or --dev \
                        (sqlite, the default of the Python broker, is not supported yet)";
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, text));
        }
        if self.dev
            && let Some(endpoint) = self.endpoints().iter().find(|endpoint| !is_loopback(endpoint))
        {
            let text = format!("--dev lets everybody in: it listens on the loopback interface only, not on {endpoint}");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
        Ok(self)
    }

    /// The broker that the arguments describe. Reads the files that they name.
    pub(crate) fn builder(&self) -> Result<BrokerBuilder, AuthError> {
        let mut builder = if self.dev { Broker::dev_builder() } else { Broker::builder() };
        for store in &self.auth {
            builder = match store {
                Store::Env => builder.auth(EnvStore::new()),
                Store::Json(path) => builder.auth(JsonStore::open(path)?),
            };
        }
        for endpoint in self.endpoints() {
            builder = builder.endpoint(endpoint);
        }
        if let Some(high_mark) = self.high_mark {
            builder = builder.high_mark(high_mark);
        }
        Ok(builder
            .name(&self.name)
            .max_message(self.max_message)
            .max_connections(self.max_connections)
            .max_subscriptions(self.max_subscriptions)
            .handshake_timeout(self.handshake_timeout)
            .write_timeout(self.write_timeout)
            .drain_timeout(self.write_timeout)
            .low_mark(self.low_mark)
            .floor_rate(self.floor_rate)
            .slow_policy(match self.slow_policy {
                Policy::Disconnect => SlowPolicy::Disconnect,
                Policy::DropOldest => SlowPolicy::DropOldest,
            })
            .slow_deadline(self.slow_deadline)
            .max_buffered(self.max_buffered))
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
        let mut endpoints: Vec<_> = self.bind.iter().chain(&self.endpoint).cloned().collect();
        if endpoints.is_empty() {
            let interface = if self.dev { "127.0.0.1" } else { "0.0.0.0" };
            endpoints.push(Endpoint::tcp(interface, self.port.unwrap_or(PORT)));
        }
        endpoints
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

fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    text.parse()
}

fn unsupported(_: &str) -> Result<String, String> {
    Err("not supported yet".to_owned())
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let works = "env or a file that ends in .json";
        let extension = Path::new(text).extension().and_then(OsStr::to_str);
        // The order of the Python broker.
        let kind = match (text, extension) {
            (_, Some("json")) => return Ok(Self::Json(text.into())),
            ("env", _) => return Ok(Self::Env),
            (text, _) if text.starts_with("mongo") => "MongoDB",
            (text, _) if text.starts_with("database+") => "an SQL database",
            ("sqlite", _) | (_, Some("db" | "sqlite" | "sqlite3")) => "SQLite",
            _ => return Err(format!("unknown kind of key store: use {works}")),
        };
        Err(format!("{kind} is not supported yet: use {works}"))
    }
}

/// Bytes, with an optional k, M or G.
fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| "not a size such as 65536, 64k, 1M or 2G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=1024).contains(threads))
        .ok_or_else(|| "not a number from 1 to 1024".to_owned())
}

fn parse_message(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?).map_err(|_| "too large: a frame holds less than 4G".to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        Cli::try_parse_from([&["hpfeeds-broker"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn stores_are_told_apart_in_the_order_of_the_python_broker() {
        assert_eq!("env".parse(), Ok(Store::Env));
        assert_eq!("users.json".parse(), Ok(Store::Json("users.json".into())));
        assert_eq!("mongo.json".parse(), Ok(Store::Json("mongo.json".into())));
        let cases = [
            ("mongodb://h/d", "MongoDB is not supported yet"),
            ("database+sqlite:///x.db", "an SQL database is not supported yet"),
            ("sqlite", "SQLite is not supported yet"),
            ("./keys.sqlite3", "SQLite is not supported yet"),
            ("keys.db", "SQLite is not supported yet"),
            ("ENV", "unknown kind of key store"),
            ("", "unknown kind of key store"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Store>().unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints_have_defaults() {
        assert_eq!(parse(&["--auth=env"]).endpoints(), [Endpoint::tcp("0.0.0.0", 20000)]);
        assert_eq!(parse(&["--dev"]).endpoints(), [Endpoint::tcp("127.0.0.1", 20000)]);
        assert_eq!(parse(&["--dev", "-p1"]).endpoints(), [Endpoint::tcp("127.0.0.1", 1)]);
        assert_eq!(parse(&["--dev", "--bind", "[::1]:2"]).endpoints(), [Endpoint::tcp("::1", 2)]);
        let both = parse(&["--bind=1.2.3.4:5", "-e", "tcp:port=6", "--endpoint=tcp:port=7"]);
        let expected = [Endpoint::tcp("1.2.3.4", 5), Endpoint::tcp("0.0.0.0", 6), Endpoint::tcp("0.0.0.0", 7)];
        assert_eq!(both.endpoints(), expected);
    }

    #[test]
    fn dev_is_for_the_loopback_interface() {
        for bind in ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "localhost:1"] {
            assert!(parse(&["--dev", "--bind", bind]).checked().is_ok(), "{bind}");
        }
        for bind in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"] {
            let error = parse(&["--dev", "--bind", bind]).checked().unwrap_err().to_string();
            assert!(error.contains("loopback interface only"), "{bind}: {error}");
            assert!(parse(&["--auth=env", "--bind", bind]).checked().is_ok(), "{bind}");
        }
        assert!(parse(&["--dev", "-e", "tcp:port=1"]).checked().is_err());
    }

    #[test]
    fn sizes_and_times() {
        let sizes = [("0", 0), ("17", 17), ("64k", 65536), ("1K", 1024), ("2M", 2 << 20), ("1G", 1 << 30)];
        for (text, expected) in sizes {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1T", "1 M", "1é", "99999999999999999999", "99999999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_message("4G"), Err("too large: a frame holds less than 4G".to_owned()));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "1s", "NaN", "inf"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn threads_are_counted() {
        for text in ["", "0", "-1", "1025", "two"] {
            assert_eq!(parse_threads(text), Err("not a number from 1 to 1024".to_owned()), "{text}");
        }
        let workers = |arguments: &[&str]| {
            let runtime = parse(arguments).runtime().unwrap();
            let workers = runtime.metrics().num_workers();
            runtime.shutdown_background();
            workers
        };
        assert_eq!(workers(&["--dev"]), 1);
        assert_eq!(workers(&["--dev", "--threads=3"]), 3);
    }

    #[test]
    fn the_hints_name_a_host_that_can_be_connected_to() {
        for (addr, host) in
            [("127.0.0.1:20000", "localhost"), ("[::1]:20000", "localhost"), ("127.0.0.2:20000", "127.0.0.2")]
        {
            let command = format!("hpfeeds --host {host} -p 20000 -i dev -s dev -c test");
            let expected = format!("subscribe with: {command} subscribe\npublish with:   {command} publish 'hello'\n");
            assert_eq!(hints(addr.parse().unwrap()), expected);
        }
    }
}
