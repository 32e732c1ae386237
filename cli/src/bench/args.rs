//! The arguments of `hpfeeds bench`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, Subcommand, ValueHint, error::ErrorKind};
use hpfeeds::{BrokerAddr, Channel, Secret};

use super::batch::STAMP;
use crate::{connection::ConnectionArgs, values};

/// The channel that is published to unless another is asked for.
const CHANNEL: &str = "bench";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(super) workload: Workload,

    #[command(flatten)]
    pub(super) common: CommonArgs,

    /// Nothing when a broker is to be started.
    #[arg(skip)]
    pub(super) given: Option<Given>,

    #[arg(skip)]
    pub(super) max_message: u32,
}

#[derive(Debug, Clone, Args)]
pub(super) struct CommonArgs {
    /// Print one JSON object instead of lines.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// The broker's process, to measure its CPU time and memory; known already when bench starts
    /// the broker.
    #[arg(long, global = true, value_name = "PID")]
    pub(super) pid: Option<u32>,

    /// The `hpfeeds-broker` to start [default: beside this program, or on the PATH]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub(super) broker: Option<PathBuf>,

    /// The channel to publish to: with an existing broker, one that nobody else uses [default:
    /// bench]
    #[arg(short = 'c', long = "chan", global = true, value_name = "CHANNEL", allow_hyphen_values = true)]
    pub(super) channel: Option<Channel>,

    /// Give up when for so long nothing can be sent, or nothing that is due arrives.
    #[arg(short, long, global = true, value_name = "SECONDS", value_parser = values::seconds, default_value = "10")]
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum Workload {
    /// As many messages as get through: fan-out with many subscribers, fan-in with many publishers.
    Throughput(ThroughputArgs),
    /// How long messages take at a given rate. Each is timed from when it was due, not from when it
    /// was sent.
    Latency(LatencyArgs),
    /// The memory of an authenticated connection that does nothing.
    Idle(IdleArgs),
    /// How fast clients can connect, authenticate and close, and what that costs.
    Connect(ConnectArgs),
}

impl Workload {
    /// How many connections it may hold at once.
    pub(super) fn connections(&self) -> u64 {
        // For the marker, and what is about to be closed.
        64 + match self {
            Self::Throughput(args) => u64::from(args.publishers) + u64::from(args.subscribers),
            Self::Latency(args) => u64::from(args.subscribers) + 1,
            Self::Idle(args) => args.connections.into(),
            Self::Connect(args) => u64::from(args.concurrency) * 2,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(super) struct ThroughputArgs {
    /// How many connections publish.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(super) publishers: u32,

    /// How many connections receive every message.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(super) subscribers: u32,

    /// Bytes of a payload, at least 12.
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = payload)]
    pub(super) size: usize,

    /// Messages to publish, by all publishers together; without --seconds, all of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) messages: Option<u64>,

    /// Stop publishing after this time [default: 5, or no limit with --messages]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) seconds: Option<Duration>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct LatencyArgs {
    /// Messages per second.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: u32,

    /// How many connections receive every message, each in a thread of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) subscribers: u32,

    /// Bytes of a payload, at least 12.
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = payload)]
    pub(super) size: usize,

    /// How long to publish.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = values::seconds)]
    pub(super) seconds: Duration,
}

#[derive(Debug, Clone, Args)]
pub(super) struct IdleArgs {
    /// How many connections to hold.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) connections: u32,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ConnectArgs {
    /// Connections to make in all [default: as many as --seconds allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) connections: Option<u64>,

    /// Connections that are open at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) concurrency: u32,

    /// Stop after this time [default: 5, or no limit with --connections]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) seconds: Option<Duration>,
}

/// An existing broker, and the key to use there.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) addr: BrokerAddr,
    pub(super) ident: String,
    pub(super) secret: Secret,
}

impl BenchArgs {
    /// Settles the channel, and which broker is meant. Whether a key was given is for the caller to
    /// check.
    pub(crate) fn settle(
        &mut self,
        channels: Vec<Channel>,
        connection: &ConnectionArgs,
        matches: &ArgMatches,
    ) -> Result<bool, (ErrorKind, String)> {
        let conflict = |message: &str| Err((ErrorKind::ArgumentConflict, message.to_owned()));
        let mut channels = channels.into_iter().chain(self.common.channel.take());
        self.common.channel = channels.next();
        if channels.next().is_some() {
            return conflict("bench publishes to one channel: give --chan once");
        }
        if connection.speaks_tls() {
            return conflict("bench does not speak TLS: it would measure its own cryptography");
        }
        self.max_message = matches.get_one("max_message").copied().unwrap_or_default();
        let given = connection.names_a_broker();
        if given && self.common.broker.is_some() {
            return conflict("--broker PATH starts a broker, so there can be no --host or --port");
        }
        if !given && self.common.pid.is_some() {
            return conflict("--pid PID is for an existing broker: give its --host and --port");
        }
        if given {
            let (ident, secret) = connection.key();
            self.given = Some(Given { addr: connection.addr(), ident: ident.to_owned(), secret });
        }
        Ok(given)
    }
}

impl CommonArgs {
    pub(super) fn channel(&self) -> Channel {
        match &self.channel {
            Some(channel) => channel.clone(),
            None => CHANNEL.parse().unwrap_or_else(|_| unreachable!("it is a channel")),
        }
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let size = values::size(text)? as usize;
    if size < STAMP { Err("at least 12: every message carries its number".to_owned()) } else { Ok(size) }
}
