//! The store of a broker: the journal of a data folder with its mailboxes, opened and closed
//! together.

use std::{sync::Arc, time::Duration};

use hpfeeds::log::{Disk, Log, LogError, LogOptions, OpenReport};

use super::{
    handle::{Journal, JournalThread},
    mailbox::spec::MailboxSpec,
    options::JournalOptions,
    post::{Mailboxes, PostKeeper, PostReport},
    table_log::TableLog,
};

/// The bound of dead letters, of which the oldest go.
const DEAD_BYTES: u64 = 64 << 20;

/// The settings of a store.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreOptions {
    pub(crate) journal: JournalOptions,
    pub(crate) mailboxes: Vec<MailboxSpec>,
    /// Mailboxes without a connection for so long are forgotten.
    pub(crate) expire: Option<Duration>,
}

/// The disks of a store, one for each folder.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    pub(crate) journal: Arc<dyn Disk>,
    pub(crate) cursors: Arc<dyn Disk>,
    /// For messages that are passed over.
    pub(crate) dead: Option<Arc<dyn Disk>>,
}

/// A journal and its mailboxes.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) journal: Journal,
    pub(crate) mailboxes: Mailboxes,
    /// What the opening has found, for the broker's log and its table of streams.
    pub(crate) report: PostReport,
    pub(crate) opened: OpenReport,
    thread: JournalThread,
}

impl Store {
    /// Opens a store, and starts its writer. Blocks.
    pub(crate) fn open(disks: Disks, options: StoreOptions) -> Result<Self, LogError> {
        let StoreOptions { journal, mailboxes, expire } = options;
        let opening = Opening::open(&disks)?;
        let mut post = None;
        let (thread, journal, opened) = JournalThread::start(disks.journal, journal, |log| {
            let (keeper, mailboxes, report) = opening.keeper(mailboxes, expire, log);
            post = Some((mailboxes, report));
            keeper
        })?;
        let Some((mailboxes, report)) = post else { return Err(LogError::Failed) };
        Ok(Self { journal, mailboxes, report, opened, thread })
    }

    /// Makes everything durable, and ends the writer. Blocks. Returns whether all of it has worked.
    pub(crate) fn close(self) -> bool {
        self.thread.close()
    }
}

/// The parts that are opened before the journal is.
pub(super) struct Opening {
    table: TableLog,
    damaged: u64,
    dead: Option<Log>,
}

impl Opening {
    pub(super) fn open(disks: &Disks) -> Result<Self, LogError> {
        let (table, found) = TableLog::open(Arc::clone(&disks.cursors))?;
        let options = LogOptions::default().max_bytes(DEAD_BYTES);
        let dead = disks.dead.as_ref().map(|disk| Log::open(Arc::clone(disk), &options));
        let dead = dead.transpose()?.map(|(log, _)| log);
        Ok(Self { table, damaged: found.lost, dead })
    }

    pub(super) fn keeper(
        self,
        specs: Vec<MailboxSpec>,
        expire: Option<Duration>,
        journal: &Log,
    ) -> (PostKeeper, Mailboxes, PostReport) {
        PostKeeper::open(specs, self.table, self.dead, self.damaged, expire, journal)
    }
}
