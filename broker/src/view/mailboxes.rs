//! The view of a data folder: its journal, and a row for each mailbox.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    journal::{
        mailbox::{losses::Reason, snapshot::MailboxSnapshot},
        store::Store,
    },
    metrics::books::Books,
};

/// A mailbox: what is stored for a collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "facts of a row that do not depend on each other")]
#[non_exhaustive]
pub struct MailboxView {
    /// `IDENT` or `IDENT/NAME`.
    pub mailbox: String,
    /// Whether a connection gets what it has.
    pub attached: bool,
    /// The address of that connection.
    pub peer: Option<String>,
    /// Since when a connection is attached or none is, in seconds since 1970; of a mailbox that has never
    /// had one, since when it exists.
    pub since: Option<u64>,
    /// Messages that wait. A part of some seconds' messages may count that is delivered.
    pub waiting: u64,
    /// The bytes of their frames.
    pub waiting_bytes: u64,
    /// Whether more may wait: what the journal held at the start is still being counted.
    pub at_least: bool,
    /// The time of the oldest of them, or some seconds before, in seconds since 1970.
    pub oldest: Option<u64>,
    /// Messages that were handed to the connection and are not known to have arrived.
    pub in_flight: u64,
    /// Whether its collector crashes on a message, or has ended three connections without progress.
    pub stuck: bool,
    /// Whether it was forgotten, as nobody came for too long: the next connection begins anew.
    pub expired: bool,
    /// Messages that its collector will never get, since it was declared.
    pub lost: u64,
    /// Why most of them are lost: `retention`, `damage`, `expired` or `skipped`.
    pub reason: Option<&'static str>,
    /// Messages that were passed over as the collector's key does not allow their channel.
    pub denied: u64,
}

/// The journal of a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalView {
    /// `good`; `full` or `no space`, while publishers wait for room; `failed`, until the broker is started
    /// again; or `closed`.
    pub health: &'static str,
    /// The bytes of its files.
    pub bytes: u64,
    /// The most that they may have.
    pub limit: u64,
    /// The bytes that the file system has left.
    pub disk_free: u64,
    /// [`Books::not_stored`] by reason: `share`, `disk`, `failed`.
    pub not_stored: BTreeMap<&'static str, u64>,
    /// [`Books::lost`] by reason: `retention`, `damage`, `expired`, `skipped`.
    pub lost: BTreeMap<&'static str, u64>,
}

/// The rows of all mailboxes, in order, and the journal's. Enters what is stored into the books.
pub(super) fn of(store: &Store, books: &mut Books) -> (JournalView, Vec<MailboxView>) {
    let (not_stored, stored) = (store.not_stored(), store.journal.stored());
    books.wanted = store.wanted();
    books.stored = stored;
    books.not_stored = not_stored.iter().map(|(_, messages)| messages).sum();
    let snapshots = store.mailboxes.list();
    let mut lost: BTreeMap<_, _> = Reason::ALL.into_iter().map(|reason| (reason.word(), 0)).collect();
    for (reason, messages) in snapshots.iter().flat_map(|mailbox| mailbox.counts.losses.by_reason()) {
        *lost.entry(reason.word()).or_default() += messages;
    }
    books.lost = lost.values().sum();
    let figures = store.journal.figures();
    let journal = JournalView {
        health: store.journal.health().word(),
        bytes: figures.bytes(),
        limit: figures.limit(),
        disk_free: figures.free(),
        not_stored: not_stored.into_iter().collect(),
        lost,
    };
    (journal, snapshots.iter().map(row).collect())
}

fn row(mailbox: &MailboxSnapshot) -> MailboxView {
    let losses = &mailbox.counts.losses;
    let (reason, most) = losses.by_reason().max_by_key(|(_, messages)| *messages).unzip();
    MailboxView {
        mailbox: mailbox.name.to_string(),
        attached: mailbox.owner.is_some(),
        peer: mailbox.address.map(|address| address.to_string()),
        since: seconds(mailbox.seen_ms),
        waiting: mailbox.waiting.messages,
        waiting_bytes: mailbox.waiting.bytes,
        at_least: mailbox.waiting.is_partial,
        oldest: mailbox.waiting.oldest_ms.and_then(seconds),
        in_flight: mailbox.on_its_way,
        stuck: mailbox.is_stuck(),
        expired: mailbox.is_expired,
        lost: losses.by_reason().map(|(_, messages)| messages).sum(),
        reason: reason.filter(|_| most > Some(0)).map(Reason::word),
        denied: mailbox.counts.denied,
    }
}

fn seconds(ms: i64) -> Option<u64> {
    u64::try_from(ms / 1000).ok().filter(|seconds| *seconds > 0)
}
