//! A random world of collectors that acknowledge, against a model of sets: what each text still has
//! to get. It knows nothing of cursors, heads or windows.
//!
//! `HPFEEDS_JOURNAL_SEEDS` asks for more worlds.

mod losses;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hpfeeds::wire::{Channel, Pattern, extension::Position};

use crate::journal::{
    batch::Batch,
    mailbox::{
        claims::Claim,
        core::{Mailbox, Taken, Taking, Took},
        losses::Reason,
        probe::Probe,
        spec::MailboxSpec,
        window::End,
    },
    tests::{
        sim_disk::Random,
        support::{draft, parse, seeds},
    },
};

const CHANNELS: [&str; 6] = ["a.b", "a.c", "a.b.c", "d", "x", "a."];
const TEXTS: [&str; 7] = ["a.*", "a.b", "a.b.*", "a.c", "d", "*", "x"];

type Set = BTreeSet<Position>;

/// A text in the model.
#[derive(Debug, Clone, Default)]
struct Text {
    done: Set,
    /// Since it was attached this time.
    handed: Option<Set>,
    /// How often it was attached.
    times: u64,
}

#[derive(Debug, Clone, Default)]
struct Model {
    texts: BTreeMap<String, Text>,
    /// Messages from before the declaration, and dropped ones.
    before: Set,
    lost: BTreeMap<String, u64>,
    unrepeatable: u64,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    address: u8,
    /// When it has claimed the mailbox.
    claimed: u64,
    texts: BTreeSet<String>,
    /// Messages in the order in which it got them, and the texts that were attached then.
    got: Vec<(Position, BTreeSet<(String, u64)>)>,
    consumed: usize,
}

struct World {
    mailbox: Mailbox,
    batches: Vec<Batch>,
    /// Channels of the messages that are there.
    messages: BTreeMap<Position, String>,
    next: Position,
    model: Model,
    stored: (Vec<u8>, Model),
    connections: Vec<Connection>,
    last_id: u64,
    last_claim: u64,
    /// The connection that is served, and its address.
    owner: Option<(u64, u8)>,
    /// Everything that a program has processed.
    processed: Set,
    /// Lost messages, over all lives of the broker.
    lost: u64,
    fault: Option<Fault>,
}

/// A fault that is built in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    MovesDetached,
    ConsumesAhead,
    DropsUncounted,
    DropsUnstored,
}

fn covers(text: &str, channel: &str) -> bool {
    Pattern::new(text).unwrap().matches(channel)
}

fn spec() -> MailboxSpec {
    "c=a.*,d".parse().unwrap()
}

impl World {
    fn new(fault: Option<Fault>) -> Self {
        let start = Position::new(1, 0);
        let mailbox = Mailbox::new(spec(), start, 0);
        let stored = (mailbox.encode(), Model::default());
        Self {
            mailbox,
            batches: Vec::new(),
            messages: BTreeMap::new(),
            next: Position::new(1, 1),
            model: Model::default(),
            stored,
            connections: Vec::new(),
            last_id: 0,
            last_claim: 0,
            owner: None,
            processed: Set::new(),
            lost: 0,
            fault,
        }
    }

    fn end(&self) -> Position {
        Position::new(self.next.epoch, self.next.number - 1)
    }

    fn append(&mut self, random: &mut Random) {
        let count = random.below(5) + 1;
        let channels: Vec<_> = (0..count).map(|_| CHANNELS[pick(random, CHANNELS.len())]).collect();
        let texts: Vec<_> = channels.iter().copied().zip(self.next.number..).collect();
        self.batches.push(draft(&texts, 0).at(self.next));
        for channel in channels {
            self.messages.insert(self.next, channel.to_owned());
            self.next.number += 1;
        }
    }

    fn connect(&mut self, random: &mut Random) {
        if self.connections.len() >= 3 {
            return;
        }
        self.last_id += 1;
        let address = u8::try_from(random.below(3)).unwrap();
        let connection =
            Connection { id: self.last_id, address, claimed: 0, texts: BTreeSet::new(), got: Vec::new(), consumed: 0 };
        self.connections.push(connection);
        self.subscribe(random, self.connections.len() - 1);
    }

