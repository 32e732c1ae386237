//! The records of a chain: what its sensors have tried, what its collector has written, and when its parts were killed.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use crate::event::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Sensor,
    Relay,
    Broker,
    Collector,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Kill {
    pub(super) part: Part,
    /// Before the signal.
    pub(super) from: Moment,
    /// When it was dead.
    pub(super) until: Moment,
}

/// A sensor's process, or a connection of the plain publisher: it numbers upwards without a gap.
pub(super) struct Source {
    pub(super) ident: &'static str,
    pub(super) first: u64,
    /// How many it may have sent.
    pub(super) tried: u64,
    pub(super) confirmed: Vec<u64>,
}

/// An epoch of the broker's journal, and a number in it.
pub(super) type Place = (u64, u64);

/// A line of the collector's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) place: Place,
    pub(super) at: Moment,
}

/// The collector's file as far as it is read.
pub(super) struct Written {
    path: PathBuf,
    offset: u64,
    pub(super) entries: Vec<Entry>,
}

impl Written {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, entries: Vec::new() }
    }

    /// Reads on, whole lines alone: what a kill has cut is written again in its place.
    pub(super) fn read(&mut self) {
        let Ok(mut file) = File::open(&self.path) else { return };
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        for line in std::str::from_utf8(&bytes[..whole]).unwrap().lines() {
            let words: Vec<u64> = line.split(' ').map(|word| word.parse().expect(line)).collect();
            let [number, epoch, place, at] = words[..] else { panic!("no line of the collector: {line}") };
            self.entries.push(Entry { number, place: (epoch, place), at: Moment(at) });
        }
    }
}
