//! The output of `subscribe`: stdout, or a file that is opened again when it has been moved.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    future::pending,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use hpfeeds::Origin;
use tokio_util::sync::CancellationToken;

use crate::{
    exit::Failure,
    record::{self, Form, Saved},
    save::{self, SaveDir},
    subscribe::{
        args::{Format, SubscribeArgs},
        field::Looked,
    },
    terminal::wants_colours,
};

/// From so many bytes on the buffer is written even if there is more to print.
const FULL: usize = 64 * 1024;

pub(crate) struct Output {
    to: Target,
    form: Form,
    save: Option<SaveDir>,
    /// Whole records: what is written at once never ends within one.
    buffer: Vec<u8>,
    /// The end of each record in the buffer.
    ends: Vec<usize>,
    /// Messages in the buffer, or those of them that could not be written.
    unprinted: Arc<AtomicU64>,
}

enum Target {
    Stdout(Reader),
    File(Appended),
}

/// Why no more can be printed.
#[derive(Debug)]
pub(crate) enum Stuck {
    /// The reader of our stdout has gone, and with it the reason to go on.
    ClosedPipe,
    Failed(String),
}

impl Output {
    pub(crate) fn open(args: &SubscribeArgs) -> Result<Self, Failure> {
        let to = match &args.output {
            Some(path) => Target::File(Appended::open(path, args.beginning.commits()).map_err(Failure::new)?),
            None if args.show.format() == Some(Format::Raw) && io::stdout().is_terminal() => {
                return Err(Failure::with_code(
                    crate::exit::USAGE,
                    "--format raw does not print to a terminal, which would act on what is in the payloads; redirect \
                     it, or use --format line",
                ));
            }
            None => Target::Stdout(Reader::of_stdout()),
        };
        let save = match &args.save_dir {
            Some(dir) => Some(
                SaveDir::new(dir.clone())
                    .map_err(|cause| Failure::new(format!("cannot make the directory {}: {cause}", dir.display())))?
                    .durable(args.beginning.commits()),
            ),
            None => None,
        };
        let form = form(args);
        Ok(Self { to, form, save, buffer: Vec::new(), ends: Vec::new(), unprinted: Arc::default() })
    }

    /// How many messages were taken and are not printed, now or at any time.
    pub(crate) fn unprinted(&self) -> Arc<AtomicU64> {
        self.unprinted.clone()
    }

    /// Takes a message. It is printed at the next [`flush`](Self::flush), or now when a lot has
    /// gathered.
    pub(crate) fn print(&mut self, looked: &Looked<'_>, origin: Option<&Origin>) -> Result<(), Stuck> {
        let stored = match &self.save {
            Some(dir) => Some(
                dir.store(&looked.message.2)
                    .map_err(|cause| Stuck::Failed(format!("cannot store a payload: {cause}")))?,
            ),
            None => None,
        };
        let saved = stored.as_ref().map(|(path, sha256)| Saved { path, sha256 });
        record::format(&mut self.buffer, &self.form, looked, origin, saved.as_ref())
            .map_err(|cause| Stuck::Failed(format!("cannot print a message: {cause}")))?;
        self.ends.push(self.buffer.len());
        self.unprinted.fetch_add(1, Relaxed);
        if self.buffer.len() >= FULL { self.flush() } else { Ok(()) }
    }

