//! The store of a broker: the journal of a data folder with its mailboxes, opened and closed
//! together.

use std::{
    any::Any,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hpfeeds::{
    log::{Disk, Log, LogError, LogOptions, OpenReport},
    wire::Pattern,
};

use tokio::time::Instant;

use super::{
    attachment::Attachment,
    handle::{Journal, JournalThread},
    last_values::LastValues,
    mailbox::{
        claims::Claim,
        spec::{MailboxName, MailboxSpec},
    },
    options::JournalOptions,
    pace::Pace,
    post::{Mailboxes, PostKeeper, PostReport, Tables},
    shares::Shares,
    table_log::TableLog,
};

/// The bound of dead letters, of which the oldest go.
const DEAD_BYTES: u64 = 64 << 20;

/// The settings of a store.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    pub(crate) journal: JournalOptions,
    pub(crate) mailboxes: Vec<MailboxSpec>,
    /// Channels whose newest message is kept.
    pub(crate) last_values: Vec<Pattern>,
    /// Whether publishers have shares: not in a relay.
    pub(crate) has_shares: bool,
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
    /// For last values.
    pub(crate) last: Option<Arc<dyn Disk>>,
    /// Something that is kept until the last write is done: the lock of the folder.
    pub(crate) held: Option<Arc<dyn Any + Send + Sync>>,
}

/// A journal and its mailboxes.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) journal: Journal,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) last_values: LastValues,
    pub(crate) shares: Shares,
    pub(crate) pace: Pace,
    /// The findings of the opening, for the broker's log and its table of streams.
    pub(crate) report: PostReport,
    pub(crate) opened: OpenReport,
    thread: JournalThread,
    /// The moment from which the mailboxes count their times.
    start: Instant,
    claims: AtomicU64,
}

impl Store {
    /// Attaches a connection to a mailbox, without any text. `None` if there is no such mailbox.
    pub(crate) fn attach(&self, name: &MailboxName, address: IpAddr, acknowledges: bool) -> Option<Attachment> {
        let claim = Claim { id: self.claims.fetch_add(1, Ordering::Relaxed), address, acknowledges };
        Attachment::new(&self.mailboxes, &self.journal, name, claim, self.start)
    }

    /// Opens a store, and starts its writer. Blocks.
    pub(crate) fn open(disks: Disks, options: StoreOptions) -> Result<Self, LogError> {
        let StoreOptions { journal, mailboxes, last_values, has_shares, expire } = options;
        let shares = Shares::new(journal.max_bytes, has_shares);
        let opening = Opening::open(&disks, last_values, shares.clone())?;
        let last_values = opening.last_values.clone();
        let mut post = None;
        let (thread, journal, opened) = JournalThread::start(disks.journal, journal, disks.held, |log| {
            let (keeper, mailboxes, report) = opening.keeper(mailboxes, expire, log);
            post = Some((mailboxes, report));
            keeper
        })?;
        let Some((mailboxes, report)) = post else { return Err(LogError::Failed) };
        let pace = Pace::default();
        Ok(Self {
            journal,
            mailboxes,
            last_values,
            shares,
            pace,
            report,
            opened,
            thread,
            start: Instant::now(),
            claims: AtomicU64::new(0),
        })
    }

    /// Messages that a mailbox or their publisher wants stored, since the start.
    pub(crate) fn wanted(&self) -> u64 {
        self.pace.wanted.load(Ordering::Relaxed)
    }

    /// Messages that should be stored and are not, by reason, since the start.
    pub(crate) fn not_stored(&self) -> [(&'static str, u64); 3] {
        let failed = self.pace.failed.load(Ordering::Relaxed) + self.journal.figures().failed();
        [("share", self.shares.figures().1), ("disk", self.pace.behind.load(Ordering::Relaxed)), ("failed", failed)]
    }

    /// Makes everything durable, and ends the writer. Blocks. Returns whether all of it has worked;
    /// only the first call tells.
    pub(crate) fn close(&self) -> bool {
        self.thread.close()
    }
}

/// The parts that are opened before the journal is.
pub(super) struct Opening {
    table: TableLog,
    damaged: u64,
    dead: Option<Log>,
    pub(super) last_values: LastValues,
    last: Option<TableLog>,
    shares: Shares,
}

impl Opening {
    pub(super) fn open(disks: &Disks, last_values: Vec<Pattern>, shares: Shares) -> Result<Self, LogError> {
        let (table, found) = TableLog::open(Arc::clone(&disks.cursors))?;
        let options = LogOptions::default().max_bytes(DEAD_BYTES);
        let dead = disks.dead.as_ref().map(|disk| Log::open(Arc::clone(disk), &options));
        let dead = dead.transpose()?.map(|(log, _)| log);
        let last = disks.last.as_ref().map(|disk| TableLog::open(Arc::clone(disk))).transpose()?;
        let last = last.map(|(table, _)| table);
        let last_values = LastValues::new(last_values, last.as_ref());
        Ok(Self { table, damaged: found.lost, dead, last_values, last, shares })
    }

    pub(super) fn keeper(
        self,
        specs: Vec<MailboxSpec>,
        expire: Option<Duration>,
        journal: &Log,
    ) -> (PostKeeper, Mailboxes, PostReport) {
        let last = self.last.map(|table| (self.last_values, table));
        let tables = Tables { cursors: self.table, damaged: self.damaged, dead: self.dead, last, shares: self.shares };
        PostKeeper::open(specs, tables, expire, journal)
    }
}
