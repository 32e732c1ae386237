//! The checks: what must hold of each event, and the sums that must agree.
//!
//! An event that a sensor has accepted is confirmed, refused, on disk when its sensor was killed, or lost with it; and it
//! was delivered, or lost with a sensor, or it stood acknowledged in the queue of a broker that was killed.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    event::{DENIED_EACH, Moment},
    ledger::{Event, Ledger},
    sensor::Mode,
};

/// A broker that is killed may take with it what it has acknowledged for less than that.
const ACKNOWLEDGED: Duration = Duration::from_secs(1);

/// A sensor that is killed may take with it what is younger than the spool's `after` and an fsync or two. Its age is the
/// time for which the sensor was awake: a machine that does not run it, or a disk that does not answer, stops that clock.
const FSYNC: Duration = Duration::from_millis(500);

/// Faults that are told one by one.
const TOLD: usize = 20;

/// The end of an event that was accepted.
enum End {
    Confirmed,
    Refused,
    /// On disk when its sensor was killed, and settled by a later one.
    Spooled,
    /// Acknowledged, and the sensor was killed before it could say so.
    Unheard,
    /// Lost with its sensor, at that age.
    Lost(Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Sums {
    accepted: u64,
    confirmed: u64,
    refused: u64,
    spooled: u64,
    unheard: u64,
    lost: u64,
    /// The age of the oldest that is lost, when its sensor was killed: time that it was awake.
    oldest_lost: Duration,
    /// Acknowledged by a broker that was then killed.
    gone: u64,
    delivered: u64,
    /// Delivered, though no sensor has lived to say that it was accepted.
    beyond: u64,
    repeated: u64,
    resent: u64,
}

/// Checks everything, and prints the sums; or says what is wrong.
pub(crate) fn check(ledger: &Ledger) -> Result<(), String> {
    let mut faults = ledger.faults.clone();
    let first = deliveries(ledger, &mut faults);
    order(ledger, &first, &mut faults);
    let mut gone = Vec::new();
    let mut sums = Sums {
        repeated: (ledger.deliveries.len() - first.len()) as u64,
        resent: ledger.lives.iter().map(|life| life.resent).sum(),
        ..Sums::default()
    };
    for (&number, event) in &ledger.events {
        let delivered = first.contains_key(&number);
        if event.accepted {
            (sums.accepted, sums.delivered) = (sums.accepted + 1, sums.delivered + u64::from(delivered));
            match account(ledger, number, event, delivered) {
                Ok(end) => {
                    if sums.add(&end, delivered) {
                        gone.push(number);
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
    }
    sums.beyond = first.len() as u64 - sums.delivered;
    gaps(ledger, &first, &gone, &mut faults);
    println!("{sums}");
    if faults.is_empty() {
        return sums.agree();
    }
    let told = faults[..faults.len().min(TOLD)].join("\n");
    Err(format!("{} faults; the first of them:\n{told}", faults.len()))
}

/// The place of each number's first delivery. In one life of the broker, no number may come twice; what was never
/// published, and what was refused, may not come at all.
fn deliveries(ledger: &Ledger, faults: &mut Vec<String>) -> BTreeMap<u64, usize> {
    let mut first = BTreeMap::new();
    let mut last_broker = BTreeMap::new();
    for (place, delivery) in ledger.deliveries.iter().enumerate() {
        let (number, broker) = (delivery.number, delivery.broker);
        first.entry(number).or_insert(place);
        if let Some((_, before)) = last_broker.insert(number, (broker, place)).filter(|(last, _)| *last == broker) {
            faults.push(format!("{number} came twice from broker {broker}: {}", twice(ledger, number, before, place)));
        }
        if !ledger.was_published(number) || number % DENIED_EACH == 0 {
            faults.push(format!("{number} came, which was not published, or was refused"));
        }
    }
    first
}

/// All that helps to tell why a number came at two places.
fn twice(ledger: &Ledger, number: u64, one: usize, other: usize) -> String {
    let around = |place: usize| {
        let places = place.saturating_sub(2)..(place + 3).min(ledger.deliveries.len());
        places.map(|place| ledger.deliveries[place].number).collect::<Vec<_>>()
    };
    format!("at {one} in {:?}, at {other} in {:?}; {}", around(one), around(other), ledger.tell_of(number))
}

/// The events of a sensor come in their order (but for those that a broker had acknowledged and took along), and what was on disk when it was killed comes before anything newer.
fn order(ledger: &Ledger, first: &BTreeMap<u64, usize>, faults: &mut Vec<String>) {
    let mut last: Option<(u64, usize)> = None;
    let mut life = None;
    for (&number, &place) in first {
        let this = ledger.events.get(&number).map(|event| event.life);
        if let Some((before, at)) = last
            && this == life
            && at > place
            && !ledger.may_come_late(before, ACKNOWLEDGED)
        {
            faults.push(format!("{number} came before {before}: {}", ledger.tell_of(before)));
        }
        (last, life) = (Some((number, place)), this);
    }
    // For each number, which of it and all that are newer came first.
    let mut earliest: Vec<(u64, usize, u64)> = Vec::with_capacity(first.len());
    for (&number, &place) in first.iter().rev() {
        let (at, which) = earliest.last().map_or((place, number), |&(_, at, which)| (at, which).min((place, number)));
        earliest.push((number, at, which));
    }
    for (index, life) in ledger.lives.iter().enumerate() {
        let Some(newer) = ledger.first_number(index + 1) else { continue };
        let Some((_, place, newer)) = earliest[..earliest.partition_point(|(number, ..)| *number >= newer)].last()
        else {
            continue;
        };
        for number in &life.on_disk {
            if first.get(number).is_some_and(|at| at > place) && !ledger.may_come_late(*number, ACKNOWLEDGED) {
                faults.push(format!("{newer} came before {number}, which was on disk when {newer} was published"));
            }
        }
    }
}

/// A broker that delivers an event has delivered all that it had acknowledged before. So what went with a broker went with
/// the one that has delivered what was before it, or with one that followed, and with an earlier one than that which has
/// delivered what came after it.
fn gaps(ledger: &Ledger, first: &BTreeMap<u64, usize>, gone: &[u64], faults: &mut Vec<String>) {
    let life = |number: &u64| ledger.events.get(number).map(|event| event.life);
    let broker = |(_, place): (&u64, &usize)| ledger.deliveries[*place].broker;
    for number in gone {
        let same = |(other, _): &(&u64, &usize)| life(other) == life(number);
        let before = first.range(..number).next_back().filter(same).map_or(1, broker);
        let after = first.range(number..).next().filter(same).map_or(u64::MAX, broker);
        if !ledger.was_killed(before..after, ledger.events[number].at) {
            faults.push(format!(
                "{number} has not come, and could not go with a broker: broker {before} has delivered what was before \
                 it, and broker {after} what came after it"
            ));
        }
    }
}

/// The end of an event, or why that may not be.
fn account(ledger: &Ledger, number: u64, event: &Event, delivered: bool) -> Result<End, String> {
    let life = &ledger.lives[event.life.0];
    if event.refused {
        return Ok(End::Refused);
    }
    if let Some(at) = event.confirmed {
        // It was acknowledged after it was published, and before the program knew.
        if delivered || ledger.went_with_a_broker(event.at, at, ACKNOWLEDGED) {
            return Ok(End::Confirmed);
        }
        return Err(format!("{number} was confirmed, and has not come; no broker was killed then"));
    }
    let Some(killed) = life.killed else {
        return Err(format!("{number} was accepted by the last sensor, and neither confirmed nor refused"));
    };
    if life.on_disk.contains(&number) {
        // A later life has sent it: the first after which it is not on disk any more.
        let later = ledger.lives[event.life.0 + 1..].iter().find(|life| !life.on_disk.contains(&number));
        let until = later.and_then(|life| life.killed).unwrap_or(Moment::END);
        if delivered || ledger.went_with_a_broker(killed, until, ACKNOWLEDGED) {
            return Ok(End::Spooled);
        }
        return Err(format!("{number} was on disk, and has not come; no broker was killed then"));
    }
    if delivered || ledger.went_with_a_broker(event.at, killed, ACKNOWLEDGED) && life.mode == Mode::WriteThrough {
        return Ok(End::Unheard);
    }
    let age = life.awake_since(event.at);
    // What is older was acknowledged before it was due to be stored.
    let was_acknowledged = || ledger.went_with_a_broker(event.at, killed, ACKNOWLEDGED);
    match life.mode {
        Mode::After(after) if age <= after + FSYNC => Ok(End::Lost(age)),
        Mode::After(_) if was_acknowledged() => Ok(End::Unheard),
        Mode::After(_) => Err(format!("{number} is lost with its sensor, {age:?} old: {}", ledger.tell_of(number))),
        Mode::WriteThrough => {
            Err(format!("{number} is lost with its sensor, though it was on disk: {}", ledger.tell_of(number)))
        }
    }
}

impl Sums {
    /// True when the event went with a broker.
    fn add(&mut self, end: &End, delivered: bool) -> bool {
        match *end {
            End::Confirmed => self.confirmed += 1,
            End::Refused => self.refused += 1,
            End::Spooled => self.spooled += 1,
            End::Unheard => self.unheard += 1,
            End::Lost(age) => {
                self.lost += 1;
                self.oldest_lost = self.oldest_lost.max(age);
            }
        }
        let gone = matches!(end, End::Confirmed | End::Spooled | End::Unheard) && !delivered;
        self.gone += u64::from(gone);
        gone
    }

    fn agree(&self) -> Result<(), String> {
        let Self { accepted, confirmed, refused, spooled, unheard, lost, gone, delivered, .. } = *self;
        let by_end = confirmed + refused + spooled + unheard + lost;
        let by_way = delivered + refused + lost + gone;
        if (by_end, by_way) != (accepted, accepted) || delivered == 0 {
            return Err(format!("the sums do not agree: {accepted} accepted, {by_end}, {by_way}"));
        }
        Ok(())
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, confirmed, refused, spooled, unheard, lost, oldest_lost, .. } = self;
        let Self { gone, delivered, beyond, repeated, resent, .. } = self;
        writeln!(
            f,
            "accepted {accepted} = confirmed {confirmed} + refused {refused} + left on disk by a sensor that was killed, \
             and sent by the next, {spooled} + acknowledged, and the sensor killed before it said so, {unheard} \
             + lost with a sensor {lost} (the oldest after {oldest_lost:?})"
        )?;
        writeln!(
            f,
            "accepted {accepted} = delivered {delivered} + refused {refused} + lost {lost} + acknowledged by a broker \
             that was killed within a second {gone}"
        )?;
        write!(f, "delivered though the sensor was killed before it was accepted: {beyond}; ")?;
        write!(f, "delivered again by a later broker: {repeated}; sent again, as far as sensors could say: {resent}")
    }
}
