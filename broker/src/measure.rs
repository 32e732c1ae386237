//! The measurement of a data folder: what its metrics show of journal and mailboxes.

use crate::{
    journal::{mailbox::snapshot::MailboxSnapshot, store::Store},
    metrics::storage::{MailboxCounts, StorageCounts},
    util::clock::unix_ms,
};

/// The numbers of a store now. Takes some milliseconds for each mailbox when there are very many
/// channels.
pub(crate) fn storage(store: &Store) -> StorageCounts {
    let (figures, now) = (store.journal.figures(), unix_ms());
    StorageCounts {
        bytes: figures.bytes(),
        limit: figures.limit(),
        free: figures.free(),
        health: store.journal.health().word(),
        syncs: figures.syncs.counts(),
        not_stored: store.not_stored(),
        mailboxes: store.mailboxes.list().iter().map(|snapshot| mailbox(snapshot, now)).collect(),
    }
}

fn mailbox(snapshot: &MailboxSnapshot, now: i64) -> MailboxCounts {
    let oldest = snapshot.waiting.oldest_ms.map(|oldest| now.saturating_sub(oldest));
    MailboxCounts {
        name: snapshot.name.to_string(),
        messages: snapshot.waiting.messages,
        bytes: snapshot.waiting.bytes,
        oldest_ms: oldest.and_then(|oldest| u64::try_from(oldest).ok()).unwrap_or_default(),
        attached: snapshot.owner.is_some(),
        stuck: snapshot.is_stuck(),
        lost: snapshot.counts.losses.by_reason().map(|(reason, count)| (reason.word(), count)).collect(),
        denied: snapshot.counts.denied,
    }
}
