//! The holder of a spool's lock, found without taking it.

use std::{fmt, fs, path::Path};

/// The file that a program that uses a spool has locked, and into which it has written who it is.
const LOCK: &str = "lock";

/// The program that uses a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// A process of this machine.
    Process(u64),
    /// No process that can be seen from here; by the lock file, this one was the last.
    Last(String),
    /// No program, ever.
    Nobody,
    /// This system does not tell who holds a lock; by the lock file, this one was the last.
    Unknown(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Last(last) => write!(f, "nobody here; last by {last}"),
            Self::Nobody => f.write_str("nobody"),
            Self::Unknown(last) => write!(f, "unknown here; last by {last}"),
        }
    }
}

/// The program that uses the spool in this directory.
pub(super) fn of(dir: &Path) -> Holder {
    let path = dir.join(LOCK);
    let Ok(file) = fs::metadata(&path) else { return Holder::Nobody };
    let text = fs::read_to_string(&path).unwrap_or_default();
    match locks() {
        Some(locks) => match locks.into_iter().find(|lock| is_of(lock, &file)) {
            Some(Lock { pid, .. }) => Holder::Process(pid),
            None => Holder::Last(last(&text)),
        },
        None => Holder::Unknown(last(&text)),
    }
}

/// A file that a process has locked.
struct Lock {
    pid: u64,
    device: (u32, u32),
    inode: u64,
}

/// The process and host that the lock file names.
fn last(text: &str) -> String {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.filter(|value| !value.is_empty())
    };
    match (field("pid"), field("host")) {
        (Some(pid), Some(host)) => format!("process {pid} on {host}"),
        (Some(pid), None) => format!("process {pid}"),
        (None, _) => "an unknown process".to_owned(),
    }
}

fn is_of(lock: &Lock, file: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    lock.inode == file.ino() && lock.device == device
}

/// The locks of all processes that can be seen from here; `None` where the system does not tell.
#[cfg(target_os = "linux")]
fn locks() -> Option<Vec<Lock>> {
    let locks = procfs::locks().ok()?.into_iter().filter_map(|lock| {
        let pid = u64::try_from(lock.pid?).ok()?;
        Some(Lock { pid, device: (lock.devmaj, lock.devmin), inode: lock.inode })
    });
    Some(locks.collect())
}

#[cfg(not(target_os = "linux"))]
fn locks() -> Option<Vec<Lock>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_is_named_by_what_it_wrote() {
        assert_eq!(last("host=pi\nboot=b\npid=4711\nstart=9\n"), "process 4711 on pi");
        assert_eq!(last("pid=4711\n"), "process 4711");
        assert_eq!(last(""), "an unknown process");
    }
}
