//! Stores of keys on a disk that is full, or cannot be written.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use hpfeeds_broker::keys::{Entry, to_json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Running, broker, can, run,
    support::{Peer, within},
    users,
};

/// A small disk. It is taken away when this is dropped.
pub(crate) struct Disk {
    folder: TempDir,
}

impl Disk {
    /// `None`, and a word about it, where nothing can be mounted.
    pub(crate) async fn mount(size: &str) -> Option<Self> {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        let size = format!("size={size}");
        let path = disk.folder.path().to_str().unwrap();
        can("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", path]).await.then_some(disk)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves room for so many pages of 4 KiB.
    fn fill(&self, pages: u64) {
        let filler = fs::File::create(self.path("filler")).unwrap();
        let mut len = 0;
        while filler.write_all_at(&[1; 4096], len).is_ok() {
            len += 4096;
        }
        filler.set_len(len - 4096 * pages).unwrap();
    }

    /// Other files in the folder.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).filter(|name| name != "filler").collect();
        names.sort();
        names
    }

    pub(crate) async fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.folder.path().to_str().unwrap()]).await;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not mounted is what we want; whoever still has a file open loses it later.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}

/// Runs it to its end: exit code, stdout and stderr.
pub(crate) async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let output = within(command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn keys(auth: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    output(broker(&[&["keys"], arguments, &["--auth", auth]].concat())).await
}

/// It fails with one line that names the place and says this.
async fn fails(auth: &str, arguments: &[&str], place: &Path, expected: &[&str]) {
    let (code, _, stderr) = keys(auth, arguments).await;
    is_one_line(code, &stderr, place, expected);
}

pub(crate) fn is_one_line(code: Option<i32>, stderr: &str, place: &Path, expected: &[&str]) {
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains(place.to_str().unwrap()), "{} is not named in {stderr}", place.display());
    assert!(expected.iter().any(|text| stderr.contains(text)), "{stderr}");
}

