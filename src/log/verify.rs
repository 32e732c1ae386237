//! The check of a log: reads every record of a folder, changes nothing, and says what is damaged
//! and what is missing.

use super::{
    cursor::Stored,
    disk::Disk,
    error::LogError,
    layout::header::{DATA, Header},
    open::{Candidate, look},
    recovery,
    walker::{Step, Walker},
};
use crate::wire::extension::Position;

/// Damaged places that are named; those beyond are counted.
const NAMED: usize = 1000;

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments with a header.
    pub segments: u64,
    /// Of these, those without a footer that fits: one that is written to, or was when its process
    /// was killed.
    pub unsealed: u64,
    /// Records that can be read.
    pub records: u64,
    /// The messages in them.
    pub messages: u64,
    /// Messages between the first and the last that cannot be read.
    pub lost: u64,
    /// The first and the last message that can be read.
    pub range: Option<(Position, Position)>,
    /// The position up to which everything is consumed.
    pub cursor: Option<Position>,
    /// Where the damage is, at most 1,000 places.
    pub damage: Vec<Damage>,
    /// The places beyond.
    pub more_damage: u64,
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The offset in it.
    pub offset: u64,
    /// The bytes that cannot be read as records.
    pub length: u64,
}

/// Checks the log of a folder. It takes no lock: of a log that is in use, the end may be half
/// written.
pub fn verify(disk: &dyn Disk) -> Result<Verified, LogError> {
    let folder = look(disk)?;
    let mut verified = Verified::default();
    match folder.cursor {
        Stored::Slot(slot) => verified.cursor = Some(Position::new(slot.epoch, slot.number)),
        Stored::Lost => verified.add(super::layout::name::CURSOR, 0, 0),
        Stored::None | Stored::Newer(_) => {}
    }
    for file in &folder.headless {
        if file.length > DATA {
            verified.add(&file.name, 0, file.length);
        }
    }
    for bad in &folder.bad {
        verified.add(&bad.name, 0, bad.length);
    }
    let bounds = folder.segments.iter().skip(1).map(|(next, _)| Some(*next)).chain([None]);
    for ((header, candidate), next) in folder.segments.iter().zip(bounds) {
        verified.segment(*header, candidate, next);
    }
    Ok(verified)
}

impl Verified {
    fn segment(&mut self, header: Header, candidate: &Candidate, next: Option<Header>) {
        self.segments += 1;
        let footer = recovery::footer(&*candidate.file, &header, candidate.length);
        self.unsealed += u64::from(footer.is_none());
        let end = footer.map_or(candidate.length, |(_, start)| start);
        let mut walker = Walker::new(candidate.file.clone(), header, DATA, header.first, end);
        walker.bound = next.filter(|next| next.epoch == header.epoch).map_or(u64::MAX, |next| next.first);
        let mut from = DATA;
        loop {
            match walker.step() {
                Ok(Step::Record { offset, header: record, .. }) => {
                    from = offset + record.total();
                    self.records += 1;
                    self.messages += u64::from(record.messages);
                    let before = self.range.map_or(record.first - 1, |(_, last)| last.number);
                    self.lost += (record.first - 1).saturating_sub(before);
                    let first = self.range.map_or(Position::new(header.epoch, record.first), |(first, _)| first);
                    self.range = Some((first, Position::new(header.epoch, record.last())));
                }
                Ok(Step::Damaged { offset, header: record }) => {
                    from = end.min(offset + record.total());
                    self.add(&candidate.name, offset, from - offset);
                }
                Ok(Step::Skipped { offset, length }) => {
                    from = offset + length;
                    self.add(&candidate.name, offset, length);
                }
                Ok(Step::End) => return,
                Err(_) => {
                    self.add(&candidate.name, from, 0);
                    walker.pass();
                }
            }
        }
    }

    fn add(&mut self, file: &str, offset: u64, length: u64) {
        if self.damage.len() < NAMED {
            self.damage.push(Damage { file: file.to_owned(), offset, length });
        } else {
            self.more_damage += 1;
        }
    }
}
