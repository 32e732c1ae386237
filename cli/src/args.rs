//! The command line: its clap definition, and the checks of what goes with what.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueHint, error::ErrorKind,
};
use clap_complete::Shell;
use hpfeeds::Channel;

#[cfg(feature = "demo")]
use crate::demo::args::DemoArgs;
#[cfg(unix)]
use crate::spool::args::{SpoolAction, SpoolArgs};
#[cfg(feature = "top")]
use crate::top::args::TopArgs;
use crate::{
    bench::args::BenchArgs,
    channels::ChannelArgs,
    connection::ConnectionArgs,
    delivery::{PatienceArgs, SpoolingArgs},
    doctor::args::DoctorArgs,
    pace::{Speed, speed},
    subscribe::args::SubscribeArgs,
    values::seconds,
};

const AFTER_HELP: &str = "\
Exit codes:
  0    done; for publish and sendfile: the broker has read everything and refused nothing
  1    the network, the broker or a file failed; stderr says what is not sent or confirmed
  2    the command line makes no sense
  3    the broker does not accept the ident and secret
  4    the broker does not let this key use a channel, or has no such mailbox
  5    subscribe: --timeout passed before enough messages arrived
  6    publish: --skip-long or --skip-bad left lines out; the broker has read all others
  7    with --spool, and spool drain: the rest is on disk, and the next run sends it
  8    spool: something in it is damaged or missing
  130  publish, sendfile: ended by Ctrl-C before everything was sent (143: by SIGTERM)

Environment:
  HPFEEDS_URL stands in for --url where no option says where the broker is. Without it,
  HPFEEDS_HOST, HPFEEDS_PORT, HPFEEDS_IDENT and HPFEEDS_SECRET stand in for the options of
  these names: one whose option is given is not read, and an empty one counts as not set.
  Give the secret this way: others on this machine can read a command line.

The connection options work before and after the action.";

/// Receives, publishes and sends files over hpfeeds.
#[derive(Debug, Parser)]
#[command(name = "hpfeeds", version, after_help = AFTER_HELP, arg_required_else_help = true,
    subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub(crate) struct Cli {
    /// Channel; can be given many times, before and after the action.
    #[arg(
        id = "channels_before",
        short = 'c',
        long = "chan",
        value_name = "CHANNEL",
        help_heading = "Connection",
        allow_hyphen_values = true
    )]
    channels: Vec<Channel>,

    // Before the action, as the Python tool has it; documented where it belongs.
    #[arg(id = "output_before", short = 'o', long = "output", value_name = "FILE", hide = true,
        value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,

    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print the messages of channels as they arrive.
    ///
    /// Connects again by itself, for ever, when the connection is lost. Only the first connection
    /// must work. Events of the connection are told on stderr.
    Subscribe(SubscribeArgs),

    /// Publish a message, or one for each line of stdin.
    ///
    /// Exits with 0 only when the broker has read everything and refused nothing. To forward one
    /// broker to another: hpfeeds subscribe … --format ndjson | hpfeeds publish … --ndjson
    Publish(PublishArgs),

    /// Publish files, each as one message.
    ///
    /// Exits with 0 only when the broker has read everything and refused nothing.
    Sendfile(SendfileArgs),

    /// Find out which link of the chain to a broker is broken.
    ///
    /// Checks the settings, the clock, DNS, TCP, TLS and the certificate, the broker's greeting, the
    /// key and the channels, one after the other, and says on the line below each fault what to do.
    /// Needs no key for what comes before the key. Prints no secret: paste it where you ask for help.
    ///
    /// Ends with the code of the first problem, as any other action would, and with 0 when there are
    /// only warnings.
    Doctor(DoctorArgs),

    /// Watch a broker: which sensor is gone or silent, what was refused, messages as they come.
    ///
    /// Shows what its dashboard has (hpfeeds-broker --dashboard ADDR), in the terminal. The address is
    /// `http://127.0.0.1:9432` unless --url or the variable `HPFEEDS_TOP_URL` says another, and may hold
    /// the token as the broker prints both: `http://HOST:PORT/#token=TOKEN`. Others on this machine can
    /// read a command line: give the token by --token-file, or in the variable `HPFEEDS_TOP_URL` or
    /// `HPFEEDS_TOP_TOKEN`. The options of TLS are for an address that begins with https.
    ///
    /// Exit code 0 unless the dashboard cannot be asked; 3 when it does not take the token.
    #[cfg(feature = "top")]
    Top(TopArgs),

    #[cfg(not(feature = "top"))]
    #[command(hide = true, disable_help_flag = true)]
    Top {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        ignored: Vec<OsString>,
    },

    /// Run a broker, four imagined honeypots and a subscriber, to look at.
    ///
    /// All in this process and on this machine alone; nothing is stored. Prints the events as
    /// `subscribe` does, and on stderr the address of the broker and of its dashboard. Ends on Ctrl-C.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),

    #[cfg(not(feature = "demo"))]
    #[command(hide = true, disable_help_flag = true)]
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        ignored: Vec<OsString>,
    },

    /// Measure what a broker can do; every message is numbered and verified.
    ///
    /// Without --host or --port (or their variables) it starts an hpfeeds-broker for itself, on
    /// this machine. Exits with 1 when a message is lost, repeated or changed.
    Bench(BenchArgs),

    /// Look at a spool, in which `publish` and `sendfile` keep what a broker has not confirmed.
    #[cfg(unix)]
    Spool(SpoolArgs),

    /// Print a script that completes these arguments in a shell.
    ///
    /// For bash: hpfeeds completions bash > ~/.local/share/bash-completion/completions/hpfeeds
    Completions(CompletionsArgs),

    /// Write the manual pages of this program and its actions into a folder.
    ///
    /// For one user: hpfeeds man ~/.local/share/man/man1
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) channels: ChannelArgs,

    #[command(flatten)]
    pub(crate) patience: PatienceArgs,

    /// The message; several are joined by a space. Without it, or when it is `-`, all of stdin is
    /// the message.
    #[arg(value_name = "DATA", allow_negative_numbers = true)]
    pub(crate) data: Vec<OsString>,

    /// Publish each line of stdin as a message, as it comes. An empty line is an empty message.
    #[arg(short, long)]
    pub(crate) lines: bool,

    /// Leave out lines that are longer than a message can be, and publish the others; exit code 6
    /// if there were any.
    #[arg(long, requires = "lines")]
    pub(crate) skip_long: bool,

    #[command(flatten)]
    pub(crate) recording: RecordingArgs,

    #[command(flatten)]
    pub(crate) spooling: SpoolingArgs,
}

