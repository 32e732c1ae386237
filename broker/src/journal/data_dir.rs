//! The data folder of a broker: its lock, and what stands in it.
//!
//! `DIR/lock`, `DIR/journal/`, `DIR/cursors/`, `DIR/last/`, `DIR/dead/`, `DIR/node`: the broker's
//! identifier, 16 bytes. Folders have mode 0700 and files 0600: they hold captured credentials and
//! malware.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hpfeeds::{
    log::{Disk, Guard, LockError, RealDisk},
    wire::extension::NodeId,
};

use super::store::Disks;

const JOURNAL: &str = "journal";
const CURSORS: &str = "cursors";
const LAST: &str = "last";
const DEAD: &str = "dead";
const NODE: &str = "node";
/// The interval of attempts to lock the folder.
const INTERVAL: Duration = Duration::from_millis(100);

/// A data folder that is locked for this process.
pub(crate) struct DataDir {
    path: PathBuf,
    allows_network: bool,
    node: NodeId,
    _guard: Guard,
}

/// A data folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// Names the process that has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

impl DataDir {
    /// Opens a folder, makes it where it is missing, and locks it. While another process has the
    /// lock, it tries for `wait`. Blocks.
    pub(crate) fn open(path: &Path, wait: Duration, allows_network: bool) -> Result<Self, DataDirError> {
        let fault = |error| DataDirError::Io(path.to_owned(), error);
        let disk = open(path, allows_network).map_err(fault)?;
        let start = Instant::now();
        let guard = loop {
            match disk.lock() {
                Err(LockError::Used(_)) if start.elapsed() < wait => thread::sleep(INTERVAL),
                guard => break guard?,
            }
        };
        let node = node(&disk).map_err(fault)?;
        Ok(Self { path: path.to_owned(), allows_network, node, _guard: guard })
    }

    /// The broker's identifier, made when the folder was.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn journal(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder(JOURNAL)
    }

    pub(crate) fn cursors(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder(CURSORS)
    }

    pub(crate) fn last_values(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder(LAST)
    }

    pub(crate) fn dead_letters(&self) -> Result<Arc<RealDisk>, DataDirError> {
        self.folder(DEAD)
    }

    fn folder(&self, name: &str) -> Result<Arc<RealDisk>, DataDirError> {
        let path = self.path.join(name);
        let disk = open(&path, self.allows_network);
        disk.map(Arc::new).map_err(|error| DataDirError::Io(path, error))
    }
}

impl Disks {
    /// The disks of a folder, which they keep locked, and the broker's identifier.
    pub(super) fn of(dir: DataDir, keeps_last_values: bool) -> Result<(Self, NodeId), DataDirError> {
        let dir = Arc::new(dir);
        let last = if keeps_last_values { Some(dir.last_values()? as Arc<dyn Disk>) } else { None };
        let dead = Some(dir.dead_letters()? as Arc<dyn Disk>);
        let disks = Self { journal: dir.journal()?, cursors: dir.cursors()?, dead, last, held: Some(dir.clone()) };
        Ok((disks, dir.node()))
    }
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).field("node", &self.node).finish_non_exhaustive()
    }
}

fn open(path: &Path, allows_network: bool) -> io::Result<RealDisk> {
    if allows_network { RealDisk::open_anywhere(path) } else { RealDisk::open(path) }
}

/// Reads the identifier, or makes one.
fn node(disk: &RealDisk) -> io::Result<NodeId> {
    const NEW: &str = "node.new";
    let mut id = [0; 16];
    match disk.open(NODE) {
        Ok(file) if file.read_at(&mut id, 0)? == id.len() => return Ok(NodeId::new(id)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for half in id.chunks_mut(8) {
        half.copy_from_slice(&disk.random().to_be_bytes());
    }
    let _ = disk.unlink(NEW);
    let file = disk.create(NEW)?;
    file.write_at(&id, 0)?;
    file.sync()?;
    disk.rename(NEW, NODE)?;
    disk.sync_dir()?;
    Ok(NodeId::new(id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_folder_is_used_by_one_broker_which_the_second_one_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path, Duration::ZERO, false).unwrap();
        let error = DataDir::open(&path, Duration::from_millis(150), false).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is used by process {}", path.display(), std::process::id()));
        let node = first.node();
        assert_ne!(node, NodeId::default());
        // The second one waits for the first.
        let waiting = path.clone();
        let second =
            thread::spawn(move || DataDir::open(&waiting, Duration::from_secs(30), false).map(|dir| dir.node()));
        drop(first);
        assert_eq!(second.join().unwrap().unwrap(), node, "and has its identifier");
    }

    #[test]
    fn all_of_it_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let dir = DataDir::open(&path, Duration::ZERO, false).unwrap();
        dir.journal().unwrap().create("1.seg").unwrap();
        let disks = [dir.cursors(), dir.last_values(), dir.dead_letters()];
        assert!(disks.iter().all(Result::is_ok));
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        for name in ["", "journal", "cursors", "last", "dead"] {
            assert_eq!(mode(name), 0o700, "{name}");
        }
        for name in ["lock", "node", "journal/1.seg"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }
}
