//! The log: an append-only file format for batches of frames, and the engine that writes and reads it, for spool and
//! journal. Not part of the library's interface yet; it may change at any time.
//!
//! [`Disk`] is all that it does to a file system; every call blocks.

mod disk;
#[cfg(unix)]
mod real_disk;

pub use self::disk::{Disk, Entry, File, Guard, LockError, Space};
#[cfg(unix)]
pub use self::real_disk::RealDisk;
