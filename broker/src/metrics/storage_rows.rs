//! The table of a data folder's metrics, and their samples: of its journal, and of each mailbox.

use crate::metrics::{
    latency::LatencyCounts,
    row::{Read::Samples, Row, Value::Seconds, seconds},
    snapshot::Snapshot,
    storage::MailboxCounts,
    text::{
        Kind::{Counter, Gauge, Histogram},
        Text,
    },
};

/// The metrics of a broker with a data folder.
pub(super) const STORAGE_ROWS: &[Row] = &[
    Row::new(
        Gauge,
        "hpfeeds_mailbox_messages",
        "Messages that wait for a mailbox's collector; a part of some seconds' messages may count that is delivered.",
        Samples(messages),
    ),
    Row::new(Gauge, "hpfeeds_mailbox_bytes", "The bytes of their frames.", Samples(bytes)),
    Row::new(
        Gauge,
        "hpfeeds_mailbox_oldest_seconds",
        "The age of the oldest message that waits, or some seconds more.",
        Samples(oldest),
    ),
    Row::new(Gauge, "hpfeeds_mailbox_attached", "Whether a connection receives from the mailbox.", Samples(attached)),
    Row::new(
        Gauge,
        "hpfeeds_mailbox_stuck",
        "Whether the collector crashes on a message, or has ended three connections without progress.",
        Samples(stuck),
    ),
    Row::new(
        Counter,
        "hpfeeds_mailbox_lost_messages",
        "Messages that the mailbox's collector will never get, by reason.",
        Samples(lost),
    ),
    Row::new(
        Counter,
        "hpfeeds_mailbox_denied_messages",
        "Messages that were passed over because the collector's key does not allow their channel.",
        Samples(denied),
    ),
    Row::new(Gauge, "hpfeeds_journal_bytes", "Bytes of the journal's files.", Samples(journal_bytes)),
    Row::new(Gauge, "hpfeeds_journal_limit_bytes", "The most that they may have.", Samples(journal_limit)),
    Row::new(
        Gauge,
        "hpfeeds_journal_disk_free_bytes",
        "Bytes that the journal's file system has left.",
        Samples(journal_free),
    ),
    Row::new(Gauge, "hpfeeds_journal_health", "1 for the condition that the journal is in.", Samples(journal_health)),
    Row::new(
        Counter,
        "hpfeeds_journal_not_stored_messages",
        "Messages that a mailbox wants and that are not stored, by reason; subscribers got them live.",
        Samples(not_stored),
    ),
    Row::new(Histogram, "hpfeeds_journal_sync_seconds", "Time that the disk took for a sync.", Samples(journal_syncs)),
];

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

pub(super) fn not_stored(snapshot: &Snapshot, text: &mut Text) {
    for (reason, count) in snapshot.storage.iter().flat_map(|storage| storage.not_stored) {
        text.sample(&[("reason", reason)], count);
    }
}

pub(super) fn journal_syncs(snapshot: &Snapshot, text: &mut Text) {
    if let Some(storage) = &snapshot.storage {
        let LatencyCounts { counts, nanos } = &storage.syncs;
        text.buckets(&[], LatencyCounts::BOUNDS.iter().map(|(_, bound)| *bound), counts, seconds(*nanos));
    }
}
