//! The real disk: a folder of the file system, with blocking calls of the standard library and
//! rustix.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock, statvfs},
    io::Errno,
};

use super::disk::{Disk, Entry, File, Guard, LOCK, LockError, Space};

/// A folder of a real file system. The folder gets mode 0700 and its files 0600: they hold captured
/// credentials and malware.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    /// The folder itself, for its sync.
    folder: fs::File,
}

impl RealDisk {
    /// Opens a folder, and makes it, with those above it, where it is missing.
    ///
    /// A network file system is an error ([`io::ErrorKind::Unsupported`]): locks and syncs mean
    /// less there.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let disk = Self::open_anywhere(path)?;
        match network_file_system(&disk.folder) {
            Some(name) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "{} is on a network file system ({name}), which may lose what it has synced: name a local folder, \
                     or allow it",
                    disk.path.display()
                ),
            )),
            None => Ok(disk),
        }
    }

    /// As [`open`](Self::open), on network file systems, too.
    pub fn open_anywhere(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        create_folder(&path)?;
        let folder = fs::File::open(&path)?;
        Ok(Self { path, folder })
    }

    /// The folder's path, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates what is missing of the path, and syncs the folder above each that it has created.
fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all(),
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => entries.push(Entry { name, length: metadata.len() }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Box::new(RealFile(options.open(self.path.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let path = self.path.join(name);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path);
        let file = match file {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                fs::File::open(&path)?
            }
            file => file?,
        };
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn lock(&self) -> Result<Guard, LockError> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(self.path.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The text is for people; without it the answer is the same.
                let _ = file.take(4096).read_to_string(&mut text);
                let holder = holder(&text, &Identity::own());
                return Err(LockError::Used(format!("{} is used by {holder}", self.path.display())));
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
        // Only a message depends on it: a full disk is no reason not to open.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text().as_bytes()));
        Ok(Box::new(file))
    }

    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.path)?;
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    fn random(&self) -> u64 {
        // Seeded for each thread by the system's randomness, as the standard library's hash maps
        // are.
        fastrand::u64(..)
    }
}

/// The process that may hold a lock: as much as `/proc` tells, nothing where there is none.
struct Identity {
    host: String,
    boot: String,
}

impl Identity {
    fn own() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self { host: read("/proc/sys/kernel/hostname"), boot: read("/proc/sys/kernel/random/boot_id") }
    }
}

/// The text that this process writes into the file that it has locked.
fn text() -> String {
    let own = Identity::own();
    let mut text = format!("host={}\nboot={}\npid={}\n", own.host, own.boot, std::process::id());
    // Field 22 of the whole, counted from behind the name in brackets, which may hold spaces.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(start) = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)) {
        let _ = writeln!(text, "start={start}");
    }
    text
}

/// The holder of a lock for an error message, by what it has written.
fn holder(text: &str, own: &Identity) -> String {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.filter(|value| !value.is_empty() && !value.contains(char::is_control))
    };
    match (field("pid").filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())), field("host"), field("boot")) {
        (Some(pid), Some(host), _) if host != own.host => format!("process {pid} on {host}"),
        // It has not written its own yet.
        (Some(_), _, Some(boot)) if boot != own.boot => "another process".to_owned(),
        (Some(pid), ..) => format!("process {pid}"),
        (None, ..) => "another process".to_owned(),
    }
}

/// The name of the network file system that holds the folder, if it is one.
#[cfg(target_os = "linux")]
fn network_file_system(folder: &fs::File) -> Option<&'static str> {
    // From the kernel's `linux/magic.h`. FUSE may be anything, and is not among them. The type has
    // 32 bits, in a field that is wider, and signed, on some architectures.
    let kind = rustix::fs::fstatfs(folder).ok()?.f_type;
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "the kernel's value has 32 bits")]
    #[allow(clippy::unnecessary_cast, reason = "the field's type depends on the architecture")]
    match kind as u32 {
        0x6969 => Some("NFS"),
        0x517B => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0xFE53_4D42 => Some("SMB2"),
        0x00C3_6400 => Some("Ceph"),
        0x5346_414F => Some("AFS"),
        0x0102_1997 => Some("9P"),
        0x7375_7245 => Some("Coda"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_: &fs::File) -> Option<&'static str> {
    None
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.0.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, length: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};

        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length) {
            // Not every file system can.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            result => Ok(result?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn trim(&self) -> io::Result<()> {
        self.0.set_len(self.length()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn own() -> Identity {
        Identity { host: "pi".into(), boot: "b1".into() }
    }

    #[test]
    fn the_holder_of_a_lock_is_named_by_what_it_wrote() {
        let cases = [
            ("host=pi\nboot=b1\npid=4711\nstart=99\n", "process 4711"),
            ("host=nas\nboot=b9\npid=4711\n", "process 4711 on nas"),
            ("host=pi\nboot=b0\npid=4711\n", "another process"),
            ("pid=4711\n", "process 4711"),
            ("pid=47\x1b11\n", "another process"),
            ("host=pi\nboot=b1\npid=\n", "another process"),
            ("", "another process"),
        ];
        for (text, expected) in cases {
            assert_eq!(holder(text, &own()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_folder_is_locked_once_and_names_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let disk = RealDisk::open(&path).unwrap();
        let guard = disk.lock().unwrap();
        let error = RealDisk::open(&path).unwrap().lock().unwrap_err();
        assert_eq!(error.to_string(), format!("{} is used by process {}", path.display(), std::process::id()));
        drop(guard);
        disk.lock().unwrap();
    }

    #[test]
    fn a_folder_and_its_files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let disk = RealDisk::open(&path).unwrap();
        drop(disk.create("1.seg").unwrap());
        let _guard = disk.lock().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(&path.join("1.seg")), mode(&path.join("lock"))),
            (0o700, 0o600, 0o600),
            "folder, file, lock"
        );
    }

    #[test]
    fn a_file_is_written_anywhere_read_to_its_end_and_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let file = disk.create("a").unwrap();
        assert_eq!(disk.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.reserve(1 << 20).unwrap();
        file.write_at(b"world", 6).unwrap();
        file.write_at(b"hello ", 0).unwrap();
        file.sync().unwrap();
        file.trim().unwrap();
        assert_eq!(file.length().unwrap(), 11);
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 5);
        assert_eq!(&buffer[..5], b"world");
        assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), [Entry { name: "b".into(), length: 11 }]);
        assert!(disk.open("a").is_err());
        disk.unlink("b").unwrap();
        assert_eq!(disk.list().unwrap(), []);
        let space = disk.space().unwrap();
        assert!(space.available <= space.total && space.total > 0, "{space:?}");
        assert_ne!(disk.random(), disk.random());
    }
}
