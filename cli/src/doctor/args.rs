//! The command line of `doctor`.

use std::time::Duration;

use clap::{Args, error::ErrorKind};
use hpfeeds::Channel;

use crate::{
    connection::{ConnectionArgs, Origin},
    values::seconds,
};

/// The channels that are checked at most: each can cost a connection of its own.
const MAX_CHANNELS: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Channel to subscribe to, as a check; can be given many times.
    #[arg(short = 'c', long = "chan", value_name = "CHANNEL", help_heading = "Connection", allow_hyphen_values = true)]
    pub(crate) channels: Vec<Channel>,

    /// Publish to this channel and wait for what comes back: 1 KiB, 64 KiB and the largest message.
    /// Everybody who is subscribed to it gets these, so take one for tests.
    #[arg(long, value_name = "CHANNEL", allow_hyphen_values = true)]
    pub(crate) echo: Option<Channel>,

    /// Listen on the channels for this time, and count who publishes.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(crate) listen: Option<Duration>,

    /// Warn of a certificate that expires within N days.
    #[arg(long, value_name = "N", default_value = "14")]
    pub(crate) cert_days: u32,

    /// The longest time of each check, instead of its own (3 to 10 seconds).
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,

    /// Count warnings as problems.
    #[arg(long)]
    pub(crate) strict: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Where the settings come from.
    #[arg(skip)]
    pub(crate) given: Given,
}

/// The form of the report.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print only what is wrong, and the summary.
    #[arg(long, conflicts_with_all = ["json", "nagios"])]
    pub(crate) short: bool,

    /// Print one JSON object instead of text.
    #[arg(long, conflicts_with = "nagios")]
    pub(crate) json: bool,

    /// Print one line for Nagios or Icinga, and end with their codes: 0 OK, 1 WARNING, 2 CRITICAL,
    /// 3 UNKNOWN (the command line makes no sense).
    #[arg(long)]
    pub(crate) nagios: bool,
}

/// The settings of the command line that a variable could have given as well.
#[derive(Debug, Default, Clone)]
pub(crate) struct Given {
    /// The name of each setting, and whether a variable is not used because the command line gives
    /// something else.
    pub(crate) settings: Vec<(&'static str, Origin)>,
}

impl DoctorArgs {
    /// Takes what stands before the action, completes the connection, and checks what goes with
    /// what. A key is not needed, but for the checks that use it.
    pub(crate) fn settle(
        &mut self,
        before: Vec<Channel>,
        connection: &mut ConnectionArgs,
    ) -> Result<(), (ErrorKind, String)> {
        self.given.settings = connection.origins();
        connection.complete()?;
        for (name, origin) in &mut self.given.settings {
            if connection.of_url().contains(name) {
                *origin = Origin::Url;
            }
        }
        let mut after = std::mem::take(&mut self.channels);
        if before.is_empty() && after.is_empty() {
            after = connection.channels().to_vec();
        }
        for channel in before.into_iter().chain(after) {
            if !self.channels.contains(&channel) {
                self.channels.push(channel);
            }
        }
        if self.channels.len() > MAX_CHANNELS {
            let message = format!("at most {MAX_CHANNELS} channels can be checked at once");
            return Err((ErrorKind::TooManyValues, message));
        }
        if self.listen.is_some() && self.channels.is_empty() {
            let message = "--listen SECONDS needs a channel to listen on: give at least one with --chan CHANNEL";
            return Err((ErrorKind::MissingRequiredArgument, message.to_owned()));
        }
        if self.channels.is_empty() && self.echo.is_none() {
            connection.check_client_certificate()
        } else {
            connection.check()
        }
    }
}
