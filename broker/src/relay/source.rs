//! The source of an uplink: it reads the durable batches of a journal, one behind the other.

use std::{collections::VecDeque, time::Duration};

use hpfeeds::{log::Reader, wire::extension::Position};
use tokio::{sync::watch, time::sleep};

use crate::journal::{
    handle::{Entry, Found, Journal},
    state::Progress,
};

/// So many bytes are looked at in one go.
const PORTION: usize = 256 << 10;
/// The time until a journal is asked again that cannot be read.
const AGAIN: Duration = Duration::from_secs(1);

/// A place in the journal, and what was read behind it.
#[derive(Debug)]
pub(super) struct Source {
    journal: Journal,
    progress: watch::Receiver<Progress>,
    readable: watch::Receiver<Position>,
    /// Everything up to here was taken.
    position: Position,
    /// Everything up to here was read.
    read: Position,
    reader: Option<Reader>,
    ready: VecDeque<Entry>,
}

impl Source {
    pub(super) fn new(journal: &Journal, after: Position) -> Self {
        Self {
            journal: journal.clone(),
            progress: journal.progress(),
            readable: journal.readable(),
            position: after,
            read: after,
            reader: None,
            ready: VecDeque::new(),
        }
    }

    /// The position up to which everything was taken.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn peek(&self) -> Option<&Entry> {
        self.ready.front()
    }

    /// Takes the next entry.
    pub(super) fn take(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.position = end(&entry);
        Some(entry)
    }

    /// Waits until there is an entry. In a `hurry` the disk is synced for it at once. Cancel safe.
    pub(super) async fn fill(&mut self, hurry: bool) {
        while self.ready.is_empty() {
            self.readable.mark_unchanged();
            let durable = self.progress.borrow_and_update().durable;
            if self.read < durable && self.step(durable).await {
                continue;
            }
            if self.ready.is_empty() && self.read >= durable {
                // Messages of others may have passed by.
                self.position = self.position.max(self.read);
            }
            let last = self.journal.last();
            if hurry && last > durable {
                if self.journal.durable(last).await.is_err() {
                    sleep(AGAIN).await;
                }
                continue;
            }
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() {
                    sleep(AGAIN).await;
                },
                changed = self.readable.changed() => if changed.is_err() {
                    sleep(AGAIN).await;
                },
            }
        }
    }

    /// Reads on, up to what is durable. `false` when there is nothing.
    async fn step(&mut self, durable: Position) -> bool {
        let before = self.read;
        match self.journal.after(self.read, PORTION) {
            Found::Batches(batches) => {
                let batches = batches.into_iter().take_while(|batch| batch.last() <= durable);
                self.ready.extend(batches.map(Entry::Batch));
                self.read = self.ready.back().map_or(self.read, end);
                self.reader = None;
            }
            Found::Older => {
                let Ok(page) = self.journal.page(self.read, self.reader.take()).await else {
                    sleep(AGAIN).await;
                    return false;
                };
                let all = page.entries.len();
                self.ready.extend(page.entries.into_iter().take_while(|entry| end(entry) <= durable));
                if self.ready.len() == all {
                    self.read = page.end.max(self.read);
                    self.reader = Some(page.reader);
                } else {
                    self.read = self.ready.back().map_or(self.read, end);
                }
            }
            Found::Nothing => {}
        }
        self.read > before || !self.ready.is_empty()
    }
}

/// The position of the last message of an entry.
fn end(entry: &Entry) -> Position {
    match entry {
        Entry::Batch(batch) => batch.last(),
        Entry::Lost(lost) => Position::new(lost.after.epoch, lost.last),
    }
}
