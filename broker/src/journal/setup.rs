//! The setup of a store: what an operator has configured, its checks, and the opening of the data
//! folder.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use hpfeeds::wire::{Pattern, extension::NodeId};

#[cfg(unix)]
use super::{
    data_dir::DataDir,
    store::{Disks, StoreOptions},
};
use super::{mailbox::spec::MailboxSpec, options::JournalOptions, store::Store};

/// The least limit of a journal, in bytes.
const LEAST_BYTES: u64 = 8 << 20;
/// The longest time between two syncs.
const LONGEST_SYNC: Duration = Duration::from_secs(3600);
/// A journal of less than 512 MiB has eight segments.
const SEGMENTS: u64 = 8;
/// The most mailboxes of one broker.
const MOST_MAILBOXES: usize = 1000;

/// The configuration of a store.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The data folder; without one, nothing is stored.
    pub(crate) dir: Option<PathBuf>,
    /// How long another process may go on using the folder.
    pub(crate) wait: Duration,
    pub(crate) allows_network_fs: bool,
    pub(crate) journal: JournalOptions,
    pub(crate) mailboxes: Vec<MailboxSpec>,
    /// Channels whose newest message is kept.
    pub(crate) last_values: Vec<Pattern>,
    /// Mailboxes without a connection for so long are forgotten.
    pub(crate) expire: Option<Duration>,
    /// Whether the journal is a relay's: everything that is published is stored, publishers do not
    /// wait while the disk cannot follow, and have no shares.
    pub(crate) is_relay: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dir: None,
            wait: Duration::ZERO,
            allows_network_fs: false,
            journal: JournalOptions::default(),
            mailboxes: Vec::new(),
            last_values: Vec::new(),
            expire: Some(Duration::from_secs(30 * 24 * 3600)),
            is_relay: false,
        }
    }
}

impl Setup {
    /// The fault of the options, alone or together, if they have one.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        if let Some(spec) = self.mailboxes.iter().find(|spec| !names.insert(&spec.name)) {
            return Err(format!("the mailbox {} is declared twice: name all of its channels in one place", spec.name));
        }
        if self.mailboxes.len() > MOST_MAILBOXES {
            return Err(format!("{} mailboxes are declared: at most {MOST_MAILBOXES} are possible", names.len()));
        }
        if let Some(pattern) = self.last_values.iter().find(|pattern| pattern.has_literal_star()) {
            return Err(format!("in `{pattern}` the `*` stands for itself: a pattern is a channel, prefix.* or *"));
        }
        if self.dir.is_none() {
            let needs = |what: &str| Err(format!("{what} need a data folder: name one with --data-dir"));
            if !self.mailboxes.is_empty() {
                return needs("mailboxes");
            }
            if !self.last_values.is_empty() {
                return needs("last values");
            }
        }
        let max_bytes = self.journal.max_bytes;
        if max_bytes < LEAST_BYTES {
            return Err(format!("the journal has at most {max_bytes} bytes: it needs at least {LEAST_BYTES}"));
        }
        if self.journal.sync > LONGEST_SYNC {
            return Err("the journal would be synced less than once an hour".to_owned());
        }
        Ok(())
    }

    /// The options of the journal, with segments that fit its limit.
    fn journal(&self) -> JournalOptions {
        let longest = self.journal.segment_bytes;
        JournalOptions { segment_bytes: (self.journal.max_bytes / SEGMENTS).min(longest), ..self.journal.clone() }
    }
}

#[cfg(unix)]
impl Setup {
    /// Locks the data folder, if there is one, and opens the store in it. Blocks. An error is one
    /// line that names the folder.
    pub(crate) fn open(self) -> Result<Option<(Store, NodeId)>, String> {
        let Some(path) = &self.dir else { return Ok(None) };
        let dir = DataDir::open(path, self.wait, self.allows_network_fs).map_err(|cause| fault(path, &cause))?;
        let disks = Disks::of(dir, !self.last_values.is_empty());
        let (disks, node) = disks.map_err(|cause| fault(path, &cause))?;
        let options = StoreOptions {
            journal: self.journal(),
            mailboxes: self.mailboxes,
            last_values: self.last_values,
            has_shares: !self.is_relay,
            expire: self.expire,
        };
        let store = Store::open(disks, options).map_err(|cause| fault(path, &cause))?;
        Ok(Some((store, node)))
    }
}

#[cfg(not(unix))]
impl Setup {
    /// The lock and the syncs of a data folder are those of Unix.
    pub(crate) fn open(self) -> Result<Option<(Store, NodeId)>, String> {
        match self.dir {
            None => Ok(None),
            Some(path) => Err(fault(&path, &"this system has no locks and syncs as on Unix")),
        }
    }
}

fn fault(path: &Path, cause: &dyn fmt::Display) -> String {
    format!("the data folder {} cannot be used: {cause}", path.display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn with_folder() -> Setup {
        Setup { dir: Some("data".into()), ..Setup::default() }
    }

    #[test]
    fn options_that_make_no_sense_are_named() {
        let mailboxes = |specs: &[&str]| specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let journal = |max_bytes, sync| JournalOptions { max_bytes, sync, ..JournalOptions::default() };
        let cases = [
            (Setup::default(), None),
            (with_folder(), None),
            (Setup { mailboxes: mailboxes(&["a=x", "a/n=x", "b=x"]), ..with_folder() }, None),
            (Setup { mailboxes: mailboxes(&["a=x"]), ..Setup::default() }, Some("mailboxes need a data folder")),
            (
                Setup { last_values: vec![Pattern::new("a.*").unwrap()], ..Setup::default() },
                Some("last values need a data folder"),
            ),
            (
                Setup { mailboxes: mailboxes(&["a/n=x", "a=x", "a/n=y"]), ..with_folder() },
                Some("the mailbox a/n is declared twice"),
            ),
            (
                Setup { last_values: vec![Pattern::new("a*").unwrap()], ..with_folder() },
                Some("in `a*` the `*` stands for itself"),
            ),
            (
                Setup { journal: journal(1 << 20, Duration::ZERO), ..with_folder() },
                Some("the journal has at most 1048576"),
            ),
            (
                Setup { journal: journal(8 << 20, Duration::from_secs(3601)), ..with_folder() },
                Some("the journal would be synced less than once an hour"),
            ),
        ];
        for (setup, expected) in cases {
            let fault = setup.check().err();
            assert_eq!(fault.is_some(), expected.is_some(), "{fault:?}");
            let begins = fault.iter().zip(&expected).all(|(fault, expected)| fault.starts_with(expected));
            assert!(begins, "{fault:?} is not {expected:?}");
        }
    }

    #[test]
    fn segments_fit_the_limit_of_the_journal() {
        let bytes = |max_bytes| {
            let journal = JournalOptions { max_bytes, ..JournalOptions::default() };
            Setup { journal, ..with_folder() }.journal().segment_bytes
        };
        assert_eq!((bytes(8 << 20), bytes(512 << 20), bytes(10 << 30)), (1 << 20, 64 << 20, 64 << 20));
    }
}
