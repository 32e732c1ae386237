//! The table of a relay: the cursors of its uplinks, and what they have set aside, on disk.

use std::{collections::BTreeMap, mem, sync::Arc};

use bytes::Bytes;
use hpfeeds::{
    log::{Disk, LogError},
    wire::Ident,
};
use parking_lot::Mutex;

use crate::journal::table_log::TableLog;

/// The tables of what is set aside by ident and channel, of cursors by ident, and of streams by ident
/// and epoch. Rows are stored in this order, and a crash may keep the first ones alone: a cursor must
/// not pass over what is not known to be set aside.
pub(super) const ASIDES: u8 = 1;
pub(super) const CURSORS: u8 = 2;
pub(super) const STREAMS: u8 = 3;

/// The key of a row: which table it is of, and its name there.
type Key = (u8, Vec<u8>);

/// The rows. Clones are the same ones.
#[derive(Debug, Clone)]
pub(super) struct Table {
    log: Arc<Mutex<TableLog>>,
    /// Rows that have changed since the last commit.
    changed: Arc<Mutex<BTreeMap<Key, Option<Bytes>>>>,
}

impl Table {
    /// Opens the table of a folder. Blocks. Also returns how many records of it cannot be read.
    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<(Self, u64), LogError> {
        let (log, report) = TableLog::open(disk)?;
        Ok((Self { log: Arc::new(Mutex::new(log)), changed: Arc::default() }, report.lost))
    }

    /// The rows of one table whose names begin so, as they were at the opening or the last commit.
    pub(super) fn rows(&self, table: u8, prefix: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
        let log = self.log.lock();
        let rows = log.rows(table).filter(|(name, _)| name.starts_with(prefix));
        rows.map(|(name, value)| (name.to_vec(), value.clone())).collect()
    }

    /// Sets a row, or with `None` removes it; not durable before [`commit`](Self::commit).
    pub(super) fn put(&self, table: u8, name: &[u8], value: Option<Bytes>) {
        self.changed.lock().insert((table, name.to_vec()), value);
    }

    /// Makes all changes durable, with one sync, on a thread for blocking calls. The next call tries
    /// again what has failed. Cancelled, it goes on all the same.
    pub(super) async fn commit(&self) -> Result<(), LogError> {
        let (log, changed) = (Arc::clone(&self.log), Arc::clone(&self.changed));
        let commit = move || {
            let mut log = log.lock();
            for ((table, name), value) in mem::take(&mut *changed.lock()) {
                log.put(table, &name, value);
            }
            log.commit()
        };
        tokio::task::spawn_blocking(commit).await.unwrap_or(Err(LogError::Failed))
    }
}

/// The begin of the names of an ident's rows.
pub(super) fn prefix(ident: &Ident) -> Vec<u8> {
    let mut prefix = vec![u8::try_from(ident.len()).unwrap_or(u8::MAX)];
    prefix.extend_from_slice(ident.as_bytes());
    prefix
}