    /// Prints a text that is no message.
    pub(crate) fn write(&mut self, text: &[u8]) -> Result<(), Stuck> {
        self.buffer.extend_from_slice(text);
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Stuck> {
        let written = match &mut self.to {
            Target::Stdout(_) => {
                let (length, written) = print(&self.buffer);
                if written.is_err() {
                    self.unprinted.fetch_sub(whole(&self.ends, length), Relaxed);
                }
                written
            }
            Target::File(appended) => {
                // Lines in a file that has been moved away or removed would be found late, or
                // never.
                let reopened = if appended.has_gone() { appended.reopen() } else { Ok(()) };
                let written = appended.file.write_all(&self.buffer);
                if let Err(why) = reopened {
                    // Lines in the buffer are taken: they are in the old file at least, if that is
                    // still somewhere.
                    self.buffer.clear();
                    self.ends.clear();
                    return Err(Stuck::Failed(why));
                }
                written
            }
        };
        self.buffer.clear();
        self.ends.clear();
        if written.is_ok() {
            self.unprinted.store(0, Relaxed);
        }
        written.map_err(|cause| match &self.to {
            Target::Stdout(_) if cause.kind() == io::ErrorKind::BrokenPipe => Stuck::ClosedPipe,
            Target::Stdout(_) => Stuck::Failed(format!("cannot write to stdout: {cause}")),
            Target::File(to) => Stuck::Failed(format!("cannot write to {}: {cause}", to.path.display())),
        })
    }

    /// Whether what is flushed may still be lost in a power cut, until it is [synced](Self::sync).
    pub(crate) fn needs_sync(&self) -> bool {
        self.save.is_some() || matches!(&self.to, Target::File(to) if to.identity.is_some())
    }

    /// Forces all that was flushed to the disk. Bytes that stdout or a pipe has taken are its reader's.
    pub(crate) fn sync(&mut self) -> Result<(), Stuck> {
        if let Some(dir) = &self.save {
            dir.sync().map_err(|cause| Stuck::Failed(format!("cannot sync the directory of payloads: {cause}")))?;
        }
        match &mut self.to {
            Target::File(to) => to.sync().map_err(Stuck::Failed),
            Target::Stdout(_) => Ok(()),
        }
    }

    /// Opens the file again, as SIGHUP asks for when it has been moved away.
    pub(crate) fn reopen(&mut self) -> Result<(), Failure> {
        match &mut self.to {
            Target::File(appended) if appended.identity.is_some() => appended.reopen().map_err(Failure::new),
            Target::File(_) | Target::Stdout(_) => Ok(()),
        }
    }

    /// Waits until nobody reads our stdout any more. Cancel safe.
    pub(crate) async fn closed(&self) {
        match &self.to {
            Target::Stdout(reader) => reader.0.cancelled().await,
            Target::File(..) => pending().await,
        }
    }
}

/// The form that is asked for, or that suits stdout.
fn form(args: &SubscribeArgs) -> Form {
    let is_terminal = args.output.is_none() && io::stdout().is_terminal();
    let pretty = || Form::Pretty { colour: is_terminal && wants_colours() };
    match (args.show.fields(), args.show.format()) {
        (Some(fields), Some(Format::Ndjson)) => Form::Objects(fields.to_vec()),
        (Some(fields), _) => Form::Columns(fields.to_vec()),
        (None, Some(Format::Ndjson)) => Form::Ndjson,
        (None, Some(Format::Raw)) => Form::Raw,
        (None, Some(Format::Pretty)) => pretty(),
        (None, None) if is_terminal => pretty(),
        (None, Some(Format::Line) | None) => Form::Line,
    }
}

/// How many records are whole in so many bytes, by their ends.
fn whole(ends: &[usize], length: usize) -> u64 {
    ends.partition_point(|end| *end <= length) as u64
}

/// Prints to stdout. Returns how many bytes were written, and whether all were.
fn print(bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut stdout = io::stdout().lock();
    let mut printed = 0;
    while let Some(rest) = bytes.get(printed..).filter(|rest| !rest.is_empty()) {
        match stdout.write(rest) {
            Ok(0) => return (printed, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => printed += written,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return (printed, Err(cause)),
        }
    }
    (printed, stdout.flush())
}

/// A file that is appended to, and opened again when its path leads to another one.
struct Appended {
    file: File,
    path: PathBuf,
    /// Nothing for what is no regular file, such as a pipe: that is opened once.
    identity: Option<Identity>,
    /// Whether it is forced to the disk before another one takes its place.
    durable: bool,
}

impl Appended {
    fn open(path: &Path, durable: bool) -> Result<Self, String> {
        let fault = |cause: io::Error| format!("cannot open {}: {cause}", path.display());
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(fault)?;
        let identity = identity(&file.metadata().map_err(fault)?);
        if durable && identity.is_some() {
            // Its name must last as its lines do.
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            save::sync_dir(dir).map_err(|cause| format!("cannot sync {}: {cause}", dir.display()))?;
        }
        Ok(Self { file, path: path.to_owned(), identity, durable })
    }

    /// Forces what was written to the disk.
    fn sync(&mut self) -> Result<(), String> {
        if self.identity.is_none() {
            return Ok(());
        }
        self.file.sync_data().map_err(|cause| format!("cannot sync {}: {cause}", self.path.display()))
    }

    fn reopen(&mut self) -> Result<(), String> {
        if self.durable {
            self.sync()?;
        }
        *self = Self::open(&self.path, self.durable)?;
        tracing::debug!(file = %self.path.display(), "opened again");
        Ok(())
    }

    /// Whether its path leads elsewhere by now: it has been moved away, replaced or removed.
    fn has_gone(&self) -> bool {
        let Some(opened) = self.identity else {
            return false;
        };
        match fs::metadata(&self.path) {
            Ok(there) => identity(&there) != Some(opened),
            Err(cause) => cause.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The device and the number of a regular file there.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<Identity> {
    None
}

/// The reader of our stdout, if that is a pipe. Without it, `hpfeeds subscribe | head -1` would
/// only end at the second message.
struct Reader(CancellationToken);

impl Reader {
    fn of_stdout() -> Self {
        let gone = CancellationToken::new();
        let tell = gone.clone();
        // Ends with the process at the latest.
        thread::spawn(move || {
            if wait_for_hangup() {
                tell.cancel();
            }
        });
        Self(gone)
    }
}

/// Blocks until nobody reads what we print. False when this cannot be known.
#[cfg(unix)]
fn wait_for_hangup() -> bool {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        io::Errno,
    };
    let stdout = io::stdout();
    loop {
        // Asks for nothing: errors and the end of the other side are reported always.
        let mut pipe = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut pipe, None) {
            Ok(_) => return !pipe[0].revents().is_empty(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(not(unix))]
fn wait_for_hangup() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_as_printed_when_they_are_whole_however_many_lines_they_have() {
        let ends = [10, 10, 25, 40];
        for (length, expected) in [(0, 0), (9, 0), (10, 2), (24, 2), (25, 3), (39, 3), (40, 4)] {
            assert_eq!(whole(&ends, length), expected, "{length}");
        }
    }
}