/// A recording of `subscribe --format ndjson`, and how it is played.
#[derive(Debug, Args)]
pub(crate) struct RecordingArgs {
    /// Publish each line of stdin as the message that it was for `subscribe --format ndjson`, on its
    /// channel, or on those of --chan instead. Its ident is ignored: the broker names the publisher
    /// by the key of this connection. A line that is no message, or too long for one, ends it, when
    /// all before it are published. Empty lines and other fields are ignored.
    #[arg(long, conflicts_with = "lines")]
    pub(crate) ndjson: bool,

    /// Leave out lines that are no message, or too long for one, and publish the others; exit code 6
    /// if there were any.
    // A conflict takes away what is required, so it is named beside it.
    #[arg(long, requires = "ndjson", conflicts_with = "lines")]
    pub(crate) skip_bad: bool,

    /// Play a recording by the times of its lines: 1 as fast as it was, 10 ten times as fast, max as
    /// fast as the broker takes it. A time before that of an earlier line does not wait.
    #[arg(long, value_name = "SPEED", requires = "ndjson", conflicts_with = "lines", value_parser = speed, default_value = "max")]
    pub(crate) speed: Speed,

    /// With --speed, wait for no line longer than this after the one before it, and say so.
    #[arg(long, value_name = "SECONDS", requires = "speed", allow_negative_numbers = true, value_parser = seconds,
        default_value = "3600")]
    pub(crate) max_gap: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct SendfileArgs {
    #[command(flatten)]
    pub(crate) channels: ChannelArgs,

    #[command(flatten)]
    pub(crate) patience: PatienceArgs,

    #[command(flatten)]
    pub(crate) spooling: SpoolingArgs,

    /// The files. Their names are not sent.
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder, which must exist.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,
}

impl Cli {
    /// The checked command line of this process, or what to print instead.
    pub(crate) fn from_arguments() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))?;
        cli.settle(&matches).map_err(|(kind, message)| Self::command().error(kind, message))?;
        Ok(cli)
    }

    /// Brings together what stands before and after the action, and checks what goes with what.
    fn settle(&mut self, matches: &ArgMatches) -> Result<(), (ErrorKind, String)> {
        let before = std::mem::take(&mut self.channels);
        let output = self.output.take();
        let misplaced = output.is_some();
        let mut may_lack_channels = false;
        let channels = match &mut self.action {
            Action::Subscribe(args) => {
                args.output = args.output.take().or(output);
                args.gather();
                args.check()?;
                &mut args.channels
            }
            _ if misplaced => {
                return Err((ErrorKind::ArgumentConflict, "--output FILE is for subscribe".to_owned()));
            }
            Action::Publish(args) => {
                args.check()?;
                // Its lines may name their channels.
                may_lack_channels = args.recording.ndjson;
                &mut args.channels
            }
            Action::Sendfile(args) => &mut args.channels,
            Action::Doctor(args) => return args.settle(before, &mut self.connection),
            #[cfg(feature = "top")]
            Action::Top(args) => {
                self.connection.check_for_dashboard()?;
                return args.settle();
            }
            #[cfg(not(feature = "top"))]
            Action::Top { .. } => return Ok(()),
            Action::Demo { .. } => return Ok(()),
            Action::Bench(args) => {
                self.connection.complete()?;
                let needs_key = args.settle(before, &self.connection, matches)?;
                return if needs_key { self.connection.check() } else { Ok(()) };
            }
            #[cfg(unix)]
            Action::Spool(SpoolArgs { action: SpoolAction::Drain { .. } }) => {
                self.connection.complete()?;
                return self.connection.check();
            }
            #[cfg(unix)]
            Action::Spool(_) => return Ok(()),
            Action::Completions(_) | Action::Man(_) => return Ok(()),
        };
        channels.complete(before);
        self.connection.complete()?;
        channels.check(may_lack_channels, self.connection.channels())?;
        self.connection.check()
    }
}

impl PublishArgs {
    /// Whether the message is to be read from stdin.
    pub(crate) fn is_from_stdin(&self) -> bool {
        self.data.is_empty() || self.data == ["-"]
    }

    /// Whether each line of stdin is a message.
    pub(crate) fn is_by_line(&self) -> bool {
        self.lines || self.recording.ndjson
    }

    fn check(&self) -> Result<(), (ErrorKind, String)> {
        if self.is_by_line() && !self.is_from_stdin() {
            let option = if self.lines { "--lines" } else { "--ndjson" };
            let message =
                format!("{option} reads the messages from stdin, so there can be no DATA on the command line");
            return Err((ErrorKind::ArgumentConflict, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