    fn subscribe(&mut self, random: &mut Random, at: usize) {
        self.subscribe_to(at, &Channel::new(TEXTS[pick(random, TEXTS.len())]).unwrap());
    }

    fn subscribe_to(&mut self, at: usize, text: &Channel) {
        let end = self.end();
        for part in self.mailbox.parts(text) {
            let connection = &mut self.connections[at];
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, connection.address));
            let claim = Claim { id: connection.id, address, acknowledges: true };
            self.mailbox.subscribe(&claim, &part, end).unwrap();
            let name = part.to_string();
            if !self.model.texts.contains_key(&name) {
                // The narrowest that covers it has the longest name.
                let wider = self.model.texts.iter().filter(|(wider, _)| covers(wider, &name));
                let done = wider.max_by_key(|(wider, _)| wider.len()).map(|(_, text)| text.done.clone());
                let text = Text { done: done.unwrap_or_else(|| self.model.before.clone()), handed: None, times: 0 };
                self.model.texts.insert(name.clone(), text);
            }
            let is_new = connection.texts.is_empty();
            if is_new {
                self.last_claim += 1;
                connection.claimed = self.last_claim;
            }
            connection.texts.insert(name.clone());
            let (id, address) = (connection.id, connection.address);
            let takes_over = match self.owner {
                None => true,
                Some((owner, owner_address)) => owner != id && is_new && owner_address == address,
            };
            if takes_over {
                self.own(Some((id, address)));
            } else if self.owner.is_some_and(|(owner, _)| owner == id) {
                let text = self.model.texts.get_mut(&name).unwrap();
                if text.handed.is_none() {
                    (text.handed, text.times) = (Some(Set::new()), text.times + 1);
                }
            }
            self.check_owner();
        }
    }

    /// The connection that is served changes.
    fn own(&mut self, owner: Option<(u64, u8)>) {
        self.owner = owner;
        for connection in &mut self.connections {
            // It may process these, too; nothing is counted on it.
            connection.got.truncate(connection.consumed);
        }
        let texts = owner.and_then(|(id, _)| self.connections.iter().find(|one| one.id == id));
        let texts = texts.map(|one| one.texts.clone()).unwrap_or_default();
        for (name, text) in &mut self.model.texts {
            text.handed = texts.contains(name).then(Set::new);
            text.times += 1;
        }
    }

    fn check_owner(&self) {
        assert_eq!(self.mailbox.claims.owner(), self.owner.map(|(id, _)| id));
    }

    fn unsubscribe(&mut self, random: &mut Random, at: usize) {
        let connection = &mut self.connections[at];
        let Some(name) = connection.texts.iter().nth(pick(random, connection.texts.len().max(1))).cloned() else {
            return;
        };
        connection.texts.remove(&name);
        let (id, is_left) = (connection.id, !connection.texts.is_empty());
        self.mailbox.unsubscribe(id, &Channel::new(&name).unwrap());
        if self.owner.is_some_and(|(owner, _)| owner == id) {
            if is_left {
                self.model.texts.get_mut(&name).unwrap().handed = None;
            } else {
                self.pass_on(id);
            }
        }
        self.check_owner();
    }

    /// The owner goes; the oldest that has subscribed to something takes over.
    fn pass_on(&mut self, id: u64) {
        let claims = self.claims();
        let next = claims.into_iter().find(|(other, _)| *other != id);
        self.own(next);
    }

    /// The connections that claim the mailbox, in the order of their claims.
    fn claims(&self) -> Vec<(u64, u8)> {
        let mut claims: Vec<_> = self.connections.iter().filter(|one| !one.texts.is_empty()).collect();
        claims.sort_by_key(|one| one.claimed);
        claims.iter().map(|one| (one.id, one.address)).collect()
    }

    fn disconnect(&mut self, random: &mut Random, at: usize) {
        let gone = self.connections.remove(at);
        let end = [End::Fin, End::Broken][pick(random, 2)];
        assert_eq!(self.mailbox.end(gone.id, end, Duration::ZERO), None);
        if self.owner.is_some_and(|(owner, _)| owner == gone.id) {
            self.pass_on(gone.id);
        }
        self.check_owner();
    }

    /// The messages that the owner is to get next, in order.
    fn wanted(&self) -> Vec<Position> {
        let is_open = |(position, channel): (&Position, &String)| {
            self.model.texts.iter().any(|(name, text)| {
                let Some(handed) = &text.handed else { return false };
                covers(name, channel) && !text.done.contains(position) && !handed.contains(position)
            })
        };
        let open = self.messages.iter().filter(|entry| is_open(*entry));
        open.map(|(position, _)| *position).collect()
    }

    /// Hands about so many bytes to the owner. Everything must be what the model wants next.
    fn deliver(&mut self, most: u64) -> Result<(), String> {
        let Some((owner, _)) = self.owner else { return Ok(()) };
        let expected = self.wanted();
        // No collector is taken for one that crashes here.
        self.mailbox.probe = Probe::default();
        let mut taken = Taken::default();
        let with = Taking { now: Duration::from_secs(1000), oldest_ms: None, allows: &|_| true };
        let head = self.mailbox.head().unwrap();
        let start = self.batches.partition_point(|batch| batch.last() <= head);
        for batch in &self.batches[start..] {
            if self.mailbox.take(batch, &with, most, &mut taken) != Took::All {
                break;
            }
        }
        let mut got = Vec::new();
        for delivery in &taken.deliveries {
            let numbers = parse(&delivery.frames).into_iter().map(|(_, number)| number);
            let positions = delivery.first.number..=delivery.last();
            if !numbers.eq(positions.clone()) {
                return Err(format!("other messages than {} and its followers", delivery.first));
            }
            got.extend(positions.map(|number| Position::new(delivery.first.epoch, number)));
        }
        if got.iter().zip(&expected).any(|(got, expected)| got != expected) || got.len() > expected.len() {
            return Err(format!("it got {got:?}, and was to get {expected:?}"));
        }
        if taken.bytes_left(most) && got.len() < expected.len() {
            return Err(format!("it got {got:?} of {expected:?}"));
        }
        let connection = self.connections.iter_mut().find(|one| one.id == owner).unwrap();
        for position in got {
            let channel = &self.messages[&position];
            let mut attached = BTreeSet::new();
            for (name, text) in &mut self.model.texts {
                if let Some(handed) = &mut text.handed
                    && covers(name, channel)
                {
                    handed.insert(position);
                    attached.insert((name.clone(), text.times));
                }
            }
            connection.got.push((position, attached));
        }
        Ok(())
    }

    /// The owner processes some messages and says so.
    fn consume(&mut self, random: &mut Random) {
        let Some((owner, _)) = self.owner else { return };
        let fault = self.fault;
        let connection = self.connections.iter_mut().find(|one| one.id == owner).unwrap();
        let left = connection.got.len() - connection.consumed;
        let mut count = pick(random, left + 1);
        // A position that it got twice, for two texts, stands for the first time.
        let unconsumed = &connection.got[connection.consumed..];
        let is_twice = |count: usize| unconsumed[..count - 1].iter().any(|(one, _)| *one == unconsumed[count - 1].0);
        while count > 0 && is_twice(count) {
            count -= 1;
        }
        if count == 0 {
            return;
        }
        let batch = &connection.got[connection.consumed..connection.consumed + count];
        self.processed.extend(batch.iter().map(|(position, _)| *position));
        for (position, attached) in batch {
            for (name, times) in attached {
                let text = self.model.texts.get_mut(name).unwrap();
                // If it is still attached, and was not attached anew.
                if text.handed.is_some() && text.times == *times {
                    text.done.insert(*position);
                }
            }
        }
        connection.consumed += count;
        let mut last = batch[count - 1].0;
        if fault == Some(Fault::ConsumesAhead) && left > count {
            last = connection.got[connection.consumed].0;
        }
        let _ = self.mailbox.consumed(owner, last);
    }

    fn check_counts(&self) -> Result<(), String> {
        let losses = &self.mailbox.counts.losses;
        let lost: BTreeMap<_, _> = losses
            .iter()
            .filter(|(reason, ..)| *reason == Reason::Retention)
            .map(|(_, channel, count)| (channel.unwrap().to_string(), count))
            .collect();
        if losses.of(Reason::Retention) != self.lost {
            return Err(format!("{lost:?} are counted, and {} lost", self.lost));
        }
        if lost != self.model.lost || self.mailbox.counts.unrepeatable != self.model.unrepeatable {
            let unrepeatable = (self.mailbox.counts.unrepeatable, self.model.unrepeatable);
            return Err(format!("lost {lost:?}, and was to lose {:?}; {unrepeatable:?}", self.model.lost));
        }
        Ok(())
    }

    fn step(&mut self, random: &mut Random) -> Result<(), String> {
        let some = random.below(self.connections.len() as u64 + 1);
        let at = usize::try_from(some).unwrap();
        match random.below(20) {
            0..5 => self.append(random),
            5 => self.connect(random),
            6 if at < self.connections.len() => self.subscribe(random, at),
            7 if at < self.connections.len() && random.below(2) == 0 => self.unsubscribe(random, at),
            8 if at < self.connections.len() => self.disconnect(random, at),
            9..13 => {
                let most = [1, 40, 1000][pick(random, 3)];
                self.deliver(most)?;
            }
            13..16 => self.consume(random),
            16 => self.store(),
            17 => self.drop_some(random),
            18 if random.below(3) == 0 => self.crash(random),
            _ if self.fault == Some(Fault::MovesDetached) => {
                let detached = self.model.texts.iter().find(|(_, text)| text.handed.is_none());
                if let Some(name) = detached.map(|(name, _)| name.clone()) {
                    let end = self.end();
                    self.mailbox.texts.set(Some(&name), |_| end);
                }
            }
            _ => {}
        }
        self.check_counts()
    }

    /// A last collector takes everything that is left, so that everything is somewhere.
    fn settle(&mut self) -> Result<(), String> {
        while !self.connections.is_empty() {
            self.disconnect(&mut Random(0), 0);
        }
        self.last_id += 1;
        let connection = Connection {
            id: self.last_id,
            address: 9,
            claimed: 0,
            texts: BTreeSet::new(),
            got: Vec::new(),
            consumed: 0,
        };
        self.connections.push(connection);
        for text in self.model.texts.keys().cloned().collect::<Vec<_>>() {
            self.subscribe_to(0, &Channel::new(text).unwrap());
        }
        let mut left = self.wanted();
        for _ in 0..left.len() {
            self.deliver(1000)?;
            left = self.wanted();
        }
        if !left.is_empty() {
            return Err(format!("{left:?} are left"));
        }
        let got = &self.connections[0].got;
        self.processed.extend(got.iter().map(|(position, _)| *position));
        // Channels that were never subscribed to are nobody's yet.
        let is_wanted = |channel: &String| self.model.texts.keys().any(|text| covers(text, channel));
        let missing = self.messages.iter().find(|(position, channel)| {
            is_wanted(channel) && !self.processed.contains(position) && !self.model.before.contains(position)
        });
        match missing {
            Some(missing) => Err(format!("{missing:?} was never processed")),
            None => self.check_counts(),
        }
    }
}

fn pick(random: &mut Random, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).unwrap()
}

fn live(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let mut random = Random(seed);
    let mut world = World::new(fault);
    for step in 0..60 {
        world.step(&mut random).map_err(|error| format!("seed {seed}, step {step}: {error}"))?;
    }
    world.settle().map_err(|error| format!("seed {seed}, at the end: {error}"))
}

#[test]
fn each_text_gets_every_message_in_order_at_least_once_or_its_loss_is_counted() {
    for seed in 0..seeds(1500) {
        live(seed, None).unwrap();
    }
}

#[test]
fn faults_that_are_built_in_are_noticed() {
    let noticed = |fault| (0..200).filter(|&seed| live(seed, Some(fault)).is_err()).count();
    for (fault, what) in [
        (Fault::MovesDetached, "a text moves that is not attached"),
        (Fault::ConsumesAhead, "a cursor moves before its message is processed"),
        (Fault::DropsUncounted, "a segment goes before it is counted"),
        (Fault::DropsUnstored, "a segment goes before the cursors are stored"),
    ] {
        let noticed = noticed(fault);
        assert!(noticed > 10, "{what}: {noticed}");
    }
}
