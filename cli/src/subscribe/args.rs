//! The command line of `subscribe`.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, ValueHint, error::ErrorKind};
use hpfeeds::Channel;

use super::{condition::Condition, field::Field};
use crate::{
    beginning::BeginningArgs,
    channels::ChannelArgs,
    values::{count, seconds},
};

#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    pub(crate) channels: ChannelArgs,

    /// More channels.
    #[arg(value_name = "CHANNEL")]
    more: Vec<Channel>,

    #[command(flatten)]
    pub(crate) show: ShowArgs,

    /// Append to this file instead of printing to stdout; it is opened again on SIGHUP, and when it
    /// has been moved or removed.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// Store each payload here under its SHA-256, and print where instead of the payload.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) save_dir: Option<PathBuf>,

    /// End after N messages; with --where, after N that are printed.
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub(crate) count: Option<NonZeroU64>,

    /// End after this time in total. Exit code 5 when nothing arrived, or fewer than --count.
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    #[command(flatten)]
    pub(crate) beginning: BeginningArgs,
}

/// Which messages are printed, and how.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// How to print a message [default: pretty on a terminal, else line].
    #[arg(short, long, value_enum)]
    format: Option<Format>,

    /// The same as --format pretty.
    #[arg(long, conflicts_with = "format")]
    pretty: bool,

    /// Print only messages that meet this condition; given several times, all of them. Operators:
    /// = and != compare the whole value, ~ and !~ with a glob, in which * stands for any characters
    /// and ? for one. Fields: ident, channel, payload, or a place in a JSON payload such as peerIP,
    /// credentials[0][1], or `a["key.with.dots"]`. A message without that field, such as one whose payload
    /// is no JSON, meets != and !~ alone.
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    pub(crate) conditions: Vec<Condition>,

    /// Print only these fields, named as for --where and with commas between them: with tabs between the
    /// values, or as a JSON object with --format ndjson. One that is missing is empty, or null.
    #[arg(long, value_name = "FIELD,…", value_parser = fields)]
    fields: Option<Fields>,

    /// Print no messages, but at the end (Ctrl-C) how many there were by channel, ident and each of
    /// --fields; with --format ndjson as JSON. A table tells 10000 values apart and shows the 20 most
    /// frequent, and how many messages the others have.
    #[arg(long)]
    pub(crate) report: bool,

    /// Print the report of all messages so far again after each such time.
    #[arg(long, value_name = "SECONDS", requires = "report", allow_negative_numbers = true, value_parser = seconds)]
    pub(crate) report_every: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// `[channel] ident: payload`, one line each; what a terminal would act on is escaped.
    Line,
    /// The same, but a payload that is a JSON object or array has a line for each member and element,
    /// in their order, with colours on a terminal (without `NO_COLOR`).
    Pretty,
    /// A JSON object a line: time, ident, channel, and payload, or `payload_base64` when it is not
    /// UTF-8; of a mailbox also position.
    Ndjson,
    /// The payload's bytes and nothing else, not even a newline; not to a terminal.
    Raw,
}

/// The fields of `--fields`; a list of its own, as clap takes a `Vec` for an option given many times.
#[derive(Debug, Clone)]
struct Fields(Vec<Field>);

fn fields(text: &str) -> Result<Fields, String> {
    Field::parse_list(text).map(Fields)
}

impl ShowArgs {
    /// The format that is asked for.
    pub(crate) fn format(&self) -> Option<Format> {
        if self.pretty { Some(Format::Pretty) } else { self.format }
    }

    /// The fields that are asked for.
    pub(crate) fn fields(&self) -> Option<&[Field]> {
        self.fields.as_ref().map(|fields| &*fields.0)
    }

    /// Whether programs read the output.
    pub(crate) fn is_for_programs(&self) -> bool {
        self.format() == Some(Format::Ndjson)
    }
}

impl SubscribeArgs {
    /// Takes the channels without an option to the others.
    pub(crate) fn gather(&mut self) {
        self.channels.channels.append(&mut self.more);
    }

    /// Checks what goes with what.
    pub(crate) fn check(&self) -> Result<(), (ErrorKind, String)> {
        let conflict = |message: &str| Err((ErrorKind::ArgumentConflict, message.to_owned()));
        let format = self.show.format();
        if self.save_dir.is_some() && format == Some(Format::Raw) {
            return conflict("--save-dir prints where each payload is stored, which --format raw has no place for");
        }
        let is_laid_out = matches!(format, Some(Format::Raw | Format::Pretty));
        if self.show.report {
            if is_laid_out {
                return conflict("--report prints text, or JSON with --format ndjson");
            }
            if self.save_dir.is_some() {
                return conflict("--report prints no messages, so there can be no --save-dir");
            }
            if self.beginning.commits() {
                return conflict(
                    "--report prints no messages, and with --mailbox it would take them out of the mailbox: leave one out",
                );
            }
        } else if self.show.fields.is_some() {
            if is_laid_out {
                return conflict("--fields prints values with tabs between them, or JSON with --format ndjson");
            }
            if self.save_dir.is_some() {
                return conflict("--save-dir prints where each payload is stored, which --fields has no place for");
            }
        }
        self.beginning.check().map_err(|message| (ErrorKind::ArgumentConflict, message.to_owned()))
    }
}
