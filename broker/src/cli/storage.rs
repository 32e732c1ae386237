//! Arguments about the store: data folder, mailboxes, last values, journal.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use hpfeeds::{units, wire::Pattern};

use super::values::{Period, parse_period, parse_seconds};
use crate::{
    builder::BrokerBuilder,
    journal::{mailbox::spec::MailboxSpec, options::JournalFull},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Storage {
    /// A folder in which messages are stored that mailboxes want
    ///
    /// It is made where it is missing, readable for this user alone, and locked: a second broker
    /// does not start on it.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The longest wait at the start for another broker that uses the folder
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds, requires = "data_dir")]
    data_dir_wait: Duration,

    /// Allow a folder on a network file system, where locks and syncs mean less
    #[arg(long)]
    allow_network_fs: bool,

    /// A mailbox: IDENT=PATTERN,… stores messages for a collector while it is away (repeatable)
    ///
    /// 'collector=cowrie.*,dionaea.capture' for the ident collector; IDENT/NAME=… is another one of
    /// the same ident; IDENT=auto stores all that the ident has ever subscribed to. Options stand
    /// behind: :max-age=2d passes older messages over; :redeliver=30s|8M is what a collector gets
    /// again that acknowledges nothing; :skip-after=5 gives a message up on which it crashed so
    /// often.
    #[arg(long, value_name = "MAILBOX", requires = "data_dir")]
    mailbox: Vec<MailboxSpec>,

    /// The time after which a mailbox without a connection is forgotten; 0: never
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_period, requires = "data_dir")]
    mailbox_expire: Period,

    /// Channels of which new subscribers get the newest message at once (repeatable)
    ///
    /// At most 10,000 channels and 64M. A client that only connects again gets it again.
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern, requires = "data_dir")]
    last_value: Vec<Pattern>,

    /// The most that is stored, at least 8M; never more than half of the file system
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = units::size, requires = "data_dir")]
    journal_max_bytes: u64,

    /// The age at which messages go, delivered or not; 0: never
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_period, requires = "data_dir")]
    journal_max_age: Period,

    /// The longest time between two syncs of the disk while nobody waits for a confirmation
    ///
    /// A power cut may cost so much of what clients have sent that ask for no confirmation.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds, requires = "data_dir")]
    journal_sync: Duration,

    /// The policy when the journal is full and all of it is wanted
    ///
    /// drop-oldest: the oldest messages go, counted for each mailbox that wanted them. wait: clients
    /// that ask for confirmation are not read until there is room, and others are live only after
    /// 30 seconds.
    #[arg(long, value_name = "POLICY", default_value = "drop-oldest", requires = "data_dir")]
    journal_full: Policy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    DropOldest,
    Wait,
}

impl Storage {
    pub(crate) fn apply(&self, mut builder: BrokerBuilder) -> BrokerBuilder {
        if let Some(dir) = &self.data_dir {
            builder = builder.data_dir(dir);
        }
        for spec in &self.mailbox {
            builder = builder.mailbox_spec(spec.clone());
        }
        for pattern in &self.last_value {
            builder = builder.last_value(pattern.clone());
        }
        builder
            .data_dir_wait(self.data_dir_wait)
            .allow_network_fs(self.allow_network_fs)
            .mailbox_expire(self.mailbox_expire.0)
            .journal_max_bytes(self.journal_max_bytes)
            .journal_max_age(self.journal_max_age.0)
            .journal_sync(self.journal_sync)
            .journal_full(match self.journal_full {
                Policy::DropOldest => JournalFull::DropOldest,
                Policy::Wait => JournalFull::Wait,
            })
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::new(text).map_err(|cause| format!("the pattern {cause}"))?;
    if pattern.has_literal_star() {
        return Err("the `*` stands for itself there: a pattern is a channel, prefix.* or *".to_owned());
    }
    Ok(pattern)
}
