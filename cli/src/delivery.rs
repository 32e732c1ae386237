//! The arguments of delivery that `publish`, `sendfile` and `spool drain` share: patience,
//! confirmation and the spool.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, ValueHint};
use hpfeeds::{Confirm, Spool, WhenFull, wire::extension::Level};

use crate::values::{bytes, seconds};

#[derive(Debug, Args)]
pub(crate) struct PatienceArgs {
    /// Give up when for so long the broker does not answer, or reads nothing, or does not confirm
    /// at the end.
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "30")]
    pub(crate) timeout: Duration,

    /// Wait for a broker that is away, at the start, too, and connect again when the connection is
    /// lost, for ever; --timeout then counts at the end alone. Messages that a broker had not read
    /// when it went away are lost: stderr says how many that can be, and the exit code is 1.
    #[arg(short, long)]
    pub(crate) keep_going: bool,

    /// How much confirmation is wanted of a broker that knows the extension hpx/1. Messages that it
    /// has not confirmed when the connection is lost are sent again by --keep-going.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    pub(crate) confirm: Confirmation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Confirmation {
    /// None.
    Off,
    /// As much as the broker offers; brokers that do not know the extension confirm the end of a
    /// connection alone.
    #[default]
    IfOffered,
    /// Any: a broker that confirms nothing is refused.
    Required,
    /// That messages are stored, where the broker stores; others are refused.
    Stored,
    /// That messages are stored on several nodes; others are refused.
    Replicated,
}

impl Confirmation {
    pub(crate) fn wanted(self) -> Confirm {
        match self {
            Self::Off => Confirm::Off,
            Self::IfOffered => Confirm::IfOffered,
            Self::Required => Confirm::Required(Level::ROUTED),
            Self::Stored => Confirm::Required(Level::STORED),
            Self::Replicated => Confirm::Required(Level::REPLICATED),
        }
    }
}

/// How long an action with a spool may take to end after a signal: to read its last input, to wait
/// for the broker, and to write the rest to disk.
pub(crate) fn spool_patience(patience: &PatienceArgs) -> Duration {
    patience.timeout.saturating_add(Duration::from_secs(10))
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Spool")]
pub(crate) struct SpoolingArgs {
    /// Keep what the broker has not confirmed in this directory, so that it outlives the connection
    /// and this program: the next one with the same directory and ident sends it first. Input is
    /// read while the broker is away, and connections are made for ever. Exit code 7 when something
    /// is left there at the end.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) spool: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) settings: SpoolSettings,
}

/// The settings of a spool.
#[derive(Debug, Args)]
pub(crate) struct SpoolSettings {
    /// The bytes of all files of the spool together, in bytes or as 512M or 10G; never more than
    /// half of the file system.
    #[arg(id = "spool_max_bytes", long = "spool-max-bytes", value_name = "SIZE", requires = "spool", value_parser = bytes, default_value = "256M")]
    max_bytes: u64,

    /// Write to the spool what is unconfirmed for longer than this. A power cut or SIGKILL costs at
    /// most what is younger; a broker that confirms sooner costs no write at all.
    #[arg(id = "spool_after", long = "spool-after", value_name = "SECONDS", requires = "spool", allow_negative_numbers = true, value_parser = seconds,
        default_value = "1")]
    after: Duration,

    /// The policy for messages that find no room.
    #[arg(
        id = "spool_when_full",
        long = "spool-when-full",
        value_name = "POLICY",
        requires = "spool",
        value_enum,
        default_value_t
    )]
    when_full: Full,

    /// End when the disk of the spool fails, instead of going on in memory.
    #[arg(id = "spool_required", long = "spool-required", requires = "spool")]
    required: bool,

    /// Take a message only when it is on disk: then not even a power cut costs one that was taken.
    #[arg(id = "spool_write_through", long = "spool-write-through", requires = "spool")]
    write_through: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Full {
    /// Read no more input until there is room.
    #[default]
    Wait,
    /// Drop the oldest messages, and count them.
    DropOldest,
    /// Take no more, and end.
    Refuse,
}

impl SpoolingArgs {
    /// How long an action may take to end after a signal: with a spool there is something to be
    /// done when the patience is over.
    pub(crate) fn patience(&self, patience: &PatienceArgs) -> Duration {
        if self.spool.is_some() { spool_patience(patience) } else { patience.timeout }
    }

    /// Whether to end when the spool is full.
    pub(crate) fn ends_when_full(&self) -> bool {
        self.settings.when_full == Full::Refuse
    }

    /// The spool, if one is wanted.
    pub(crate) fn spool(&self) -> Option<Spool> {
        let settings = &self.settings;
        let spool = Spool::dir(self.spool.as_ref()?)
            .max_bytes(settings.max_bytes)
            .after(settings.after)
            .required(settings.required)
            .when_full(match settings.when_full {
                Full::DropOldest => WhenFull::DropOldest,
                // A queue in memory that is full for a moment is no reason to end; a spool is.
                Full::Wait | Full::Refuse => WhenFull::Wait,
            });
        Some(if settings.write_through { spool.write_through() } else { spool })
    }
}
