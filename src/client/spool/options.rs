//! The settings of a spool: where it is, how much it may hold, and when it is used.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use crate::{client::when_full::WhenFull, log::Disk};

/// A spool: a folder in which a session keeps messages that the broker has not confirmed, so that
/// they outlive the connection and the program.
///
/// It is written behind: the disk is touched only when a message is unconfirmed for longer than
/// [`after`](Self::after), when the queue in memory is half full, or when there is no connection. A
/// session that is online with a broker that confirms writes nothing.
///
/// A message that `publish` has accepted is delivered at least once, in order, if the program lives
/// for [`after`](Self::after) and one sync of the disk longer, or ends with
/// [`close`](crate::ClientSession::close). The next program that uses the folder sends what it
/// finds there before anything of its own.
///
/// The folder belongs to one ident and one process at a time. It gets mode 0700, as captured
/// credentials and malware may be in it. Network file systems are refused: they may lose what they
/// have synced. When everything is confirmed, the segments in it are gone.
///
/// ```
/// # #[cfg(unix)] fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// use std::time::Duration;
/// use hpfeeds::{Spool, WhenFull};
///
/// let spool = Spool::dir(folder.path().join("spool"))
///     .max_bytes(1 << 30)
///     .after(Duration::from_secs(2))
///     .when_full(WhenFull::DropOldest);
/// # drop(spool); Ok(()) }
/// # #[cfg(unix)] run().unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a spool does nothing until it is given to a session"]
pub struct Spool {
    place: Place,
    pub(super) max_bytes: u64,
    pub(crate) after: Duration,
    pub(crate) when_full: WhenFull,
    pub(crate) required: bool,
    pub(crate) write_through: bool,
    pub(super) inline: bool,
    pub(super) clock: fn() -> i64,
}

#[derive(Clone)]
enum Place {
    Dir(PathBuf),
    Disk(Arc<dyn Disk>),
}

impl Spool {
    /// A spool in this folder, which is made, with those above it, when it is missing.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::Dir(path.into()))
    }

    /// A spool on another disk, for tests.
    #[doc(hidden)]
    pub fn disk(disk: Arc<dyn Disk>) -> Self {
        Self::at(Place::Disk(disk))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            max_bytes: 256 << 20,
            after: Duration::from_secs(1),
            when_full: WhenFull::default(),
            required: false,
            write_through: false,
            inline: false,
            clock: unix_ms,
        }
    }

    /// The bytes of all files together. Default: 256 MiB; never more than half of the file system.
    /// Above it, [`when_full`](Self::when_full) decides.
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// How long a message may be unconfirmed before it is written to disk. Default: 1 s. One sync
    /// of the disk serves all messages that have become so old meanwhile, so this is also the
    /// shortest time between two syncs. With a broker that does not confirm, messages are written
    /// after 30 s while the connection lasts.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// The policy for messages that find no room. Default: [`WhenFull::Wait`]. With a spool this
    /// holds for the queue in memory, too.
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Self { when_full, ..self }
    }

    /// Whether `publish` fails while the disk does. Default: false: the session says once that the
    /// disk fails, goes on in memory, and tries the disk again every 5 s.
    pub fn required(self, required: bool) -> Self {
        Self { required, ..self }
    }

    /// Makes `publish` wait until the message is durable: then a power cut takes nothing that was
    /// accepted. Each message is written once, and one sync serves all that wait.
    pub fn write_through(self) -> Self {
        Self { write_through: true, ..self }
    }

    /// Does the I/O where it is asked for instead of on a thread, for tests in virtual time.
    #[doc(hidden)]
    pub fn inline(self) -> Self {
        Self { inline: true, ..self }
    }

    /// Another clock, in milliseconds since 1970, for tests.
    #[doc(hidden)]
    pub fn clock(self, clock: fn() -> i64) -> Self {
        Self { clock, ..self }
    }

    /// Opens the disk. Blocks.
    pub(super) fn open(&self) -> io::Result<Arc<dyn Disk>> {
        match &self.place {
            Place::Disk(disk) => Ok(Arc::clone(disk)),
            #[cfg(unix)]
            Place::Dir(path) => Ok(Arc::new(crate::log::RealDisk::open(path)?)),
            #[cfg(not(unix))]
            Place::Dir(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "a spool needs a Unix system")),
        }
    }

    /// The folder for messages to people.
    pub(super) fn name(&self) -> String {
        match &self.place {
            Place::Dir(path) => path.display().to_string(),
            Place::Disk(_) => "of a test".to_owned(),
        }
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool")
            .field("dir", &self.name())
            .field("max_bytes", &self.max_bytes)
            .field("after", &self.after)
            .field("when_full", &self.when_full)
            .field("required", &self.required)
            .field("write_through", &self.write_through)
            .finish_non_exhaustive()
    }
}

/// The time in milliseconds since 1970; 0 for a clock that stands before.
fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
