//! Exit codes, and the one line on stderr that says why.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::error::ErrorKind;
use hpfeeds::Error;

use crate::escape::Escaped;

/// The network, a file, the broker: something did not work.
pub(crate) const FAILED: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The broker does not accept the ident and secret.
pub(crate) const REJECTED: u8 = 3;
/// The broker does not let this key use a channel.
pub(crate) const DENIED: u8 = 4;
/// `--timeout` passed before enough messages arrived.
pub(crate) const TOO_FEW: u8 = 5;

/// `--skip-long` or `--skip-bad` left lines out, and everything else was sent and confirmed.
pub(crate) const SKIPPED: u8 = 6;

/// Messages are left in a spool.
pub(crate) const SPOOLED: u8 = 7;

/// Something in a spool is damaged or missing.
#[cfg(unix)]
pub(crate) const DAMAGED: u8 = 8;

/// Why the exit code is not 0.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Nothing when it has been said already.
    message: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::with_code(FAILED, message)
    }

    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }

    pub(crate) fn silent(code: u8) -> Self {
        Self { code, message: None }
    }

    /// Adds to the message.
    pub(crate) fn and(mut self, more: impl fmt::Display) -> Self {
        self.message = self.message.map(|message| format!("{message}; {more}"));
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::with_code(code(&error), error.to_string())
    }
}

/// The exit code for an error of the library.
pub(crate) fn code(error: &Error) -> u8 {
    if error.is_rejected() {
        REJECTED
    } else if error.is_denied() {
        DENIED
    } else if error.spooled() > 0 {
        SPOOLED
    } else if error.is_usage() {
        USAGE
    } else {
        FAILED
    }
}

/// How many messages, in words.
pub(crate) fn messages(n: u64) -> String {
    count(n, "message")
}

/// How many of something, in words.
pub(crate) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Says something on stderr. A stderr that is gone is no reason to stop.
pub(crate) fn notice(message: impl fmt::Display) {
    let line = format!("hpfeeds: {message}\n");
    // One write, so that lines of several processes on one terminal do not mix.
    drop(io::stderr().write_all(line.as_bytes()));
}

pub(crate) fn report(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if let Some(message) = message {
                notice(Escaped(message.as_bytes()));
            }
            code.into()
        }
    }
}

/// Prints what the command-line parser has to say: help, the version, or what is wrong.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // To a closed pipe is as good as printed.
            drop(error.print());
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            drop(write!(io::stderr(), "hpfeeds: {text}"));
        }
    }
    u8::try_from(error.exit_code()).unwrap_or(USAGE).into()
}
