//! The errors of a log.

use std::io;

use super::disk::LockError;

/// The error of a log. Damage is none: it is skipped and counted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder is locked by another process, or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A newer program has written this file. Nothing was touched.
    #[error("{name} is of version {version}, and this program reads version 1: use a newer program, or another folder")]
    Newer {
        /// The file.
        name: String,
        /// Its version.
        version: u16,
    },
    /// The log holds as much as it may, and drops nothing.
    #[error("the log is full ({limit} bytes): wait until more of it is consumed, or raise its limit")]
    Full {
        /// The effective limit in bytes.
        limit: u64,
    },
    /// The file system is full. Appended records are kept in memory; [`sync`](super::Log::sync)
    /// tries again.
    #[error("no space is left for the log: make room on its file system")]
    NoSpace,
    /// Two syncs or writes in a row have failed: nothing more becomes durable. Open the log anew.
    #[error("the log has failed: look at its disk, then open it anew")]
    Failed,
    /// A record of no messages, or longer than 1 GiB.
    #[error("a record holds at least one message and at most 1 GiB")]
    Unfit,
    /// Another error of the file system.
    #[error("the log cannot use its folder: {0}")]
    Io(#[from] io::Error),
}

/// Whether an error says that a disk, or a share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
