//! The scenario of a simulation: all of it follows from the seed.

use std::time::Duration;

use hpfeeds_broker::SlowPolicy;

/// The step of virtual time: the network delivers at its ends.
pub(crate) const STEP: Duration = Duration::from_millis(20);

const CHANNELS: [&str; 6] = ["a.1", "a.2", "a.x.1", "b", "c.1", "c"];
const PATTERNS: [&str; 8] = ["*", "a.*", "a.x.*", "c.*", "a.1", "b", "c", "a.2"];

/// A channel that no key may publish or subscribe to.
pub(crate) const FORBIDDEN: &str = "secret";

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// The actor of each machine.
    pub(crate) hosts: Vec<Vec<Actor>>,
    /// Faults and changes, with their steps.
    pub(crate) events: Vec<(u64, Event)>,
    /// When the faults end.
    pub(crate) calm: u64,
    /// The network.
    pub(crate) latency: (Duration, Duration),
    pub(crate) segments: usize,
    pub(crate) chunk: usize,
    /// The broker.
    pub(crate) low_mark: usize,
    pub(crate) high_mark: usize,
    pub(crate) max_buffered: usize,
    pub(crate) policy: SlowPolicy,
    pub(crate) largest: usize,
    /// It offers the extension.
    pub(crate) extensions: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) ident: String,
    pub(crate) rights: Vec<String>,
    pub(crate) role: Role,
    /// It wants what it publishes to be confirmed.
    pub(crate) confirms: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Also tries what it may not.
    Publisher {
        rogue: bool,
    },
    Subscriber {
        channels: Vec<String>,
        pace: Pace,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    /// It reads now and then.
    Slow,
    /// It never reads.
    Stuck,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The broker's process is killed; with its machine, nobody hears of it.
    KillBroker {
        silently: bool,
    },
    /// It ends as after a SIGTERM.
    StopBroker,
    StartBroker,
    /// The same for the clients of a machine.
    Kill {
        host: usize,
        silently: bool,
    },
    Start(usize),
    /// Nothing passes between a machine and the broker, or only one way.
    Partition {
        host: usize,
        way: Way,
    },
    Repair(usize),
    /// Segments wait.
    Hold(usize),
    Release(usize),
    /// A key allows something else from now on, or nobody has it any more.
    Rekey {
        ident: String,
        rights: Option<Vec<String>>,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Both,
    ToBroker,
    FromBroker,
}

/// Whether a pattern covers a channel. Written down again, so that the broker is not compared with itself.
pub(crate) fn covers(pattern: &str, channel: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(start) if start.ends_with('.') => channel.starts_with(start),
        _ => pattern == channel,
    }
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut hosts = vec![Vec::new(); rng.usize(2..=3)];
        let (publishers, subscribers) = (rng.usize(1..=3), rng.usize(1..=4));
        for n in 0..publishers {
            let rights = some(&mut rng, &CHANNELS, 1);
            let role = Role::Publisher { rogue: rng.u8(..) < 25 };
            let confirms = rng.u8(..4) > 0;
            any(&mut rng, &mut hosts).push(Actor { ident: format!("pub{n}"), rights, role, confirms });
        }
        for n in 0..subscribers {
            let rights = some(&mut rng, &PATTERNS, 1);
            let mut channels = some(&mut rng, &CHANNELS, 0);
            channels.retain(|channel| rights.iter().any(|right| covers(right, channel)));
            // Patterns that it may read in full, in part, or not at all.
            channels.extend(rights.iter().filter(|_| rng.bool()).cloned());
            if rng.u8(..) < 40 || channels.is_empty() {
                channels.push("*".to_owned());
            }
            if rng.u8(..) < 25 {
                channels.push(FORBIDDEN.to_owned());
            }
            channels.sort();
            channels.dedup();
            // Everything is allowed to those with `*`, also what nobody may publish.
            channels.retain(|channel| channel != FORBIDDEN || !rights.iter().any(|right| right == "*"));
            let pace = [Pace::Fast, Pace::Fast, Pace::Fast, Pace::Slow, Pace::Stuck][rng.usize(..5)];
            let role = Role::Subscriber { channels, pace };
            let confirms = rng.u8(..4) > 0;
            any(&mut rng, &mut hosts).push(Actor { ident: format!("sub{n}"), rights, role, confirms });
        }
        let calm = rng.u64(200..700);
        let events = events(&mut rng, &hosts, calm);
        let least = rng.u64(0..20);
        let latency = (Duration::from_millis(least), Duration::from_millis(least + rng.u64(1..120)));
        let low_mark = 1 << rng.u32(11..15);
        Self {
            seed,
            hosts,
            events,
            calm,
            latency,
            segments: rng.usize(16..64),
            chunk: 1 << rng.u32(6..13),
            low_mark,
            high_mark: low_mark * rng.usize(1..6),
            max_buffered: 1 << rng.u32(14..19),
            policy: if rng.bool() { SlowPolicy::Disconnect } else { SlowPolicy::DropOldest },
            largest: 1 << rng.u32(5..13),
            extensions: rng.u8(..4) > 0,
        }
    }

    pub(crate) fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.hosts.iter().flatten()
    }
}

