//! The checks of the chain: what was confirmed is written, nothing is made up, and what is written twice may be.
//!
//! The broker stores each number once, whoever was killed: relay and broker know the streams of what they store. Messages that it
//! has delivered and neither stored nor acknowledged when it is killed come again, in its next epoch. But for that the
//! lines of the collector's file are in the order of the journal, without a gap, and go back only after a kill:
//!
//! - of the collector: to what it had committed. The broker sends at most a window beyond what the collector has told it
//!   to have taken, and a batch is written before it is committed;
//! - of the broker: to what its file of cursors has, which it writes once a second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    ops::Bound,
    time::Duration,
};

use super::{
    children::{BATCH, WINDOW},
    written::{Entry, Kill, Part, Place, Source},
};
use crate::event::{Moment, payload};

/// A second, the interval of cursors, and one for an fsync or two: time in which this machine ran its programs and its disk.
const CURSORS: Duration = Duration::from_secs(2);

/// A window, a batch that is not committed, and the longest message, in bytes of payload.
const IN_FLIGHT: usize = WINDOW + (BATCH + 1) * 60_100;

/// Faults that are told one by one.
const TOLD: usize = 20;

/// Time for which the machine was awake, at moments.
pub(super) type Clock = BTreeMap<Moment, Duration>;

#[derive(Default)]
struct Sums {
    accepted: u64,
    confirmed: u64,
    written: u64,
    /// Written, though its sensor was not told.
    unheard: u64,
    repeated: u64,
    rewinds: u64,
    /// Repeated, as a broker was killed before the message was in its file.
    moved: u64,
    /// The oldest repeat after a kill of the broker, and the most bytes after one of the collector alone.
    oldest: Duration,
    most: usize,
    kills: [usize; 4],
}

pub(super) fn check(sources: &[Source], kills: &[Kill], entries: &[Entry], clock: &Clock) -> Result<(), String> {
    let mut faults = Vec::new();
    let mut sums = Sums {
        kills: [Part::Sensor, Part::Relay, Part::Broker, Part::Collector]
            .map(|part| kills.iter().filter(|kill| kill.part == part).count()),
        ..Sums::default()
    };
    let written: BTreeSet<u64> = entries.iter().map(|entry| entry.number).collect();
    sources_arrived(sources, &written, &mut sums, &mut faults);
    sums.written = written.len() as u64;
    let places = stored_once(entries, &mut faults);
    Order { kills, entries, clock, faults: &mut faults, sums: &mut sums }.check(&places);
    first_order(sources, entries, &mut faults);
    println!("{sums}");
    if !faults.is_empty() {
        let told = faults[..faults.len().min(TOLD)].join("\n");
        return Err(format!("{} faults; the first of them:\n{told}", faults.len()));
    }
    if sums.written != sums.confirmed + sums.unheard || sums.repeated + sums.written != entries.len() as u64 {
        return Err("the sums do not agree".to_owned());
    }
    Ok(())
}

/// All that was confirmed is written. Of each source a beginning is: nothing is left out before something that came.
fn sources_arrived(sources: &[Source], written: &BTreeSet<u64>, sums: &mut Sums, faults: &mut Vec<String>) {
    let mut known = 0;
    for Source { ident, first, tried, confirmed } in sources {
        let confirmed: HashSet<u64> = confirmed.iter().copied().collect();
        let came = written.range(first..&(first + tried)).count() as u64;
        known += came;
        for number in *first..first + tried {
            let (is_written, is_confirmed) = (written.contains(&number), confirmed.contains(&number));
            if is_confirmed && !is_written {
                faults.push(format!("{number} of {ident} was confirmed, and is not written: lost"));
            }
            if is_written && number >= first + came {
                faults.push(format!("{number} of {ident} is written, and one before it (from {first} on) is not"));
            }
            sums.unheard += u64::from(is_written && !is_confirmed);
        }
        sums.accepted += tried;
        sums.confirmed += confirmed.len() as u64;
    }
    if known != written.len() as u64 {
        faults.push(format!("{} numbers are written that were never published", written.len() as u64 - known));
    }
}

/// Each number has one place in the broker's journal, and each place one number. All the places, in order, and whether
/// they went with a broker: then their number has come to a later epoch.
fn stored_once(entries: &[Entry], faults: &mut Vec<String>) -> BTreeMap<Place, bool> {
    let (mut numbers, mut places) = (HashMap::new(), BTreeMap::new());
    for Entry { number, place, .. } in entries {
        let before = numbers.insert(*number, *place).unwrap_or(*place);
        if before != *place {
            if before.0 >= place.0 {
                faults.push(format!("{number} is stored twice, at {before:?} and {place:?}"));
            }
            places.insert(before, (*number, true));
        }
        let (other, _) = *places.entry(*place).or_insert((*number, false));
        if other != *number {
            faults.push(format!("{number} and {other} are both at {place:?}"));
        }
    }
    places.into_iter().map(|(place, (_, is_gone))| (place, is_gone)).collect()
}

