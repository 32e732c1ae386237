//! `subscribe --save-dir`: payloads as files that are named by their content.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// A directory of payloads, each under its SHA-256 in hex. Nothing that comes from the network
/// becomes part of a path.
pub(crate) struct SaveDir {
    path: PathBuf,
    /// Whether payloads are forced to the disk.
    durable: bool,
}

impl SaveDir {
    /// Makes the directory when it is not there.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self { path, durable: false })
    }

    /// Forces payloads to the disk; their names with [`sync`](Self::sync).
    pub(crate) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// Forces the names of all payloads to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_dir(&self.path)
    }

    /// Stores a payload; returns where, and its hash. A file that is there already is left alone.
    ///
    /// The file appears with all its content or not at all. Unless it is [durable](Self::durable), it
    /// is not forced to the disk: one that a power failure cut short has the wrong length, and is
    /// replaced when the payload comes again.
    pub(crate) fn store(&self, payload: &[u8]) -> io::Result<(PathBuf, String)> {
        let hash = sha256(payload);
        let path = self.path.join(&hash);
        if !is_stored(&path, payload.len()) {
            let mut file = new_file(&self.path)?;
            file.write_all(payload)?;
            if self.durable {
                file.as_file().sync_data()?;
            }
            file.persist(&path)?;
        }
        Ok((path, hash))
    }
}

/// Forces the names in a directory to the disk, where the system can.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::File::open(path)?.sync_all() } else { Ok(()) }
}

/// The SHA-256 of a payload, in hex.
pub(crate) fn sha256(payload: &[u8]) -> String {
    hex(&Sha256::digest(payload))
}

fn is_stored(path: &Path, length: usize) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == length as u64)
}

/// In the same directory, so that renaming it is atomic. Removed again when anything fails.
fn new_file(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".hpfeeds-");
    // As any other new file, less what the umask takes away; a temporary file would be for its
    // owner alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn files_are_named_by_their_content_and_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let save = SaveDir::new(dir.path().join("a/b")).unwrap();
        let (path, hash) = save.store(b"").unwrap();
        assert_eq!((hash.as_str(), &path), (EMPTY, &dir.path().join("a/b").join(EMPTY)));
        let (path, _) = save.store(b"payload").unwrap();
        // Still there, with what somebody wrote into it meanwhile: it was not written again.
        fs::write(&path, b"PAYLOAD").unwrap();
        save.store(b"payload").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"PAYLOAD");
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_was_cut_short_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let save = SaveDir::new(dir.path().into()).unwrap();
        let (path, _) = save.store(b"payload").unwrap();
        fs::write(&path, b"pay").unwrap();
        save.store(b"payload").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"payload");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, b"untouched").unwrap();
        let save = SaveDir::new(dir.path().join("saved")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("saved").join(EMPTY)).unwrap();
        let (path, _) = save.store(b"").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"untouched");
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
