//! The stocktaking: reads what stood in the journal at the opening, for counts and for the position
//! of a time.

use std::{io, time::Duration};

use hpfeeds::wire::extension::Position;

use super::{handle::Entry, store::Store};

/// The rest between two pages of 256 KiB: at most some 50 MiB/s are read.
const REST: Duration = Duration::from_millis(5);

impl Store {
    /// Counts what was there at the opening. Ends when that is done, or the disk cannot be read.
    pub(crate) async fn take_stock(&self) {
        let mut reader = None;
        while let Some(from) = self.mailboxes.stock().count_from() {
            let Ok(page) = self.journal.page(from, reader.take()).await else { return };
            for entry in &page.entries {
                if let Entry::Batch(batch) = entry {
                    self.mailboxes.stock().count(batch);
                }
            }
            if page.end <= from {
                return self.mailboxes.stock().counted(self.journal.last());
            }
            self.mailboxes.stock().counted(page.end);
            reader = Some(page.reader);
            tokio::time::sleep(REST).await;
        }
    }

    /// The position before the first message that was published at a time or later, by the clocks of
    /// their arrival. Reads the journal as far as the stock does not know: up to all of it.
    pub(crate) async fn position_before(&self, unix_ms: i64) -> io::Result<Position> {
        let mut at = self.mailboxes.stock().before(unix_ms).unwrap_or(Position::NONE);
        let mut reader = None;
        loop {
            let page = self.journal.page(at, reader.take()).await?;
            for entry in &page.entries {
                if let Entry::Batch(batch) = entry
                    && batch.last() > at
                {
                    if batch.unix_ms >= unix_ms {
                        return Ok(at);
                    }
                    at = batch.last();
                }
            }
            if page.end <= at && page.entries.is_empty() {
                return Ok(at);
            }
            at = at.max(page.end);
            reader = Some(page.reader);
        }
    }
}
