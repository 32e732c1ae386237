//! The backup of a data folder, beside the broker that uses it.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hpfeeds::log::{RealDisk, copy};

/// Logs in the order in which they are copied: what says how far somebody has come in the journal is
/// older than the copy of the journal. Messages come again then, and none is left out.
const ORDER: [&str; 5] = ["relay", "cursors", "last", "dead", "journal"];

/// Files that are replaced by renaming, or never change.
const FILES: [&str; 3] = ["node", "presence.json", "dashboard.tokens"];

/// Files of the process that uses the folder.
const OTHERS: [&str; 2] = ["lock", "control"];

/// Copies a data folder to a new one, which is there once it is whole. Returns a line for each thing
/// that was copied, and for each that was not.
pub(super) fn back_up(from: &Path, to: &Path) -> Result<String, String> {
    if to.exists() {
        return Err(format!("{} exists already: name a folder that does not", to.display()));
    }
    if !ORDER.iter().any(|log| from.join(log).is_dir()) {
        return Err(format!("{} is no data folder of a broker: name one with --data-dir", from.display()));
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let fault = |path: &Path, cause: io::Error| format!("{}: {cause}", path.display());
    if partial.exists() {
        return Err(format!("{} is there, of a backup that was cut off or still runs: remove it", partial.display()));
    }
    DirBuilder::new().mode(0o700).create(&partial).map_err(|cause| fault(&partial, cause))?;
    let copied = copy_all(from, &partial).and_then(|text| {
        fs::rename(&partial, to).map_err(|cause| fault(to, cause))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|cause| fault(parent, cause))?;
        Ok(text)
    });
    if copied.is_err() {
        // A part is of no use.
        let _ = fs::remove_dir_all(&partial);
    }
    copied
}

fn copy_all(from: &Path, to: &Path) -> Result<String, String> {
    let mut text = String::new();
    for name in FILES {
        let path = from.join(name);
        match copy_file(&path, &to.join(name)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(format!("{}: {cause}", path.display())),
            // A String takes everything.
            Ok(bytes) => _ = writeln!(text, "copied: {name}, {bytes} bytes"),
        }
    }
    for log in ORDER {
        let path = from.join(log);
        if !path.is_dir() {
            continue;
        }
        let copied = RealDisk::open_anywhere(&path)
            .and_then(|source| copy(&source, &RealDisk::open_anywhere(to.join(log))?))
            .map_err(|cause| format!("{}: {cause}", path.display()))?;
        let _ = writeln!(text, "copied: {log}, {copied} bytes");
    }
    let entries = fs::read_dir(from).map_err(|cause| format!("{}: {cause}", from.display()))?;
    let mut left: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    left.retain(|name| ![&FILES[..], &ORDER, &OTHERS].concat().contains(&&**name));
    left.sort_unstable();
    for name in left {
        let _ = writeln!(text, "not copied, as it is none of the broker's: {}", name.escape_debug());
    }
    Ok(text)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let bytes = io::copy(&mut source, &mut target)?;
    target.sync_all()?;
    Ok(bytes)
}
