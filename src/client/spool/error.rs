//! The errors of a spool.

use std::io;

use crate::log::{LockError, LogError};

/// Why a spool cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process, or another session of this one, has it.
    #[error("the spool {0}")]
    Used(String),
    /// It holds messages of another ident, which this one's key cannot publish.
    #[error("the spool {dir} belongs to ident {ident:?}: name another folder, or use that ident")]
    OtherIdent {
        /// The folder.
        dir: String,
        /// The ident whose messages it holds.
        ident: String,
    },
    /// It can never be used: it is on a network file system, is no folder, may not be written, or
    /// was written by a newer program.
    #[error("the spool {dir} cannot be used: {cause}")]
    Unusable {
        /// The folder.
        dir: String,
        /// The fault.
        cause: String,
    },
    /// The thread that uses it has ended by a panic. A session goes on in memory; start another one
    /// to use the spool again.
    #[error("the thread of the spool {0} has ended by a panic: start the session anew")]
    Ended(String),
    /// The disk fails or is full: it is tried again every 5 s.
    #[error("the disk of the spool {dir} fails: {cause}")]
    Disk {
        /// The folder.
        dir: String,
        /// The system's words.
        cause: String,
    },
}

impl SpoolError {
    /// Whether trying again is of no use.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Disk { .. })
    }

    /// An error of opening the folder.
    pub(super) fn opening(dir: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{AlreadyExists, InvalidInput, NotADirectory, PermissionDenied, Unsupported};
        let (dir, cause) = (dir.to_owned(), error.to_string());
        match error.kind() {
            AlreadyExists | InvalidInput | NotADirectory | PermissionDenied | Unsupported => {
                Self::Unusable { dir, cause }
            }
            _ => Self::Disk { dir, cause },
        }
    }

    /// An error of the log in the folder.
    pub(super) fn log(dir: &str, error: &LogError) -> Self {
        match error {
            LogError::Lock(LockError::Used(text)) => Self::Used(text.clone()),
            LogError::Newer { .. } => Self::Unusable { dir: dir.to_owned(), cause: error.to_string() },
            LogError::Lock(LockError::Io(error)) | LogError::Io(error) => Self::opening(dir, error),
            error => Self::Disk { dir: dir.to_owned(), cause: error.to_string() },
        }
    }
}
