//! The file watcher: tells when files have changed, and when to read them.
//!
//! It looks at the files every second. Notifications of the system would be sooner, but they do not
//! come from network file systems, nor through the bind mount of a single file; and a file that is
//! reached over links, as the secrets of Kubernetes are, changes when any link on the way does. One
//! `stat` sees all of that, and costs a microsecond.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::util::poll_backoff::PollBackoff;

/// The time between two looks at a file.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// How long a single file that has changed must stay the same before it is read: it is likely still
/// being written.
const SETTLED: Duration = Duration::from_millis(200);

/// How often to wait for that. A file that always changes is read too.
const PATIENCE: u32 = 10;

/// The fingerprint of files: tells whether they have changed, without reading them. A file that
/// cannot be looked at is `None`; links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<Option<Stat>>);

/// Device, number, length and times: another file in the same place has others.
#[cfg(unix)]
type Stat = (u64, u64, u64, (i64, i64), (i64, i64));

#[cfg(not(unix))]
type Stat = (u64, std::time::SystemTime);

impl Fingerprint {
    pub(crate) fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let stat = |path: P| fs::metadata(path).and_then(|metadata| stat(&metadata)).ok();
        Self(paths.into_iter().map(stat).collect())
    }
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn stat(metadata: &fs::Metadata) -> io::Result<Stat> {
    use std::os::unix::fs::MetadataExt as _;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Ok((metadata.dev(), metadata.ino(), metadata.size(), modified, changed))
}

#[cfg(not(unix))]
fn stat(metadata: &fs::Metadata) -> io::Result<Stat> {
    Ok((metadata.len(), metadata.modified()?))
}

/// The state of watching: what the files looked like, and whether they have to be read.
#[derive(Debug)]
pub(crate) struct FileWatch {
    last: Fingerprint,
    patience: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The files are as they were when they were read.
    Read,
    /// They have changed; for how many more looks they may go on changing.
    Settling(u32),
    /// They have to be read.
    Unread(PollBackoff),
}

/// The outcome of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Look again later.
    Idle,
    /// Look again soon: the files are being written.
    Settling,
    /// Read them, and say whether that [failed](FileWatch::failed) or is [done](FileWatch::done).
    Due,
}

impl FileWatch {
    /// Watches files that were read when they looked like this. Changed files are due once two
    /// looks find the same, or after `patience` looks that do not.
    pub(crate) fn new(last: Fingerprint, patience: u32) -> Self {
        Self { last, patience, state: State::Read }
    }

    /// Compares the files with what they were at the look before.
    pub(crate) fn look(&mut self, now: Fingerprint) -> Look {
        if now == self.last {
            if let State::Settling(_) = self.state {
                self.state = State::Unread(PollBackoff::default());
            }
        } else {
            self.last = now;
            self.state = match self.state {
                State::Settling(1) => State::Unread(PollBackoff::default()),
                State::Settling(left) => State::Settling(left - 1),
                _ => State::Settling(self.patience),
            };
        }
        match &mut self.state {
            State::Settling(_) => Look::Settling,
            State::Unread(backoff) => {
                if backoff.is_due() {
                    Look::Due
                } else {
                    Look::Idle
                }
            }
            State::Read => Look::Idle,
        }
    }

    /// The files have been read.
    pub(crate) fn done(&mut self) {
        self.state = State::Read;
    }

    /// The files could not be read: they are due again after a while. Returns whether the cause is
    /// another one than before.
    pub(crate) fn failed(&mut self, cause: &str) -> bool {
        match &mut self.state {
            State::Unread(backoff) => backoff.failed(cause),
            State::Read | State::Settling(_) => true,
        }
    }
}

/// Something else to do on the thread.
pub(crate) type Errand = Box<dyn FnOnce() + Send>;

/// A file to watch on a thread of its own.
pub(crate) struct Watcher<R, F> {
    pub(crate) path: PathBuf,
    /// The fingerprint of the file before it was read.
    pub(crate) last: Fingerprint,
    /// Reads the file.
    pub(crate) read: R,
    /// Logs why it could not be read: once for each cause.
    pub(crate) log: F,
}

/// Reads a file after each change, on a thread of its own that has this name; after a failure,
/// reads it again now and then. The thread also does what it is sent, and ends when the sender is
/// dropped.
///
/// A thread: a file system that hangs must stop nothing else. One thread for all: each that ever
/// reads many keys keeps the memory that they took, as the system's allocator has a heap for each.
pub(crate) fn spawn<E: Display>(
    name: &str,
    watcher: Watcher<impl FnMut() -> Result<(), E> + Send + 'static, impl Fn(&E) + Send + 'static>,
) -> io::Result<Sender<Errand>> {
    let (owner, errands) = mpsc::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || run(watcher, &errands))?;
    Ok(owner)
}

