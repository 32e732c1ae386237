//! The opening of a log: it finds what is there, never fails for damage, and begins a new epoch.

use std::{collections::VecDeque, io, sync::Arc};

use parking_lot::Mutex;

use super::{
    cursor::{self, Cursor, Stored},
    disk::{Disk, Entry, File, LOCK},
    error::LogError,
    layout::{
        Found,
        header::{DATA, Header},
        name::{self, BAD, CURSOR},
    },
    recovery,
    segment::{Segment, Shared},
    writer::{Log, LogOptions},
};
use crate::wire::extension::Position;

/// The result of an opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Segments that can be read.
    pub segments: usize,
    /// Segments that had not been sealed, and were scanned: one after a crash.
    pub scanned: usize,
    /// Segments whose data could not be made durable now: the disk has failed.
    pub unsynced: usize,
    /// Files that were set aside, by the name that they have now: no copy of their header can be
    /// read, or another file has the same one.
    pub bad: Vec<String>,
    /// The cursor's file cannot be read: everything that is there will be read again.
    pub cursor_lost: bool,
    /// Names that belong to no log.
    pub foreign: usize,
}

/// A file with the name of a segment.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) length: u64,
    pub(super) file: Arc<dyn File>,
}

/// The files of a folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Sorted by epoch and first number.
    pub(super) segments: Vec<(Header, Candidate)>,
    pub(super) headless: Vec<Candidate>,
    pub(super) bad: Vec<Entry>,
    pub(super) cursor: Stored,
    pub(super) foreign: usize,
    /// The highest epoch anywhere.
    pub(super) epoch: u64,
}

/// Looks at all files, and changes nothing.
pub(super) fn look(disk: &dyn Disk) -> Result<Folder, LogError> {
    let mut found = Folder {
        segments: Vec::new(),
        headless: Vec::new(),
        bad: Vec::new(),
        cursor: Stored::None,
        foreign: 0,
        epoch: 0,
    };
    for entry in disk.list()? {
        let known = name::parse(entry.name.strip_suffix(BAD).unwrap_or(&entry.name));
        match known {
            Some((epoch, _)) => found.epoch = found.epoch.max(epoch),
            None if [CURSOR, cursor::NEW, LOCK].contains(&&*entry.name) => continue,
            None => {
                found.foreign += 1;
                continue;
            }
        }
        if entry.name.ends_with(BAD) {
            found.bad.push(entry);
            continue;
        }
        let Entry { name, length } = entry;
        let file: Arc<dyn File> = disk.open(&name)?.into();
        let header = match recovery::header(&*file, length) {
            Found::Newer(version) => return Err(LogError::Newer { name, version }),
            Found::Good(header) => Some(header),
            Found::Bad => None,
        };
        let candidate = Candidate { name, length, file };
        match header {
            Some(header) => {
                found.epoch = found.epoch.max(header.epoch);
                found.segments.push((header, candidate));
            }
            None => found.headless.push(candidate),
        }
    }
    found.cursor = match cursor::read(disk)? {
        Stored::Newer(version) => return Err(LogError::Newer { name: CURSOR.to_owned(), version }),
        cursor => cursor,
    };
    if let Stored::Slot(slot) = found.cursor {
        found.epoch = found.epoch.max(slot.epoch);
    }
    // Of two with one header the one with the right name comes first.
    found.segments.sort_by_cached_key(|(header, candidate)| {
        let is_renamed = name::parse(&candidate.name) != Some((header.epoch, header.first));
        (header.epoch, header.first, is_renamed, candidate.name.clone())
    });
    Ok(found)
}

impl Log {
    /// Opens the log of a folder, and begins a new epoch: one more than the highest that the folder
    /// has. Nothing of it is on disk before the first record.
    ///
    /// Damage is no error: it is skipped, and counted by the reader that comes to it. Errors are a
    /// folder that is used by another process, one that a newer program has written, and a disk
    /// that fails.
    pub fn open(disk: Arc<dyn Disk>, options: &LogOptions) -> Result<(Self, OpenReport), LogError> {
        let guard = disk.lock()?;
        let found = look(&*disk)?;
        let mut report =
            OpenReport { foreign: found.foreign, cursor_lost: found.cursor == Stored::Lost, ..OpenReport::default() };
        let cursor = Cursor::new(&*disk, found.cursor);
        let mut shared = Shared { list: [].into(), is_open: false, epoch: found.epoch + 1, durable: 0, written: 0 };
        let mut last = cursor.position().number;
        let (mut bad, mut has_changed) = (found.bad, false);
        let mut set_aside = Vec::new();
        for candidate in found.headless {
            // A crash leaves one that was made and not synced, in which nothing can be.
            if candidate.length <= DATA || recovery::is_empty(&*candidate.file, candidate.length).unwrap_or(false) {
                has_changed |= disk.unlink(&candidate.name).is_ok();
            } else {
                set_aside.push(candidate);
            }
        }
        for (header, candidate) in found.segments {
            let is_second = shared
                .list
                .back()
                .is_some_and(|last| (last.header.epoch, last.header.first) == (header.epoch, header.first));
            if is_second {
                set_aside.push(candidate);
                continue;
            }
            let recovered = recovery::recover(candidate.name, &candidate.file, header, candidate.length);
            report.scanned += usize::from(recovered.was_open);
            report.unsynced += usize::from(recovered.is_unsynced);
            has_changed |= recovered.was_open;
            last = last.max(recovered.segment.last);
            shared.list.push_back(recovered.segment);
        }
        for candidate in set_aside {
            let name = format!("{}{BAD}", candidate.name);
            if disk.rename(&candidate.name, &name).is_ok() {
                has_changed = true;
                report.bad.push(name.clone());
                bad.push(Entry { name, length: candidate.length });
            }
        }
        if has_changed {
            // Also the names that a killed process has made, and not synced.
            disk.sync_dir()?;
        }
        clamp(&mut shared.list);
        report.segments = shared.list.len();
        (shared.durable, shared.written) = (last, last);
        let options = effective(&*disk, options)?;
        let mut log = Self {
            _guard: guard,
            options,
            cursor,
            bad,
            epoch: shared.epoch,
            next: last + 1,
            shared: Arc::new(Mutex::new(shared)),
            disk,
            current: None,
            kept: Vec::new(),
            written: 0,
            failures: 0,
        };
        // Consumed segments go now, or with the next that is.
        let _ = log.release();
        Ok((log, report))
    }

    /// The epoch of what is appended.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The position before the oldest message that is there.
    #[must_use]
    pub fn oldest(&self) -> Position {
        let shared = self.shared.lock();
        let header = shared.list.front().map(|front| front.header);
        header.map_or_else(|| self.last(), |header| Position::new(header.epoch, header.first - 1))
    }
}

/// After a failed sync the same messages may stand at the end of a segment and at the beginning of
/// the next one, where they are durable: they are the next one's.
fn clamp(list: &mut VecDeque<Segment>) {
    for at in 1..list.len() {
        let next = list[at].header;
        let segment = &mut list[at - 1];
        if segment.header.epoch == next.epoch && segment.last >= next.first {
            segment.last = next.first - 1;
            segment.index.retain(|&(_, first)| first < next.first);
        }
    }
}

/// The limit is half of the file system at most, and a segment a quarter of the limit.
fn effective(disk: &dyn Disk, options: &LogOptions) -> io::Result<LogOptions> {
    let limit = options.limit.min(disk.space()?.total / 2);
    Ok(LogOptions { limit, segment: options.segment.min(limit / 4), ..options.clone() })
}
