//! A random world of collectors that acknowledge nothing, whose kernels and memory lose as much as
//! they can: every message is processed, in order, at least once.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hpfeeds::wire::{Channel, extension::Position};

use crate::journal::{
    batch::Batch,
    mailbox::{
        claims::Claim,
        core::{Mailbox, Taken, Taking, Took},
        probe::Probe,
        spec::MailboxSpec,
        window::End,
    },
    tests::{
        sim_disk::Random,
        support::{draft, seeds},
    },
};

const KERNEL: u64 = 256 << 10;

/// A message that was handed out: its number, its length, and when it was written.
type Sent = (u64, u64, Option<Duration>);

struct World {
    mailbox: Mailbox,
    stored: Vec<u8>,
    batches: Vec<Batch>,
    now: Duration,
    id: u64,
    sent: Vec<Sent>,
    processed: BTreeSet<u64>,
    /// Forgets the redelivery of what the collector's kernel may hold.
    trusts: bool,
}

fn spec() -> MailboxSpec {
    "c=a:redeliver=10s|512k".parse().unwrap()
}

impl World {
    fn step(&mut self, random: &mut Random) {
        self.now += Duration::from_millis(random.below(4000));
        match random.below(12) {
            0..4 => {
                let next = self.batches.last().map_or(1, |batch| batch.last().number + 1);
                let length = usize::try_from(random.below(3) * 60_000 + 100).unwrap();
                let messages: Vec<_> = (next..next + 1 + random.below(3)).map(|number| ("a", number)).collect();
                self.batches.push(draft(&messages, length).at(Position::new(1, next)));
            }
            4..8 => self.deliver(random.below(400_000)),
            8..10 => {
                // The socket takes some of what was handed out.
                let unwritten = self.sent.iter().filter(|(.., written)| written.is_none()).count();
                let count = usize::try_from(random.below(unwritten as u64 + 1)).unwrap();
                let now = self.now;
                let mut bytes = 0;
                for sent in self.sent.iter_mut().filter(|(.., written)| written.is_none()).take(count) {
                    sent.2 = Some(now);
                    bytes += sent.1;
                }
                self.mailbox.wrote(self.id, bytes, now);
            }
            10 => self.stored = self.mailbox.encode(),
            _ => {
                if random.below(3) == 0 {
                    self.now += Duration::from_secs(random.below(30));
                }
                let end = [Some(End::Fin), Some(End::Broken), None][usize::try_from(random.below(3)).unwrap()];
                self.end(end);
            }
        }
    }

    fn deliver(&mut self, most: u64) {
        let mut taken = Taken::default();
        self.mailbox.probe = Probe::default();
        let Some(head) = self.mailbox.head() else { return };
        let with = Taking { now: self.now, oldest_ms: None, allows: &|_| true };
        for batch in self.batches.iter().filter(|batch| batch.last() > head) {
            if self.mailbox.take(batch, &with, most, &mut taken) != Took::All {
                break;
            }
        }
        for delivery in taken.deliveries {
            let each = delivery.frames.len() as u64 / u64::from(delivery.messages);
            self.sent.extend((delivery.first.number..=delivery.last()).map(|number| (number, each, None)));
        }
    }

    /// The connection ends, or the broker is killed; the collector has processed as little as it
    /// may.
    fn end(&mut self, end: Option<End>) {
        let written: u64 = self.sent.iter().filter(|(.., at)| at.is_some()).map(|(_, length, _)| length).sum();
        let last = self.sent.iter().filter_map(|(.., at)| *at).max();
        let is_quiet = end == Some(End::Fin)
            && self.sent.iter().all(|(.., at)| at.is_some())
            && last.is_none_or(|at| self.now >= at + Duration::from_secs(10));
        let mut sum = 0;
        for (number, length, at) in &self.sent {
            sum += length;
            let Some(at) = at else { break };
            let newer = written - sum;
            let is_safe = match end {
                Some(End::Fin) => {
                    let is_old = self.now >= *at + Duration::from_secs(10);
                    newer >= KERNEL && (is_old || newer >= 512 << 10)
                }
                Some(End::Broken) | None => newer >= 512 << 10,
            };
            if is_safe || is_quiet {
                self.processed.insert(*number);
            }
        }
        self.sent.clear();
        match end {
            Some(end) => {
                // A fault on purpose: everything that was handed out counts as delivered.
                if self.trusts {
                    self.mailbox.texts.set(None, |_| self.batches.last().map_or(Position::NONE, Batch::last));
                }
                assert_eq!(self.mailbox.end(self.id, end, self.now), None);
            }
            None => self.mailbox = Mailbox::decode(spec(), &self.stored).unwrap(),
        }
        self.connect();
    }

    fn connect(&mut self) {
        self.id += 1;
        let claim = Claim { id: self.id, address: IpAddr::V4(Ipv4Addr::LOCALHOST), acknowledges: false };
        let text = Channel::new("a").unwrap();
        self.mailbox.subscribe(&claim, &text, Position::NONE).unwrap();
    }
}

fn live(seed: u64, trusts: bool) -> Result<(), String> {
    let mailbox = Mailbox::new(spec(), Position::new(1, 0), 0);
    let mut world = World {
        stored: mailbox.encode(),
        mailbox,
        batches: Vec::new(),
        now: Duration::ZERO,
        id: 0,
        sent: Vec::new(),
        processed: BTreeSet::new(),
        trusts,
    };
    world.connect();
    let mut random = Random(seed);
    for _ in 0..60 {
        world.step(&mut random);
    }
    // A last collector reads everything.
    world.trusts = false;
    world.end(Some(End::Broken));
    world.deliver(u64::MAX);
    let last: Vec<_> = world.sent.iter().map(|(number, ..)| *number).collect();
    if !last.is_sorted_by(|one, two| one + 1 == *two) {
        return Err(format!("seed {seed}: {last:?} is not in order"));
    }
    world.processed.extend(last);
    let all = world.batches.last().map_or(0, |batch| batch.last().number);
    match (1..=all).find(|number| !world.processed.contains(number)) {
        Some(missing) => Err(format!("seed {seed}: {missing} of {all} was never processed")),
        None => Ok(()),
    }
}

#[test]
fn a_collector_that_acknowledges_nothing_processes_everything_at_least_once() {
    for seed in 0..seeds(150) {
        live(seed, false).unwrap();
    }
}

#[test]
fn a_mailbox_that_trusts_what_it_has_handed_out_is_noticed() {
    let noticed = (0..30).filter(|&seed| live(seed, true).is_err()).count();
    assert!(noticed > 5, "{noticed}");
}
