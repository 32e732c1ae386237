//! The arguments of `hpfeeds spool`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::delivery::PatienceArgs;

#[derive(Debug, Args)]
#[command(subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub(crate) struct SpoolArgs {
    #[command(subcommand)]
    pub(crate) action: SpoolAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolAction {
    /// Say in a few lines what a spool holds, who uses it, and what is wrong with it.
    ///
    /// Reads all of it, takes no lock and changes nothing. Of a spool in use it says what is on disk:
    /// the program may have had some of it confirmed since.
    Status {
        /// The directory of the spool.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },

    /// Check every record of a spool. Exit code 8 when something is damaged or missing.
    ///
    /// Takes no lock and changes nothing. Each damaged place is named.
    Verify {
        /// The directory of the spool.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },

    /// Send everything that a spool holds to the broker, and say how many messages that was.
    ///
    /// The key is the one whose messages these are. Exit code 0 when the spool is empty afterwards,
    /// 7 when something is left.
    Drain {
        /// The directory of the spool.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,

        #[command(flatten)]
        patience: PatienceArgs,
    },

    /// Print the messages of a spool as `subscribe --format ndjson` does, for `publish --ndjson`.
    ///
    /// Takes no lock and changes nothing: the spool keeps its messages, and the program that uses it
    /// sends them, too. Exit code 8 when some of them are damaged or missing.
    Dump {
        /// The directory of the spool.
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,

        /// Also those that a broker has confirmed and that are still in the files.
        #[arg(long)]
        all: bool,
    },
}
