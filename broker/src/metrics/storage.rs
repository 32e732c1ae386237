//! The metrics of a data folder: its journal, and each of its mailboxes.

use crate::metrics::{
    latency::LatencyCounts,
    row::{Value::Seconds, seconds},
    snapshot::Snapshot,
    text::Text,
};

/// The numbers of a data folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StorageCounts {
    pub(crate) bytes: u64,
    pub(crate) limit: u64,
    /// What the file system has left, in bytes.
    pub(crate) free: u64,
    /// The condition of the journal, one of [`HEALTH`].
    pub(crate) health: &'static str,
    pub(crate) syncs: LatencyCounts,
    pub(crate) mailboxes: Vec<MailboxCounts>,
}

/// The numbers of a mailbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MailboxCounts {
    /// `IDENT` or `IDENT/NAME`.
    pub(crate) name: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// The age of the oldest message that waits.
    pub(crate) oldest_ms: u64,
    pub(crate) attached: bool,
    pub(crate) stuck: bool,
    /// By reason.
    pub(crate) lost: Vec<(&'static str, u64)>,
    pub(crate) denied: u64,
}

/// The conditions of a journal.
const HEALTH: [&str; 4] = ["good", "full", "no space", "failed"];

fn mailboxes(snapshot: &Snapshot) -> impl Iterator<Item = &MailboxCounts> {
    snapshot.storage.iter().flat_map(|storage| &storage.mailboxes)
}

/// A sample for each mailbox.
fn each(snapshot: &Snapshot, text: &mut Text, value: impl Fn(&MailboxCounts) -> u64) {
    for mailbox in mailboxes(snapshot) {
        text.sample(&[("mailbox", &mailbox.name)], value(mailbox));
    }
}

pub(super) fn messages(snapshot: &Snapshot, text: &mut Text) {
    each(snapshot, text, |mailbox| mailbox.messages);
}

pub(super) fn bytes(snapshot: &Snapshot, text: &mut Text) {
    each(snapshot, text, |mailbox| mailbox.bytes);
}

#[allow(clippy::cast_precision_loss, reason = "an age needs no 16 digits")]
pub(super) fn oldest(snapshot: &Snapshot, text: &mut Text) {
    for mailbox in mailboxes(snapshot) {
        text.sample(&[("mailbox", &mailbox.name)], Seconds(mailbox.oldest_ms as f64 / 1e3));
    }
}

pub(super) fn attached(snapshot: &Snapshot, text: &mut Text) {
    each(snapshot, text, |mailbox| mailbox.attached.into());
}

pub(super) fn stuck(snapshot: &Snapshot, text: &mut Text) {
    each(snapshot, text, |mailbox| mailbox.stuck.into());
}

pub(super) fn denied(snapshot: &Snapshot, text: &mut Text) {
    each(snapshot, text, |mailbox| mailbox.denied);
}

/// All reasons from the start on: the first value of a counter is no increase.
pub(super) fn lost(snapshot: &Snapshot, text: &mut Text) {
    for mailbox in mailboxes(snapshot) {
        for (reason, count) in &mailbox.lost {
            text.sample(&[("mailbox", &mailbox.name), ("reason", reason)], *count);
        }
    }
}

pub(super) fn journal_bytes(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        text.sample(&[], storage.bytes);
    }
}

pub(super) fn journal_limit(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        text.sample(&[], storage.limit);
    }
}

pub(super) fn journal_free(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        text.sample(&[], storage.free);
    }
}

pub(super) fn journal_health(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        for state in HEALTH {
            text.sample(&[("state", state)], u64::from(storage.health == state));
        }
    }
}

pub(super) fn journal_syncs(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        let LatencyCounts { counts, nanos } = &storage.syncs;
        text.buckets(&[], LatencyCounts::BOUNDS.iter().map(|(_, bound)| *bound), counts, seconds(*nanos));
    }
}
