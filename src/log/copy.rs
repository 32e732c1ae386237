//! The copy of a log: its files as they are at one moment, read beside the program that writes them.

use std::{io, thread, time::Duration};

use super::{
    disk::{Disk, File},
    layout::name::{self, CURSOR},
};

/// How often the folder is looked at again when files of it go meanwhile, and after which rest.
const TRIES: u32 = 100;
const REST: Duration = Duration::from_millis(10);
/// The bytes that are read at once.
const PORTION: usize = 1 << 20;

/// A segment by its name.
type Segment = (String, Box<dyn File>);

/// The files of a log, held open, and its cursor's file as it was when they were all there.
struct Files {
    cursor: Option<Vec<u8>>,
    segments: Vec<Segment>,
}

/// Copies the log of a folder into an empty one, and makes the copy durable. Returns its bytes.
///
/// It takes no lock and changes nothing: a program may use the log. The copy is what a power cut would
/// have left: everything that was durable when it began, and of what was written meanwhile any part.
/// Files that were set aside as unreadable are left out.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the other folder has such files; [`io::ErrorKind::WouldBlock`] if
/// segments are removed faster than they can be opened; and those of the disks.
pub fn copy(from: &dyn Disk, to: &dyn Disk) -> io::Result<u64> {
    let files = files(from)?;
    let mut bytes = 0;
    if let Some(cursor) = &files.cursor {
        let file = to.create(CURSOR)?;
        file.write_at(cursor, 0)?;
        file.sync()?;
        bytes += cursor.len() as u64;
    }
    let mut portion = vec![0; PORTION];
    for (name, segment) in &files.segments {
        let file = to.create(name)?;
        // One that has a successor is whole by now.
        let (length, mut at) = (segment.length()?, 0);
        while at < length {
            let most = usize::try_from(length - at).unwrap_or(PORTION).min(PORTION);
            let read = segment.read_at(&mut portion[..most], at)?;
            if read == 0 {
                break;
            }
            file.write_at(&portion[..read], at)?;
            at += read as u64;
        }
        file.sync()?;
        bytes += at;
    }
    to.sync_dir()?;
    Ok(bytes)
}

/// Opens all segments. A cursor that had not moved when the last one was open is of all of them: it moves
/// before a segment goes.
fn files(disk: &dyn Disk) -> io::Result<Files> {
    for _ in 0..TRIES {
        let cursor = cursor(disk)?;
        if let Some(segments) = segments(disk)? {
            if cursor == self::cursor(disk)? {
                return Ok(Files { cursor, segments });
            }
        }
        thread::sleep(REST);
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "segments are removed faster than they can be opened"))
}

fn cursor(disk: &dyn Disk) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(CURSOR) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // Two slots.
    let length = usize::try_from(file.length()?).unwrap_or(PORTION).min(PORTION);
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// `None` if one was removed between the list and its opening.
fn segments(disk: &dyn Disk) -> io::Result<Option<Vec<Segment>>> {
    let mut names: Vec<_> = disk.list()?.into_iter().map(|entry| entry.name).collect();
    names.retain(|name| name::parse(name).is_some());
    names.sort_unstable();
    let mut segments = Vec::new();
    for name in names {
        match disk.open(&name) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => segments.push((name, file?)),
        }
    }
    Ok(Some(segments))
}
