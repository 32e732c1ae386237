//! The builder's options of the store: data folder, journal, mailboxes, last values.

use std::{path::PathBuf, time::Duration};

use hpfeeds::wire::Pattern;

use super::BrokerBuilder;
use crate::journal::{
    mailbox::spec::{MailboxError, MailboxSpec},
    options::JournalFull,
};

impl BrokerBuilder {
    /// The data folder, in which the broker stores what [mailboxes](Self::mailbox) want. It is made
    /// where it is missing, with mode 0700, and locked while the broker runs. Default: none, and
    /// nothing is stored.
    ///
    /// With a data folder, publishers that speak the extension `hpx/1` get their confirmation only
    /// after all that a mailbox wants of a message is synced to the disk.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.storage.dir = Some(path.into());
        self
    }

    /// How long the start waits for another process that uses the data folder, as in a rolling
    /// update. Default: zero, and the start fails at once with an error that names that process.
    pub fn data_dir_wait(mut self, wait: Duration) -> Self {
        self.config.storage.wait = wait;
        self
    }

    /// Whether the data folder may be on a network file system, where locks and syncs mean less.
    /// Default: no.
    pub fn allow_network_fs(mut self, allowed: bool) -> Self {
        self.config.storage.allows_network_fs = allowed;
        self
    }

    /// Declares a mailbox: `collector=cowrie.*,dionaea.capture`. All messages on these channels are
    /// stored for the ident `collector`, and it gets those that it has missed when it subscribes to
    /// them. `IDENT/NAME=…` is a further one of the same ident, for clients that name it, and
    /// `IDENT=auto` wants all that the ident has ever subscribed to.
    ///
    /// Options stand behind the patterns: `:max-age=2d` passes older messages over,
    /// `:redeliver=30s|8M` is what a collector that acknowledges nothing gets again after its end,
    /// and `:skip-after=5` gives a message up on which the collector has crashed so often.
    ///
    /// Needs a [data folder](Self::data_dir).
    pub fn mailbox(self, declaration: &str) -> Result<Self, MailboxError> {
        Ok(self.mailbox_spec(declaration.parse::<MailboxSpec>()?))
    }

    pub(crate) fn mailbox_spec(mut self, spec: MailboxSpec) -> Self {
        self.config.storage.mailboxes.push(spec);
        self
    }

    /// The time after which a mailbox without a connection is forgotten, with what it has not
    /// delivered. `None`: never. Default: 30 days.
    pub fn mailbox_expire(mut self, after: Option<Duration>) -> Self {
        self.config.storage.expire = after;
        self
    }

    /// Keeps the newest message of each channel that a pattern stands for, for at most 10,000
    /// channels and 64 MiB, through restarts. A new subscriber gets it at once, and so does one that
    /// has only connected again. Default: none. Needs a [data folder](Self::data_dir).
    pub fn last_value(mut self, pattern: Pattern) -> Self {
        self.config.storage.last_values.push(pattern);
        self
    }

    /// Makes the journal a relay's: everything that is published is stored, nobody waits for the
    /// disk, and no ident has a share.
    #[cfg(feature = "cli")]
    pub(crate) fn store_all(mut self) -> Self {
        self.config.storage.is_relay = true;
        self
    }

    /// The limit of the journal in bytes; never more than half of its file system. Default: 10 GiB,
    /// at least 8 MiB. The policy at the limit is [`journal_full`](Self::journal_full).
    pub fn journal_max_bytes(mut self, bytes: u64) -> Self {
        self.config.storage.journal.max_bytes = bytes;
        self
    }

    /// The age at which messages go, delivered or not. `None`: none. Default: 7 days.
    pub fn journal_max_age(mut self, age: Option<Duration>) -> Self {
        self.config.storage.journal.max_age = age;
        self
    }

    /// How long a message may wait for its sync while nobody waits for its confirmation: a power
    /// cut may cost so much of what unmodified publishers have sent. Default: 1 s, at most an hour.
    pub fn journal_sync(mut self, interval: Duration) -> Self {
        self.config.storage.journal.sync = interval;
        self
    }

    /// The policy of a journal that holds as much as it may, and all of that is wanted. Default:
    /// [`JournalFull::DropOldest`].
    pub fn journal_full(mut self, policy: JournalFull) -> Self {
        self.config.storage.journal.when_full = policy;
        self
    }
}