/// The numbers of a source come first in their order.
fn first_order(sources: &[Source], entries: &[Entry], faults: &mut Vec<String>) {
    let firsts: BTreeMap<u64, usize> = sources.iter().enumerate().map(|(index, one)| (one.first, index)).collect();
    let (mut seen, mut newest) = (HashSet::new(), vec![0; sources.len()]);
    for entry in entries.iter().filter(|entry| seen.insert(entry.number)) {
        let Some((_, source)) = firsts.range(..=entry.number).next_back() else { continue };
        if entry.number < newest[*source] {
            faults.push(format!("{} came after {}", entry.number, newest[*source]));
        }
        newest[*source] = newest[*source].max(entry.number);
    }
}

/// The order of lines, and the repeats.
struct Order<'a> {
    kills: &'a [Kill],
    entries: &'a [Entry],
    clock: &'a Clock,
    faults: &'a mut Vec<String>,
    sums: &'a mut Sums,
}

impl Order<'_> {
    fn check(&mut self, places: &BTreeMap<Place, bool>) {
        let mut bytes = vec![0];
        for entry in self.entries {
            bytes.push(bytes.last().unwrap() + payload(entry.number).len());
        }
        let mut last: HashMap<u64, usize> = HashMap::new();
        // Where the lines went back last, and when.
        let mut rewound = (0, Moment(0));
        for (index, entry) in self.entries.iter().enumerate() {
            if let Some(before) = index.checked_sub(1).map(|before| self.entries[before].place) {
                if entry.place <= before {
                    self.sums.rewinds += 1;
                    if !self
                        .kills_of(&[Part::Broker, Part::Collector])
                        .any(|kill| kill.until >= rewound.1 && kill.from <= entry.at)
                    {
                        let Entry { number, place, .. } = entry;
                        self.faults
                            .push(format!("{number} at {place:?} came after {before:?}, and no part was killed"));
                    }
                    rewound = (index, entry.at);
                } else {
                    let between = (Bound::Excluded(before), Bound::Excluded(entry.place));
                    for (next, is_gone) in places.range(between) {
                        if !is_gone || next.0 == entry.place.0 {
                            let place = entry.place;
                            self.faults.push(format!("{place:?} came after {before:?}, and {next:?} did not"));
                        }
                    }
                }
            }
            if let Some(before) = last.insert(entry.number, index) {
                self.sums.repeated += 1;
                if before >= rewound.0 && self.entries[before].place == entry.place {
                    self.faults.push(format!("{} came twice, and the lines did not go back", entry.number));
                }
                self.may_repeat(before, entry, &bytes);
            }
        }
    }

    fn kills_of<'b>(&'b self, parts: &'b [Part]) -> impl Iterator<Item = &'b Kill> {
        self.kills.iter().filter(|kill| parts.contains(&kill.part))
    }

    /// A repeat of what was last written there.
    fn may_repeat(&mut self, before: usize, entry: &Entry, bytes: &[usize]) {
        let at = self.entries[before].at;
        // Lines that a collector has written after the broker's death count as written at that death.
        let age = |kill: &Kill| self.awake(kill.until).saturating_sub(self.awake(at));
        let oldest = self
            .kills_of(&[Part::Broker])
            .filter(|kill| kill.from <= entry.at && kill.until.plus(CURSORS) >= at)
            .map(age)
            .min();
        let since = |kill: &Kill| {
            let end = self.entries.partition_point(|entry| entry.at <= kill.until);
            bytes[end.max(before)] - bytes[before]
        };
        let kills = self.kills_of(&[Part::Collector]);
        let most = kills.filter(|kill| kill.until >= at && kill.from <= entry.at).map(since).min();
        let is_moved = self.entries[before].place != entry.place;
        self.sums.moved += u64::from(is_moved);
        match (oldest, most) {
            (_, Some(most)) if !is_moved && most <= IN_FLIGHT => self.sums.most = self.sums.most.max(most),
            (Some(oldest), _) if oldest <= CURSORS => self.sums.oldest = self.sums.oldest.max(oldest),
            _ => self.faults.push(format!(
                "{} came again, {oldest:?} before the broker was killed, {most:?} bytes before the collector was",
                entry.number
            )),
        }
    }

    fn awake(&self, at: Moment) -> Duration {
        self.clock.range(..=at).next_back().map_or(Duration::ZERO, |(_, awake)| *awake)
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, confirmed, written, unheard, repeated, rewinds, moved, oldest, most, kills } = self;
        let [sensor, relay, broker, collector] = kills;
        writeln!(f, "killed: sensor {sensor}, relay {relay}, broker {broker}, collector {collector}")?;
        writeln!(f, "accepted {accepted} = confirmed {confirmed} + unconfirmed {}", accepted - confirmed)?;
        writeln!(
            f,
            "written {written} = confirmed {confirmed} + arrived unconfirmed {unheard}; lost 0 of the confirmed"
        )?;
        write!(
            f,
            "repeated {repeated}, of which {moved} were not stored when the broker was killed; the lines went back \
             {rewinds} times: at most {most} bytes before a kill of the \
             collector, else at most {oldest:?} before one of the broker"
        )
    }
}
