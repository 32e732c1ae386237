//! The command line of `top`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, ValueHint, error::ErrorKind};

use crate::values::seconds;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Read the token from this file: a line with nothing else, or the file dashboard.tokens of the
    /// broker's data folder. Others must not be able to read it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,

    /// The list to begin with.
    #[arg(long, value_enum, value_name = "LIST", default_value_t)]
    pub(crate) show: Show,

    /// Only sensors in these states: gone, silent, flood, never, learning, ok, with commas between.
    #[arg(long, value_name = "STATES", value_parser = states)]
    pub(crate) state: Option<String>,

    /// Only rows with this text in a name.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) filter: Option<String>,

    /// The order of the rows, such as ident, since or -messages; with - the largest is first. The
    /// broker names those that a list has when it does not know one.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,

    /// Print one screen as text, and end. So it is by itself when stdout is no terminal.
    #[arg(long)]
    pub(crate) once: bool,

    /// Print what the broker answers, one JSON object with all lists, and end.
    #[arg(long, conflicts_with = "once")]
    pub(crate) json: bool,

    /// Exit with 1 when a sensor is gone, silent or floods, whatever is shown; prints one screen.
    #[arg(long)]
    pub(crate) strict: bool,

    /// Ask the broker each so many seconds (at least 0.2).
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "1")]
    pub(crate) interval: Duration,

    /// Wait for an answer for so many seconds, to its end.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "10")]
    pub(crate) timeout: Duration,

    /// Ask for N rows of a list at most, 1 to 10000. By default what fits on the screen with --once,
    /// 1000 with --json, and 200 at a time otherwise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) limit: Option<u16>,
}

/// A list that is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// Idents that publish, the worst first.
    #[default]
    Sensors,
    /// Idents that subscribe.
    Consumers,
    /// Channels.
    Channels,
    /// Faults of clients, with the command that mends each.
    Refused,
    /// Messages as they come, a part of them.
    Tail,
    /// Mailboxes, in which the broker stores messages for idents that are away.
    Mailboxes,
}

impl TopArgs {
    /// Checks what goes with what.
    pub(crate) fn settle(&mut self) -> Result<(), (ErrorKind, String)> {
        self.once |= self.strict && !self.json;
        if self.show == Show::Tail && (self.once || self.json) {
            let message = "--show tail goes on for ever, so it goes with neither --once nor --json: \
                hpfeeds subscribe prints messages";
            return Err((ErrorKind::ArgumentConflict, message.to_owned()));
        }
        Ok(())
    }
}

/// Names of states. Those that a newer broker knows are for it to judge.
fn states(text: &str) -> Result<String, &'static str> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    if text.split(',').all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("not states such as gone,silent: lower-case names, with commas between")
    }
}