fn any<'a>(rng: &mut fastrand::Rng, hosts: &'a mut [Vec<Actor>]) -> &'a mut Vec<Actor> {
    let host = rng.usize(..hosts.len());
    &mut hosts[host]
}

/// Some of them, in their order.
fn some(rng: &mut fastrand::Rng, all: &[&str], least: usize) -> Vec<String> {
    let mut chosen: Vec<_> = all.iter().filter(|_| rng.u8(..3) == 0).map(|name| (*name).to_owned()).collect();
    while chosen.len() < least {
        chosen.push(all[rng.usize(..all.len())].to_owned());
    }
    chosen
}

/// Each machine, and the broker, has one trouble at a time, which ends before the calm.
fn events(rng: &mut fastrand::Rng, hosts: &[Vec<Actor>], calm: u64) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    let mut at = rng.u64(20..150);
    while at < calm {
        let lasts = if rng.bool() { rng.u64(1..20) } else { rng.u64(20..250) };
        let end = (at + lasts).min(calm);
        events.push((at, if rng.bool() { Event::StopBroker } else { Event::KillBroker { silently: rng.bool() } }));
        events.push((end, Event::StartBroker));
        at = end + rng.u64(50..400);
    }
    for host in 0..hosts.len() {
        let mut at = rng.u64(10..300);
        while at < calm {
            let end = (at + rng.u64(1..200)).min(calm);
            let (begin, over) = match rng.u8(..5) {
                0 => (Event::Kill { host, silently: rng.bool() }, Event::Start(host)),
                1 => (Event::Hold(host), Event::Release(host)),
                way => {
                    let way = [Way::Both, Way::ToBroker, Way::FromBroker][usize::from(way) % 3];
                    (Event::Partition { host, way }, Event::Repair(host))
                }
            };
            events.push((at, begin));
            events.push((end, over));
            at = end + rng.u64(20..300);
        }
    }
    for actor in hosts.iter().flatten().filter(|_| rng.u8(..) < 60).collect::<Vec<_>>() {
        let at = rng.u64(20..calm);
        let rights = match actor.rights.len() {
            1 => None,
            _ if rng.bool() => None,
            len => Some(actor.rights[..len - 1].to_vec()),
        };
        events.push((at, Event::Rekey { ident: actor.ident.clone(), rights }));
        let end = rng.u64(at + 1..=calm.max(at + 1));
        events.push((end, Event::Rekey { ident: actor.ident.clone(), rights: Some(actor.rights.clone()) }));
    }
    // The earlier entry stays first.
    events.sort_by_key(|(at, _)| *at);
    events
}
