//! Changes of keys in a JSON file. Fields that no broker knows stay as they are.

use std::{
    fmt, fs,
    fs::{File, TryLockError},
    io::{self, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::{
    change::{Change, Idents},
    format::{print, put_secrets, value},
    listing::Listing,
};
use crate::auth::{
    AuthError,
    entry::Entry,
    json::{LISTS, entries, entry, object},
    remarks::Remarks,
};

/// The longest wait for another program that changes the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interval of attempts to lock the folder.
const STEP: Duration = Duration::from_millis(20);

pub(super) fn all(path: &Path) -> Result<Listing, AuthError> {
    let text = fs::read(path).map_err(|cause| fault(path, &cause))?;
    let root = object(&text).map_err(|cause| fault(path, &cause))?;
    let (mut listing, mut remarks) = (Listing::default(), Remarks::default());
    for (ident, value) in &root {
        listing.add(entry(ident, value, &mut remarks).map_err(|cause| fault(path, &cause)), LISTS, &mut remarks);
    }
    listing.remarks = remarks.into_lines();
    Ok(listing)
}

pub(super) fn get(path: &Path, ident: &str) -> Result<Option<Entry>, AuthError> {
    let text = fs::read(path).map_err(|cause| fault(path, &cause))?;
    let root = object(&text).map_err(|cause| fault(path, &cause))?;
    let found = root.get(ident).map(|value| entry(ident, value, &mut Remarks::default()));
    found.transpose().map_err(|cause| fault(path, &cause))
}

pub(super) async fn apply(path: &Path, changes: &[Change]) -> Result<(), AuthError> {
    // A link stays, and what it leads to is replaced.
    let (path, text) = match fs::canonicalize(path) {
        Ok(path) => (path, None),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => (path.to_owned(), Some(b"{}".to_vec())),
        Err(cause) => return Err(fault(path, &cause)),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The folder is locked, as the file is another one afterwards. Nothing is left behind.
    let _lock = lock(folder).await?;
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(cause) => match text {
            Some(text) if cause.kind() == io::ErrorKind::NotFound => text,
            _ => return Err(fault(&path, &cause)),
        },
    };
    let mut root = object(&text).map_err(|cause| fault(&path, &cause))?;
    let mut idents = Idents { known: root.keys().cloned().collect() };
    for change in changes {
        idents.admit(change).map_err(|cause| fault(&path, &cause))?;
        edit(&mut root, change).map_err(|cause| fault(&path, &cause))?;
    }
    let text = print(root);
    // Another fault of the file must not make the broker refuse the change.
    entries(text.as_bytes(), &mut Remarks::default()).map_err(|cause| fault(&path, &cause))?;
    replace(&path, folder, &text).map_err(|cause| fault(&path, &cause))
}

async fn lock(folder: &Path) -> Result<File, AuthError> {
    let open = File::open(folder).map_err(|cause| fault(folder, &cause))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match open.try_lock() {
            Ok(()) => return Ok(open),
            Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(STEP).await,
            Err(cause) => return Err(fault(folder, &format_args!("cannot lock it against other writers: {cause}"))),
        }
    }
}

fn edit(root: &mut Map<String, Value>, change: &Change) -> Result<(), String> {
    match change {
        Change::Add(entry) | Change::Put(entry) => {
            root.insert(entry.ident.clone(), value(entry)?.into());
        }
        Change::Set { ident, fields } => {
            let Some(Value::Object(map)) = root.get_mut(ident) else {
                return Err(format!("user {ident:?}: must be an object"));
            };
            // A field that is replaced may be faulty.
            let new = [
                ("owner", fields.owner.clone().map(Value::from)),
                ("pubchans", fields.publish.clone().map(Value::from)),
                ("subchans", fields.subscribe.clone().map(Value::from)),
            ];
            for (name, value) in new {
                if let Some(value) = value {
                    map.insert(name.to_owned(), value);
                }
            }
            if let Some(secret) = &fields.secret
                && !map.get("secret").is_some_and(Value::is_string)
            {
                map.insert("secret".to_owned(), secret.as_str().into());
            }
            let before = entry(ident, &Value::Object(map.clone()), &mut Remarks::default())?;
            let after = fields.amend(before, SystemTime::now()).map_err(|cause| format!("user {ident:?}: {cause}"))?;
            if fields.touches_publish() {
                map.insert(LISTS[0].to_owned(), after.publish.as_slice().into());
            }
            if fields.touches_subscribe() {
                map.insert(LISTS[1].to_owned(), after.subscribe.as_slice().into());
            }
            if fields.touches_secret() {
                put_secrets(map, &after)?;
            }
        }
        Change::Remove(ident) => {
            root.remove(ident);
        }
    }
    Ok(())
}

/// Writes a file beside it, with the same mode and owner, and gives it its name.
fn replace(path: &Path, folder: &Path, text: &str) -> io::Result<()> {
    // Readable by its owner alone unless the old one was otherwise.
    let mut new = tempfile::Builder::new().prefix(".keys-").tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(path) {
        keep_owner(new.as_file(), &old)?;
        new.as_file().set_permissions(old.permissions())?;
    }
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    // The name is on the disk too when this returns.
    File::open(folder)?.sync_all()
}

#[cfg(unix)]
fn keep_owner(new: &File, old: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let own = new.metadata()?;
    if (own.uid(), own.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(new, Some(old.uid()), Some(old.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

fn fault(path: &Path, cause: &dyn fmt::Display) -> AuthError {
    AuthError::new(format_args!("{}: {cause}", path.display()))
}
