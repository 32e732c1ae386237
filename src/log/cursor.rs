//! The cursor of a log: the position up to which everything is consumed, in a file with two slots
//! that are written in turn.

use std::io;

use super::{
    disk::{Disk, File},
    layout::{
        Found,
        name::CURSOR,
        slot::{APART, SLOT, Slot},
    },
};
use crate::wire::extension::Position;

/// The file while it is made anew.
pub(super) const NEW: &str = "cursor.new";

/// The cursor in memory, and its file.
#[derive(Debug)]
pub(super) struct Cursor {
    slot: Slot,
    /// As it was last stored.
    stored: Slot,
    /// `None`: there is none, or its last write or sync has failed, after which nothing is known
    /// about it.
    file: Option<Box<dyn File>>,
}

/// The cursor that opening has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// There is no file.
    None,
    /// There is one, and neither slot can be read.
    Lost,
    /// The newer slot.
    Slot(Slot),
    /// A newer program's.
    Newer(u16),
}

/// Reads the cursor's file.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Stored> {
    let file = match disk.open(CURSOR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::None),
        file => file?,
    };
    let mut newest = None;
    for offset in [0, APART] {
        // Room for a longer slot of a newer version.
        let mut bytes = [0; 512];
        let read = file.read_at(&mut bytes, offset).unwrap_or(0);
        match Slot::parse(&bytes[..read]) {
            Found::Newer(version) => return Ok(Stored::Newer(version)),
            Found::Good(slot) if newest.is_none_or(|other: Slot| other.turn < slot.turn) => newest = Some(slot),
            Found::Good(_) | Found::Bad => {}
        }
    }
    Ok(newest.map_or(Stored::Lost, Stored::Slot))
}

impl Cursor {
    /// Goes on from what was found.
    pub(super) fn new(disk: &dyn Disk, found: Stored) -> Self {
        match found {
            Stored::Slot(slot) => Self { slot, stored: slot, file: disk.open(CURSOR).ok() },
            // A turn that is higher than any of a file that cannot be read does not matter: the
            // file is made anew.
            Stored::None | Stored::Lost | Stored::Newer(_) => {
                Self { slot: Slot::default(), stored: Slot::default(), file: None }
            }
        }
    }

    pub(super) fn position(&self) -> Position {
        Position::new(self.slot.epoch, self.slot.number)
    }

    /// At most so many messages were dropped and not consumed, ever.
    pub(super) fn lost(&self) -> u64 {
        self.slot.lost
    }

    /// Moves it, in memory, never back.
    pub(super) fn advance(&mut self, to: Position) {
        if to > self.position() {
            (self.slot.epoch, self.slot.number) = (to.epoch, to.number);
        }
    }

    /// Counts what is dropped.
    pub(super) fn lose(&mut self, messages: u64) {
        self.slot.lost = self.slot.lost.saturating_add(messages);
    }

    /// Makes it durable, if it has changed.
    pub(super) fn store(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.slot == self.stored {
            return Ok(());
        }
        self.slot.turn = self.stored.turn + 1;
        let bytes = self.slot.encode();
        let offset = (self.slot.turn % 2) * APART;
        let file = match self.file.take() {
            Some(file) => {
                file.write_at(&bytes, offset)?;
                file.sync()?;
                file
            }
            None => create(disk, &bytes, offset)?,
        };
        self.file = Some(file);
        self.stored = self.slot;
        Ok(())
    }
}

/// Makes the file anew: the old one stays until the new one is durable.
fn create(disk: &dyn Disk, slot: &[u8; SLOT], offset: u64) -> io::Result<Box<dyn File>> {
    match disk.unlink(NEW) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(NEW)?;
    file.write_at(slot, offset)?;
    file.sync()?;
    disk.rename(NEW, CURSOR)?;
    disk.sync_dir()?;
    Ok(file)
}
