//! The ledger: what sensors, brokers and the collector have told of each event.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    ops::Range,
    time::Duration,
};

use crate::{
    collector::Delivery,
    event::{Line, Moment},
    sensor::{Mode, Orders, PIPELINED},
};

/// So many notes of each life are kept.
const NOTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LifeNumber(pub(crate) usize);

/// A sensor's process.
pub(crate) struct Life {
    pub(crate) mode: Mode,
    first: u64,
    /// Up to here, a flush has returned.
    flushed: u64,
    pub(crate) killed: Option<Moment>,
    /// How long it had been awake at some moments, in microseconds.
    awake: BTreeMap<Moment, u64>,
    /// The numbers that its folder held when it had been killed, of its own and of former lives.
    pub(crate) on_disk: BTreeSet<u64>,
    pub(crate) resent: u64,
    lost: u64,
    /// The last that its session has told, with the newest number that it had accepted then.
    notes: VecDeque<(u64, String)>,
}

pub(crate) struct Event {
    pub(crate) life: LifeNumber,
    /// When `publish` had returned, or when `publish_confirmed` was called.
    pub(crate) at: Moment,
    pub(crate) accepted: bool,
    pub(crate) confirmed: Option<Moment>,
    pub(crate) refused: bool,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) lives: Vec<Life>,
    pub(crate) events: BTreeMap<u64, Event>,
    pub(crate) deliveries: Vec<Delivery>,
    brokers: Vec<BrokerLife>,
    pub(crate) faults: Vec<String>,
}

/// A broker's process.
#[derive(Clone, Copy)]
struct BrokerLife {
    /// When the sensor could speak to it at the earliest.
    began: Moment,
    killed: Option<Moment>,
}

impl Life {
    /// How long the process was awake from a moment on.
    pub(crate) fn awake_since(&self, from: Moment) -> Duration {
        let before = self.awake.range(..=from).next_back().map_or(0, |(_, micros)| *micros);
        let all = self.awake.last_key_value().map_or(0, |(_, micros)| *micros);
        Duration::from_micros(all.saturating_sub(before))
    }
}

impl Ledger {
    /// All that is known of an event and the life that has published it, for people.
    pub(crate) fn tell_of(&self, number: u64) -> String {
        let Some(event) = self.events.get(&number) else { return format!("{number} is of no life") };
        let life = &self.lives[event.life.0];
        let last = self.events.iter().rev().find(|(_, other)| other.life == event.life).map_or(0, |(last, _)| *last);
        let ages = [Some(number), Some(last)]
            .map(|number| Some(life.killed?.0.saturating_sub(self.events.get(&number?)?.at.0)));
        format!(
            "life {} ({:?}) has published {} to {last}; {number} and the last of them were {ages:?} us old when it was \
             killed; on disk were {} numbers, {number} among them: {}; confirmed: {:?}; told: {:?}",
            event.life.0,
            life.mode,
            life.first,
            life.on_disk.len(),
            life.on_disk.contains(&number),
            event.confirmed,
            life.notes
        )
    }

    /// The number of a broker's new life.
    pub(crate) fn began_broker(&mut self, began: Moment) -> u64 {
        self.brokers.push(BrokerLife { began, killed: None });
        self.brokers.len() as u64
    }

    pub(crate) fn killed_broker(&mut self, at: Moment) {
        self.brokers.last_mut().expect("there was one").killed = Some(at);
    }

    /// A number that no sensor has used: of the last one, nothing may have been told.
    pub(crate) fn free(&self) -> u64 {
        let told = self.events.last_key_value().map(|(last, _)| *last);
        told.max(self.lives.last().map(|life| life.first)).map_or(1, |last| last + PIPELINED + 1)
    }

    pub(crate) fn began_sensor(&mut self, orders: &Orders) -> LifeNumber {
        let (killed, awake, on_disk) = (None, BTreeMap::new(), BTreeSet::new());
        let (mode, first) = (orders.mode, orders.first);
        self.lives.push(Life {
            mode,
            first,
            flushed: first - 1,
            killed,
            awake,
            on_disk,
            resent: 0,
            lost: 0,
            notes: VecDeque::new(),
        });
        LifeNumber(self.lives.len() - 1)
    }

