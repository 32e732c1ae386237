//! The survey of a spool: its records, counted.

use std::collections::{BTreeMap, BTreeSet};

use hpfeeds::{
    Limits,
    log::{Damage, FRAMES, Finding, Record, Snapshot},
    wire::{FrameRef, Frames},
};

/// Damaged places, channels and the like that are remembered. Damage beyond is counted, and the
/// rest left out: no spool has so many channels, unless somebody makes them up.
const REMEMBERED: usize = 1000;

/// The figures of a spool.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) segments: u64,
    pub(super) records: u64,
    /// All messages that can be read.
    pub(super) all_messages: u64,
    /// Messages that are not confirmed, as far as the disk knows, and the bytes of their payloads.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// When the oldest and newest of these were written, in milliseconds since 1970.
    pub(super) oldest: Option<i64>,
    pub(super) newest: Option<i64>,
    pub(super) idents: BTreeSet<String>,
    pub(super) streams: BTreeSet<[u8; 16]>,
    pub(super) channels: BTreeMap<String, u64>,
    /// Messages that cannot be read.
    pub(super) lost: u64,
    pub(super) damage: Vec<Damage>,
    pub(super) more_damage: u64,
    /// The bytes of a record that is not whole, at the end of the last segment.
    pub(super) tail: u64,
}

impl Survey {
    /// Reads all of it.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut survey = Self::default();
        for finding in snapshot.findings() {
            survey.add(finding);
        }
        survey
    }

    /// Counts a finding. Its messages are not looked at one by one, unless they are to be sent.
    pub(super) fn add(&mut self, finding: Finding) {
        match finding {
            Finding::Segment { .. } => self.segments += 1,
            Finding::Record(record) => self.record(&record),
            Finding::Lost(lost) => self.lost += lost.messages(),
            // Its parts end at the same place.
            Finding::Damage(damage) if damage.is_tail => self.tail = self.tail.max(damage.length),
            Finding::Damage(damage) if self.damage.len() < REMEMBERED => self.damage.push(damage),
            Finding::Damage(_) => self.more_damage += 1,
        }
    }

    /// How many places are damaged.
    pub(super) fn places(&self) -> u64 {
        self.damage.len() as u64 + self.more_damage
    }

    fn record(&mut self, record: &Record) {
        self.records += 1;
        self.all_messages += u64::from(record.messages);
        if record.skip == record.messages || record.kind != FRAMES {
            return;
        }
        self.messages += u64::from(record.messages - record.skip);
        self.oldest = Some(self.oldest.map_or(record.unix_ms, |oldest| oldest.min(record.unix_ms)));
        self.newest = Some(self.newest.map_or(record.unix_ms, |newest| newest.max(record.unix_ms)));
        if let Some(stream) = record.stream
            && self.streams.len() < REMEMBERED
        {
            self.streams.insert(stream.id);
        }
        for (ident, channel, payload) in unconfirmed(record) {
            self.bytes += payload.len() as u64;
            if !self.idents.contains(ident) && self.idents.len() < REMEMBERED {
                self.idents.insert(ident.to_owned());
            }
            if let Some(messages) = self.channels.get_mut(channel) {
                *messages += 1;
            } else if self.channels.len() < REMEMBERED {
                self.channels.insert(channel.to_owned(), 1);
            }
        }
    }
}

/// The messages of a record that are not confirmed: ident, channel and payload.
pub(super) fn unconfirmed(record: &Record) -> impl Iterator<Item = (&str, &str, &[u8])> {
    messages(record).skip(record.skip as usize)
}

/// All messages of a record.
pub(super) fn messages(record: &Record) -> impl Iterator<Item = (&str, &str, &[u8])> {
    let frames = Frames::new(&record.body, Limits::new(u32::MAX));
    frames.map_while(|frame| match frame {
        Ok(FrameRef::Publish { ident, channel, payload }) => Some((ident, channel, payload)),
        _ => None,
    })
}
