//! Tells when a file changes.
//!
//! It looks at the file each second. Notifications of the system would be sooner, but they do not come from network
//! file systems, nor through the bind mount of a single file; and a file that is reached over links, as the secrets of
//! Kubernetes are, changes when any link on the way does. One `stat` sees all of that, and costs a microsecond.

use std::{
    fs, io,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{auth::AuthError, util::poll_backoff::PollBackoff};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a file that has changed must stay the same before it is read: it is likely still being written.
const SETTLED: Duration = Duration::from_millis(200);

/// How often to wait for that. A file that always changes is read too.
const PATIENCE: u32 = 10;

/// What differs when a file is another one, or its content is. `None`: it cannot be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature(Option<Stat>);

#[cfg(unix)]
type Stat = (u64, u64, u64, (i64, i64), (i64, i64));

#[cfg(not(unix))]
type Stat = (u64, std::time::SystemTime);

impl Signature {
    pub(crate) fn of(path: &Path) -> Self {
        Self(fs::metadata(path).and_then(|metadata| stat(&metadata)).ok())
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

/// Something else to do on the thread.
pub(crate) type Errand = Box<dyn FnOnce() + Send>;

/// Calls `changed` after each change since `last`, on a thread of its own; when it fails, logs why, and calls it again now
/// and then. The thread also does what it is sent, and ends when the sender is dropped.
///
/// A thread: a file system that hangs must stop nothing else. One thread for all: each that ever reads many keys keeps
/// the memory that they took, as the system's allocator has a heap for each.
pub(crate) fn spawn(
    last: Signature,
    path: &Path,
    changed: impl FnMut() -> Result<(), AuthError> + Send + 'static,
) -> io::Result<Sender<Errand>> {
    let (owner, errands) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new().name("keys".to_owned()).spawn(move || run(last, &path, &errands, changed))?;
    Ok(owner)
}

fn run(
    mut last: Signature,
    path: &Path,
    errands: &Receiver<Errand>,
    mut changed: impl FnMut() -> Result<(), AuthError>,
) {
    // Whether so much time has passed, and the owner is still there.
    let passed = |time: Duration| {
        let until = Instant::now() + time;
        loop {
            match errands.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(errand) => errand(),
                Err(end) => return end == RecvTimeoutError::Timeout,
            }
        }
    };
    let mut unread: Option<PollBackoff> = None;
    while passed(INTERVAL) {
        let mut now = Signature::of(path);
        if now != last {
            for _ in 0..PATIENCE {
                last = now;
                if !passed(SETTLED) {
                    return;
                }
                now = Signature::of(path);
                if now == last {
                    break;
                }
            }
            // What changes from here on is seen as another change.
            last = now;
            unread = Some(PollBackoff::default());
        }
        if let Some(retry) = &mut unread
            && retry.is_due()
        {
            match changed() {
                Ok(()) => unread = None,
                Err(cause) if retry.failed(&cause.to_string()) => warn!(%cause, "the keys stay as they were"),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_thread_ends_with_its_owner() {
        let held = Arc::new(());
        let file = tempfile::NamedTempFile::new().unwrap();
        let watched = spawn(Signature::of(file.path()), file.path(), {
            let held = held.clone();
            move || {
                drop(held.clone());
                Ok(())
            }
        });
        assert_eq!(Arc::strong_count(&held), 2);
        drop(watched.unwrap());
        for _ in 0..10_000 {
            if Arc::strong_count(&held) == 1 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it goes on");
    }

    #[test]
    fn any_other_file_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let absent = Signature::of(&path);
        fs::write(&path, "a").unwrap();
        let first = Signature::of(&path);
        // Same length, other file.
        fs::write(folder.path().join("new"), "b").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let second = Signature::of(&path);
        assert!(absent != first && first != second && second == Signature::of(&path));
    }

    /// A lack of descriptors passes without a change of the file.
    #[test]
    fn what_could_not_be_read_is_read_later() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (done, wait) = mpsc::channel();
        let mut failures = 2;
        let _watched = spawn(Signature(None), file.path(), move || {
            if failures == 0 {
                return done.send(()).map_err(AuthError::new);
            }
            failures -= 1;
            Err(AuthError::new("no descriptors"))
        });
        wait.recv_timeout(Duration::from_secs(60)).unwrap();
        // Once is enough.
        assert!(wait.recv_timeout(2 * INTERVAL).is_err());
    }
}
