//! The samples of a data folder in the exposition: of its journal, and of each mailbox.

use crate::metrics::{
    latency::LatencyCounts,
    row::{Value::Seconds, seconds},
    snapshot::Snapshot,
    storage::MailboxCounts,
    text::Text,
};

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
