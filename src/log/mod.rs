//! The log: an append-only file format for batches of frames, and the engine that writes and reads
//! it, for spool and journal. Not part of the library's interface yet; it may change at any time.
//!
//! [`Log`] appends records, makes them durable in groups and keeps the cursor; [`Reader`] reads
//! them; [`verify`](verify::verify) checks a folder, and [`copy`](copy::copy) copies one. [`Disk`] is all that they do to a file system, and every call
//! blocks. The format, its rules, and what a crash leaves stand in the repository's
//! `docs/architecture.md`.
//!
//! ```
//! # #[cfg(unix)] fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?; let path = folder.path().join("spool");
//! use std::sync::Arc;
//! use hpfeeds::log::{Append, Extent, FRAMES, Item, Log, LogOptions, RealDisk};
//! use hpfeeds::wire::extension::Position;
//!
//! let disk = Arc::new(RealDisk::open(path)?);
//! let (mut log, _report) = Log::open(disk, &LogOptions::default())?;
//! let body = b"\0\0\0\x0d\x03\x02me\x02chhi\0\0\0\x0d\x03\x02me\x02chho";
//! let last = log.append(&Append { kind: FRAMES, unix_ms: 0, messages: 2, stream: None, channels: &[], body })?;
//! assert_eq!(last, Position::new(1, 2));
//! assert_eq!(log.sync()?, last);
//!
//! let mut reader = log.reader(log.cursor(), Extent::Durable);
//! let Item::Record(record) = &reader.read()?[0] else { panic!("nothing is lost") };
//! assert_eq!(&record.body[..], body);
//! log.consume(record.last())?;
//! # Ok(()) }
//! # #[cfg(unix)] run().unwrap();
//! ```

mod copy;
mod cursor;
mod disk;
mod error;
mod layout;
mod open;
mod reader;
#[cfg(unix)]
mod real_disk;
mod recovery;
mod room;
mod rotation;
mod segment;
mod snapshot;
mod verify;
mod walker;
mod writer;

#[cfg(unix)]
pub use self::real_disk::RealDisk;
pub use self::{
    copy::copy,
    disk::{Disk, Entry, File, Guard, LockError, Space},
    error::LogError,
    layout::record::StreamEnd,
    open::OpenReport,
    reader::{Extent, Item, Lost, Reader, ReaderSource, Record},
    room::Front,
    snapshot::{Damage, Finding, Snapshot},
    verify::{Verified, verify},
    writer::{Append, FRAMES, Log, LogOptions, WhenFull},
};
