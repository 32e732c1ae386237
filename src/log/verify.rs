//! The check of a log: reads every record of a folder, changes nothing, and says what is damaged
//! and what is missing.

use super::{
    disk::Disk,
    error::LogError,
    snapshot::{Damage, Finding, Snapshot},
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

/// Checks the log of a folder. It takes no lock: of a log that is in use, the end may be half
/// written.
pub fn verify(disk: &dyn Disk) -> Result<Verified, LogError> {
    let snapshot = Snapshot::take(disk)?;
    let mut verified = Verified { cursor: snapshot.cursor(), ..Verified::default() };
    for finding in snapshot.findings() {
        verified.add(finding);
    }
    Ok(verified)
}

impl Verified {
    fn add(&mut self, finding: Finding) {
        match finding {
            Finding::Segment { is_sealed } => {
                self.segments += 1;
                self.unsealed += u64::from(!is_sealed);
            }
            Finding::Record(record) => {
                self.records += 1;
                self.messages += u64::from(record.messages);
                let first = self.range.map_or(record.first, |(first, _)| first);
                self.range = Some((first, record.last()));
            }
            Finding::Lost(lost) => self.lost += lost.messages(),
            Finding::Damage(damage) if self.damage.len() < NAMED => self.damage.push(damage),
            Finding::Damage(_) => self.more_damage += 1,
        }
    }
}
