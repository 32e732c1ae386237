//! Creation of an SQLite file, which gets its name when it is complete: a full disk leaves no half
//! of a file behind.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// An empty file, which is an empty database, beside the place where it belongs. It is removed when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct NewFile {
    place: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// A file that only its owner can read: it will hold secrets.
    pub(crate) fn beside(place: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = folder(place).join(format!(".keys-{:016x}", u64::from_ne_bytes(random)));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path)?;
        Ok(Self { place: place.to_owned(), path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, once it is no longer open; `false` when another program was faster.
    pub(crate) fn put_in_place(self) -> io::Result<bool> {
        match fs::hard_link(&self.path, &self.place) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            // Some file systems have no links. Then the two who create it at once must not meet at
            // this very moment.
            Err(_) if self.place.exists() => return Ok(false),
            Err(_) => fs::rename(&self.path, &self.place)?,
        }
        // The name is on the disk too when this returns.
        File::open(folder(&self.place))?.sync_all()?;
        Ok(true)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let mut journal = OsString::from(&self.path);
        journal.push("-journal");
        // The files may be gone already.
        let _ = fs::remove_file(journal);
        let _ = fs::remove_file(&self.path);
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn second_file_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("keys.db");
        let (first, second) = (NewFile::beside(&place).unwrap(), NewFile::beside(&place).unwrap());
        drop(NewFile::beside(&place).unwrap());
        fs::write(first.path(), "first").unwrap();
        assert!(!place.exists());
        assert!(first.put_in_place().unwrap() && !second.put_in_place().unwrap());
        assert_eq!(fs::read(&place).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
