//! Where `subscribe` prints to.

use std::{
    fs::{File, OpenOptions},
    future::pending,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
};

use hpfeeds::Message;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{Format, SubscribeArgs},
    exit::Failure,
    record::{self, Saved},
    save::SaveDir,
};

/// From so many bytes on the buffer is written even if there is more to print.
const FULL: usize = 64 * 1024;

pub(crate) struct Output {
    to: Target,
    format: Format,
    save: Option<SaveDir>,
    /// Whole records: what is written at once never ends within a line.
    buffer: Vec<u8>,
}

enum Target {
    Stdout(Reader),
    File(File, PathBuf),
}

/// Why no more can be printed.
#[derive(Debug)]
pub(crate) enum Stuck {
    /// Whoever read our stdout has gone, and with it the reason to go on.
    ClosedPipe,
    Failed(String),
}

impl Output {
    pub(crate) fn open(args: &SubscribeArgs) -> Result<Self, Failure> {
        let to = match &args.output {
            Some(path) => Target::File(append(path)?, path.clone()),
            None if args.format == Format::Raw && io::stdout().is_terminal() => {
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
                    .map_err(|cause| Failure::new(format!("cannot make the directory {}: {cause}", dir.display())))?,
            ),
            None => None,
        };
        Ok(Self { to, format: args.format, save, buffer: Vec::new() })
    }

    /// Takes a message. It is printed at the next [`flush`](Self::flush), or now when a lot has gathered.
    pub(crate) fn print(&mut self, message: &Message) -> Result<(), Stuck> {
        let stored = match &self.save {
            Some(dir) => {
                Some(dir.store(&message.2).map_err(|cause| Stuck::Failed(format!("cannot store a payload: {cause}")))?)
            }
            None => None,
        };
        let saved = stored.as_ref().map(|(path, sha256)| Saved { path, sha256 });
        record::format(&mut self.buffer, self.format, message, saved.as_ref())
            .map_err(|cause| Stuck::Failed(format!("cannot print a message: {cause}")))?;
        if self.buffer.len() >= FULL { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), Stuck> {
        let written = match &mut self.to {
            Target::Stdout(_) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&self.buffer).and_then(|()| stdout.flush())
            }
            Target::File(file, _) => file.write_all(&self.buffer),
        };
        self.buffer.clear();
        written.map_err(|cause| match &self.to {
            Target::Stdout(_) if cause.kind() == io::ErrorKind::BrokenPipe => Stuck::ClosedPipe,
            Target::Stdout(_) => Stuck::Failed(format!("cannot write to stdout: {cause}")),
            Target::File(_, path) => Stuck::Failed(format!("cannot write to {}: {cause}", path.display())),
        })
    }

    /// Waits until nobody reads our stdout any more. Cancel safe.
    pub(crate) async fn closed(&self) {
        match &self.to {
            Target::Stdout(reader) => reader.0.cancelled().await,
            Target::File(..) => pending().await,
        }
    }
}

fn append(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|cause| Failure::new(format!("cannot open {}: {cause}", path.display())))
}

/// Whoever reads our stdout, if that is a pipe. Without it, `hpfeeds subscribe | head -1` would only end at the second
/// message.
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
