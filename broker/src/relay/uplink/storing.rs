//! The storing of an uplink: its cursor, its streams and what is set aside, as rows of the table.

use tracing::error;

use super::Uplink;
use crate::{
    journal::handle::Entry,
    relay::{
        cursor::Cursor,
        table::{ASIDES, CURSORS, STREAMS, prefix},
    },
};

impl Uplink {
    /// The cursor of all that is decided.
    pub(super) fn cursor(&self) -> Cursor {
        if let Some(oldest) = self.queue.oldest() {
            let mut position = oldest.piece.first;
            position.number -= 1;
            return Cursor { position, number: oldest.first - 1 };
        }
        let position = self.source.position();
        Cursor { position, number: if position.epoch == self.read.0 { self.read.1 } else { 0 } }
    }

    /// Once a second.
    pub(super) async fn tick(&mut self) {
        self.age();
        if self.is_dirty || self.cursor() != self.stored {
            self.store().await;
        }
        self.figure();
    }

    /// Stores cursor, streams and what is set aside, and waits until that is durable.
    pub(super) async fn store(&mut self) {
        let cursor = self.cursor();
        let name = |end: &[u8]| [&prefix(&self.ident)[..], end].concat();
        // Another ident may commit meanwhile: first what the cursor passes over.
        for (channel, aside) in &self.asides {
            self.table.put(ASIDES, &name(channel.as_bytes()), Some(aside.encode()));
        }
        self.table.put(CURSORS, self.ident.as_bytes(), Some(cursor.encode()));
        let gone: Vec<_> = self.streams.keys().copied().filter(|epoch| *epoch < cursor.position.epoch).collect();
        for epoch in gone {
            self.streams.remove(&epoch);
            self.table.put(STREAMS, &name(&epoch.to_be_bytes()), None);
        }
        for (epoch, stream) in &self.streams {
            self.table.put(STREAMS, &name(&epoch.to_be_bytes()), Some(stream.as_bytes().to_vec().into()));
        }
        match self.table.commit().await {
            Ok(()) => (self.stored, self.is_dirty, self.is_due) = (cursor, false, false),
            Err(cause) => {
                error!(ident = %self.ident, %cause, "cannot store how far messages are sent: a restart repeats some");
                // It goes on all the same, and tries again in a second.
                self.is_due = false;
            }
        }
    }

    pub(super) fn figure(&self) {
        let cursor = self.cursor();
        let waiting = self.journal.last().number.saturating_sub(cursor.position.number);
        let oldest_ms = self.queue.oldest().map(|oldest| oldest.piece.unix_ms);
        let oldest_ms = oldest_ms.or_else(|| match self.source.peek() {
            Some(Entry::Batch(batch)) => Some(batch.unix_ms),
            _ => None,
        });
        let held = self.held();
        self.figures.change(|figures| {
            (figures.waiting, figures.oldest_ms, figures.held) = (waiting, oldest_ms, held);
        });
    }
}
