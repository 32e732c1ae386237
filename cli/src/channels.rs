//! The channels of the command line: those before and after the action, and those of the URL.

use clap::{Args, error::ErrorKind};
use hpfeeds::Channel;

#[derive(Debug, Args)]
pub(crate) struct ChannelArgs {
    /// Channel; can be given many times.
    #[arg(short = 'c', long = "chan", value_name = "CHANNEL", help_heading = "Connection", allow_hyphen_values = true)]
    pub(crate) channels: Vec<Channel>,
}

impl ChannelArgs {
    /// Each channel once: a message must not go twice to the same one.
    pub(crate) fn complete(&mut self, before: Vec<Channel>) {
        let after = std::mem::take(&mut self.channels);
        for channel in before.into_iter().chain(after) {
            if !self.channels.contains(&channel) {
                self.channels.push(channel);
            }
        }
    }

    /// Takes the channels of the URL where no option names one.
    pub(crate) fn check(&mut self, may_lack: bool, of_url: &[Channel]) -> Result<(), (ErrorKind, String)> {
        if self.channels.is_empty() && !may_lack {
            self.channels.extend_from_slice(of_url);
        }
        if self.channels.is_empty() && !may_lack {
            let message = "no channel: give at least one with --chan CHANNEL, or in the URL";
            return Err((ErrorKind::MissingRequiredArgument, message.to_owned()));
        }
        Ok(())
    }
}