fn run<E: Display>(watcher: Watcher<impl FnMut() -> Result<(), E>, impl Fn(&E)>, errands: &Receiver<Errand>) {
    let Watcher { path, last, mut read, log } = watcher;
    let mut watch = FileWatch::new(last, PATIENCE);
    let mut wait = INTERVAL;
    while passes(wait, errands) {
        // Taken before the file is read: what changes from here on is seen as another change.
        let look = watch.look(Fingerprint::of([&path]));
        wait = if look == Look::Settling { SETTLED } else { INTERVAL };
        if look == Look::Due {
            match read() {
                Ok(()) => watch.done(),
                Err(cause) if watch.failed(&cause.to_string()) => log(&cause),
                Err(_) => {}
            }
        }
    }
}

/// Runs errands for a time. Whether the owner is still there then.
fn passes(time: Duration, errands: &Receiver<Errand>) -> bool {
    let until = Instant::now() + time;
    loop {
        match errands.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(errand) => errand(),
            Err(end) => return end == RecvTimeoutError::Timeout,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn print(files: u8) -> Fingerprint {
        Fingerprint(vec![None; files.into()])
    }

    #[test]
    fn changed_files_are_due_once_they_stay_the_same() {
        let mut watch = FileWatch::new(print(0), u32::MAX);
        assert_eq!(watch.look(print(0)), Look::Idle);
        for files in 1..100 {
            assert_eq!(watch.look(print(files)), Look::Settling);
        }
        assert_eq!(watch.look(print(99)), Look::Due);
        watch.done();
        assert_eq!(watch.look(print(99)), Look::Idle);
        assert_eq!(watch.look(print(1)), Look::Settling);
    }

    #[test]
    fn files_that_always_change_are_due_after_some_looks() {
        let mut watch = FileWatch::new(print(0), 3);
        let mut files = 0;
        for _ in 0..2 {
            let looks = [(); 4].map(|()| {
                files += 1;
                watch.look(print(files))
            });
            assert_eq!(looks, [Look::Settling, Look::Settling, Look::Settling, Look::Due]);
            watch.done();
        }
    }

    #[test]
    fn failed_read_is_due_again_and_at_once_after_another_change() {
        let mut watch = FileWatch::new(print(0), 3);
        watch.look(print(1));
        for (expected, news) in [(Look::Due, true), (Look::Due, false), (Look::Idle, false), (Look::Due, false)] {
            assert_eq!(watch.look(print(1)), expected);
            if expected == Look::Due {
                assert_eq!(watch.failed("no descriptors"), news);
            }
        }
        assert_eq!([2, 2].map(|files| watch.look(print(files))), [Look::Settling, Look::Due]);
        assert!(watch.failed("no descriptors"));
    }

    #[test]
    fn thread_ends_with_its_owner() {
        let held = Arc::new(());
        let file = tempfile::NamedTempFile::new().unwrap();
        let watched = watch(file.path(), Fingerprint::of([file.path()]), {
            let held = held.clone();
            move || {
                drop(held.clone());
                Ok(())
            }
        });
        assert_eq!(Arc::strong_count(&held), 2);
        drop(watched);
        for _ in 0..10_000 {
            if Arc::strong_count(&held) == 1 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("the thread goes on");
    }

    fn watch(
        path: &Path,
        last: Fingerprint,
        read: impl FnMut() -> Result<(), &'static str> + Send + 'static,
    ) -> Sender<Errand> {
        spawn("watch", Watcher { path: path.to_owned(), last, read, log: |_: &_| {} }).unwrap()
    }

    #[test]
    fn another_file_in_the_same_place_has_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let absent = Fingerprint::of([&path]);
        fs::write(&path, "a").unwrap();
        let first = Fingerprint::of([&path]);
        // Same length, other file.
        fs::write(folder.path().join("new"), "b").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let second = Fingerprint::of([&path]);
        assert!(absent != first && first != second && second == Fingerprint::of([&path]));
    }

    /// A lack of descriptors passes without a change of the file.
    #[test]
    fn failed_read_is_repeated_until_it_succeeds_and_no_longer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (done, wait) = mpsc::channel();
        let mut failures = 2;
        let _watched = watch(file.path(), Fingerprint(vec![None]), move || {
            if failures == 0 {
                return done.send(()).map_err(|_| "nobody waits");
            }
            failures -= 1;
            Err("no descriptors")
        });
        wait.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(wait.recv_timeout(2 * INTERVAL).is_err(), "read once more");
    }
}