/// More keys than there is room for.
fn many() -> (TempDir, String) {
    let entries = (0..500).map(|number| {
        let ident = format!("sensor-{number}");
        Entry { owner: ident.clone(), secret: "s".repeat(500), ident, ..Entry::default() }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.json");
    fs::write(&path, to_json(&entries.collect::<Vec<_>>()).unwrap()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// The stores that are files, on this disk: `--auth`, and the file.
fn stores(disk: &Disk) -> Vec<(String, PathBuf)> {
    let file = |name: &str| (disk.path(name).display().to_string(), disk.path(name));
    let address = (format!("database+sqlite:///{}", disk.path("address").display()), disk.path("address"));
    vec![file("keys.db"), address, file("users.json")]
}

const BOB: &[&str] = &["add", "bob", "--secret", "s", "--publish=*", "--subscribe=*"];

const FULL: &[&str] = &["No space left on device", "database or disk is full"];

#[tokio::test]
async fn a_full_disk_leaves_no_half_of_a_new_store() {
    let Some(disk) = Disk::mount("256k").await else { return };
    let (_folder, many) = many();
    // No room at all, for an empty table, and for some of the keys.
    for pages in [0, 2, 20] {
        disk.fill(pages);
        for (auth, place) in stores(&disk) {
            fails(&auth, &["import", &many], &place, FULL).await;
            assert!(disk.files().is_empty(), "{auth}, {pages} pages: {:?}", disk.files());
        }
    }
    disk.fill(0);
    let place = disk.path("new.db");
    let (code, _, stderr) = output(broker(&["--bind=127.0.0.1:0", "--auth", place.to_str().unwrap()])).await;
    is_one_line(code, &stderr, &place, FULL);
    assert!(disk.files().is_empty(), "{:?}", disk.files());
    // With room for it, it works.
    fs::remove_file(disk.path("filler")).unwrap();
    for (auth, _) in stores(&disk) {
        assert_eq!(keys(&auth, &["add", "bob"]).await.0, Some(0), "{auth}");
    }
    assert_eq!(disk.files(), ["address", "keys.db", "users.json"]);
}

#[tokio::test]
async fn a_full_disk_changes_nothing_in_a_store() {
    let Some(disk) = Disk::mount("256k").await else { return };
    let (_folder, many) = many();
    for (auth, _) in stores(&disk) {
        assert_eq!(keys(&auth, BOB).await.0, Some(0));
    }
    let before = disk.files();
    for pages in [0, 10] {
        disk.fill(pages);
        for (auth, place) in stores(&disk) {
            fails(&auth, &["import", &many], &place, FULL).await;
            assert_eq!(disk.files(), before, "{auth}");
            // On the full disk, what is there can be read.
            let (code, shown, stderr) = keys(&auth, &["list"]).await;
            assert_eq!((code, shown.lines().count()), (Some(0), 2), "{auth}: {stderr}");
            let running = Running::start(broker(&["--bind=127.0.0.1:0", "--auth", &auth])).await;
            Peer::login(running.addr, "bob", "s").await.settle().await;
        }
    }
    // An empty file, such as `touch` makes: the tables do not fit.
    fs::write(disk.path("empty.db"), "").unwrap();
    disk.fill(0);
    let place = disk.path("empty.db");
    let (code, _, stderr) = output(broker(&["--bind=127.0.0.1:0", "--auth", place.to_str().unwrap()])).await;
    is_one_line(code, &stderr, &place, FULL);
    assert_eq!(fs::metadata(&place).unwrap().len(), 0);
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_still_read() {
    const READ_ONLY: &[&str] = &["Read-only file system", "readonly database", "unable to open database file"];
    let Some(disk) = Disk::mount("256k").await else { return };
    for (auth, _) in stores(&disk) {
        assert_eq!(keys(&auth, BOB).await.0, Some(0));
    }
    let new = [disk.path("new.db"), disk.path("new.json")];
    disk.remount("ro").await;
    for (auth, place) in stores(&disk) {
        for arguments in [&["add", "eve"][..], &["set", "bob", "--new-secret"], &["remove", "bob"]] {
            fails(&auth, arguments, &place, READ_ONLY).await;
        }
        let running = Running::start(broker(&["--bind=127.0.0.1:0", "--auth", &auth])).await;
        Peer::login(running.addr, "bob", "s").await.settle().await;
    }
    for place in new {
        fails(place.to_str().unwrap(), &["add", "eve"], &place, READ_ONLY).await;
    }
    let place = disk.path("new.db");
    for more in [&[][..], &["--check-config"]] {
        let arguments = [&["--bind=127.0.0.1:0", "--auth", place.to_str().unwrap()], more].concat();
        let (code, _, stderr) = output(broker(&arguments)).await;
        is_one_line(code, &stderr, &place, &["Read-only file system", "read-only"]);
    }
    disk.remount("rw").await;
    assert_eq!(disk.files(), ["address", "keys.db", "users.json"]);
}

/// A copy of keys onto a full disk leaves half a file.
#[tokio::test]
async fn half_a_file_of_keys_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, users("bob")).unwrap();
    let mut running = Running::start(broker(&["--bind=127.0.0.1:0", "--auth", path.to_str().unwrap()])).await;
    let text = users("eve");
    for half in [1, text.len() / 2, text.len() - 1] {
        fs::write(&path, &text[..half]).unwrap();
        running.signal("-HUP").await;
        let line = running.logged("reload failed, keeping the previous configuration").await;
        assert!(line.contains(path.to_str().unwrap()) && line.contains("EOF while parsing"), "{line}");
        Peer::login(running.addr, "bob", "s").await.settle().await;
    }
    fs::write(&path, &text).unwrap();
    running.signal("-HUP").await;
    running.logged("reloaded").await;
    Peer::login(running.addr, "eve", "s").await.settle().await;
}

/// Nor does a look at one.
#[tokio::test]
async fn checking_a_database_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let auth = path.to_str().unwrap();
    let check = || output(broker(&["--check-config", "--auth", auth]));
    fs::write(&path, "").unwrap();
    // Otherwise it warns that everybody can read it.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let (code, _, stderr) = check().await;
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "it has created tables");
    fs::write(&path, "no database, however long: ".repeat(100)).unwrap();
    let (code, _, stderr) = check().await;
    is_one_line(code, &stderr, &path, &["file is not a database"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(keys(auth, &["add", "bob"]).await.0, Some(0));
    let before = fs::read(&path).unwrap();
    assert_eq!(check().await.0, Some(0));
    assert_eq!(fs::read(&path).unwrap(), before);
}
