//! The disk of a log: the trait that all of its I/O goes through, so that a simulated one can tear,
//! reorder, lose and fail.

use std::{any::Any, fmt, io};

/// The file that a real disk locks, and that says who holds it.
pub(super) const LOCK: &str = "lock";

/// One folder of a file system, with everything that a log does to it.
///
/// All calls block: run them on a thread that may. Names are file names without a separator. The
/// real one is [`RealDisk`](super::RealDisk).
pub trait Disk: fmt::Debug + Send + Sync {
    /// The files of the folder with their lengths in bytes, in any order.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// A new empty file, open for reading and writing. [`io::ErrorKind::AlreadyExists`] if the name
    /// is taken. It may vanish in a power cut until [`sync_dir`](Self::sync_dir).
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// An existing file, open for reading and writing; for reading alone where nothing else is
    /// allowed.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Renames a file over whatever has the other name. Undone by a power cut until
    /// [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name; whoever has the file open keeps it. Undone by a power cut until
    /// [`sync_dir`](Self::sync_dir).
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes durable which names there are. After an error nothing is known about them.
    fn sync_dir(&self) -> io::Result<()>;

    /// Locks the folder against other processes and other logs of this one, until the guard is
    /// dropped.
    fn lock(&self) -> Result<Guard, LockError>;

    /// The size of the file system that holds the folder, and what of it is free, in bytes.
    fn space(&self) -> io::Result<Space>;

    /// 64 random bits, of which no two starts of a program may get the same sequence.
    fn random(&self) -> u64;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`; after an error any part of them may be there.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reads into `buffer` from `offset`; fewer bytes, or none, at the end of the file alone.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Makes durable what was written, and the length. After an error some of it may be lost for
    /// good, also if a later call succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Reserves blocks up to `length` bytes without changing the length; done by halves, or not at
    /// all, where the file system cannot.
    fn reserve(&self, length: u64) -> io::Result<()>;

    /// Gives reserved blocks beyond the end of the file back.
    fn trim(&self) -> io::Result<()>;
}

/// The guard of a folder's lock; dropped, the folder is free.
pub type Guard = Box<dyn Any + Send + Sync>;

/// A file in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; what is not UTF-8 is none of ours and left out.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// The room of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// The part that this process may still use.
    pub available: u64,
}

/// A folder that cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another log of this one, has it. The text says which: `DIR is used by
    /// process 4711`.
    #[error("{0}")]
    Used(String),
    /// The lock file cannot be opened or locked.
    #[error("the folder cannot be locked: {0}")]
    Io(#[from] io::Error),
}
