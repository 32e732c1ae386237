//! The numbers that the folder of a spool holds after its program was killed, read from a copy.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use hpfeeds::{
    log::{Extent, FRAMES, Item, Log, LogOptions, RealDisk},
    wire::{FrameRef, Frames, Limits},
};

use crate::event::number;

/// The numbers behind the cursor; and those before it that are still in the files are not among them.
pub(crate) fn numbers(folder: &Path) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    if !folder.exists() {
        return found;
    }
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // The lock is the copy's own.
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let disk = Arc::new(RealDisk::open_anywhere(copy.path()).unwrap());
    let (log, _report) = Log::open(disk, &LogOptions::default()).unwrap();
    let mut reader = log.reader(log.cursor(), Extent::Written);
    loop {
        let items = reader.read().unwrap();
        if items.is_empty() {
            return found;
        }
        for item in items {
            match item {
                Item::Record(record) if record.kind == FRAMES => {
                    let frames = Frames::new(&record.body, Limits::default());
                    for frame in frames.skip(usize::try_from(record.skip).unwrap()) {
                        let FrameRef::Publish { payload, .. } = frame.unwrap() else {
                            panic!("a spool holds PUBLISH frames alone");
                        };
                        found.insert(number(payload));
                    }
                }
                // A record that SIGKILL has cut: what was in it was not promised yet. The checks see it if it was.
                Item::Record(_) | Item::Lost(_) => {}
            }
        }
    }
}