    fn event(&mut self, life: LifeNumber, number: u64, at: Moment) -> &mut Event {
        let new = Event { life, at, accepted: false, confirmed: None, refused: false };
        self.events.entry(number).or_insert(new)
    }

    pub(crate) fn tell(&mut self, life: LifeNumber, told: &Line) {
        match *told {
            Line::Tried { number, at } => _ = self.event(life, number, at),
            Line::Accepted { number, at } => self.event(life, number, at).accepted = true,
            Line::Confirmed { number, at } => {
                let known = self.event(life, number, at);
                (known.accepted, known.confirmed) = (true, Some(at));
            }
            Line::Refused { number, at } => {
                let known = self.event(life, number, at);
                (known.accepted, known.refused) = (true, true);
            }
            Line::Flushed { number, at } => {
                let life = &mut self.lives[life.0];
                for (_, event) in self.events.range_mut((life.flushed + 1).min(number)..=number) {
                    if event.accepted && !event.refused && event.confirmed.is_none() {
                        event.confirmed = Some(at);
                    }
                }
                life.flushed = life.flushed.max(number);
            }
            Line::Stats { resent, lost, .. } => {
                let life = &mut self.lives[life.0];
                (life.resent, life.lost) = (resent, lost);
            }
            Line::Awake { at, micros } => _ = self.lives[life.0].awake.insert(at, micros),
            Line::Note(ref note) => {
                let newest = self.events.last_key_value().map_or(0, |(number, _)| *number);
                let notes = &mut self.lives[life.0].notes;
                notes.push_back((newest, note.clone()));
                if notes.len() > NOTES {
                    notes.pop_front();
                }
            }
            Line::Started | Line::Drained => {}
        }
    }

    pub(crate) fn killed_sensor(&mut self, life: LifeNumber, at: Moment, on_disk: BTreeSet<u64>) {
        let life = &mut self.lives[life.0];
        (life.killed, life.on_disk) = (Some(at), on_disk);
    }

    pub(crate) fn drained(&mut self, life: LifeNumber, on_disk: &BTreeSet<u64>) {
        let lost = self.lives[life.0].lost;
        if lost > 0 || !on_disk.is_empty() {
            self.faults.push(format!("the last sensor has drained, counts {lost} as lost, and left {on_disk:?}"));
        }
    }

    pub(crate) fn hear(&mut self, deliveries: Vec<Delivery>) {
        self.deliveries.extend(deliveries);
    }

    /// Whether some sensor can have published this number.
    pub(crate) fn was_published(&self, number: u64) -> bool {
        // Beyond the last that it has told, it may have had as many as it keeps under way.
        let near = number.saturating_sub(PIPELINED)..=number;
        self.events.range(near.clone()).next().is_some() || self.lives.iter().any(|life| near.contains(&life.first))
    }

    /// Whether a sensor has heard that a broker has an event which may then have gone with that broker. It comes all the
    /// same, late, when it was on disk, and the sensor was killed before its release was.
    pub(crate) fn may_come_late(&self, number: u64, within: Duration) -> bool {
        let confirmed = self.events.get(&number).and_then(|event| Some((event.at, event.confirmed?)));
        confirmed.is_some_and(|(from, until)| self.went_with_a_broker(from, until, within))
    }

    /// Whether a broker can have acknowledged something in that time, and was killed within so long.
    pub(crate) fn went_with_a_broker(&self, from: Moment, until: Moment, within: Duration) -> bool {
        self.brokers.iter().any(|broker| {
            let in_time = |killed: Moment| from <= killed && killed <= until.plus(within);
            broker.began <= until && broker.killed.is_some_and(in_time)
        })
    }

    /// Whether one of these brokers, which count from one, was killed after that.
    pub(crate) fn was_killed(&self, brokers: Range<u64>, after: Moment) -> bool {
        let numbered = (1..).zip(&self.brokers).filter(|(number, _)| brokers.contains(number));
        numbered.into_iter().any(|(_, broker)| broker.killed.is_some_and(|killed| killed >= after))
    }

    /// The first number of that life, and of all that follow.
    pub(crate) fn first_number(&self, life: usize) -> Option<u64> {
        self.lives.get(life).map(|life| life.first)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, lives, brokers) = (self.events.len(), self.lives.len(), self.brokers.len());
        write!(f, "{events} events of {lives} sensors, {brokers} brokers, {} deliveries", self.deliveries.len())
    }
}
