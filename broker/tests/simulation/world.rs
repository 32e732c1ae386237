//! Runs one simulation.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hpfeeds::SessionState;
use hpfeeds_broker::{Broker, Exposition};
use tokio::sync::{Notify, watch};

use crate::{
    actors::{Keys, Machine, Phase, Site},
    checks,
    net::Link,
    record::Log,
    scenario::{Actor, Event, Pace, Role, STEP, Scenario, Way, covers},
};

/// How long everything may take in the end: longer than the longest delay and deadline together.
const PATIENCE: u64 = 3000;

/// The summary of one simulation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// How much has happened, and a fingerprint of it.
    pub(crate) moments: u64,
    pub(crate) trace: u64,
    pub(crate) messages: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
    /// Deliveries of messages that a connection had got before.
    pub(crate) repeated: u64,
    pub(crate) connections: u64,
    pub(crate) lives: u64,
    pub(crate) steps: u64,
}

thread_local! {
    /// Panics in tasks, which tokio keeps to itself.
    pub(crate) static PANICS: Cell<u32> = const { Cell::new(0) };
}

struct World {
    scenario: Rc<Scenario>,
    sim: turmoil::Sim<'static>,
    log: Log,
    keys: Keys,
    site: Site,
    machines: Vec<Machine>,
    phase: watch::Sender<Phase>,
    rng: fastrand::Rng,
    /// Connections that TCP gives up, and when.
    doomed: Vec<(u64, Arc<Link>)>,
    /// The broker is shutting down, or has.
    stopped: bool,
    summary: Summary,
}

/// Runs it, and says what is wrong.
pub(crate) fn run(seed: u64) -> Result<Summary, String> {
    // The source of the sessions' delays.
    fastrand::seed(seed);
    PANICS.set(0);
    let mut world = World::new(Rc::new(Scenario::new(seed)));
    let ended = world.play();
    let mut faults = std::mem::take(&mut world.log.lock().faults);
    if let Err(fault) = ended {
        faults.push(fault);
    }
    if PANICS.get() > 0 {
        faults.push("something has panicked".to_owned());
    }
    let summary = world.summary;
    if faults.is_empty() { Ok(summary) } else { Err(faults.join("\n    ")) }
}

impl Summary {
    /// Adds up what another one came to.
    pub(crate) fn add(&mut self, other: &Self) {
        self.moments += other.moments;
        self.trace ^= other.trace;
        self.messages += other.messages;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
        self.repeated += other.repeated;
        self.connections += other.connections;
        self.lives += other.lives;
        self.steps += other.steps;
    }
}

impl World {
    fn new(scenario: Rc<Scenario>) -> Self {
        let mut sim = turmoil::Builder::new()
            .tick_duration(STEP)
            .simulation_duration(Duration::from_secs(3600))
            .epoch(SystemTime::UNIX_EPOCH)
            .min_message_latency(scenario.latency.0)
            .max_message_latency(scenario.latency.1)
            .tcp_capacity(scenario.segments)
            .rng_seed(scenario.seed)
            .build();
        let (log, keys) = (Log::default(), Keys::default());
        let (phase, phases) = watch::channel(Phase::Storm);
        for actor in scenario.actors() {
            keys.set(actor, Some(&actor.rights));
            log.lock().rights.entry(actor.ident.clone()).or_default().push((0, actor.rights.clone()));
        }
        let site = Site {
            scenario: scenario.clone(),
            log: log.clone(),
            keys: keys.clone(),
            broker: Rc::default(),
            last: Rc::default(),
            stop: Rc::new(Notify::new()),
        };
        let broker = site.clone();
        sim.host("broker", move || broker.clone().run());
        let mut machines = Vec::new();
        for host in 0..scenario.hosts.len() {
            let machine = Machine {
                scenario: scenario.clone(),
                log: log.clone(),
                phase: phases.clone(),
                states: Rc::default(),
                starts: Rc::new(RefCell::new(0)),
                host,
            };
            let copy = machine.clone();
            sim.host(name(host), move || copy.clone().run());
            machines.push(machine);
        }
        let rng = fastrand::Rng::with_seed(!scenario.seed);
        let (doomed, summary) = (Vec::new(), Summary { lives: 1, ..Summary::default() });
        Self { scenario, sim, log, keys, site, machines, phase, rng, doomed, stopped: false, summary }
    }

    fn play(&mut self) -> Result<(), String> {
        let scenario = self.scenario.clone();
        let mut events = scenario.events.iter().peekable();
        while self.at() < scenario.calm {
            while let Some((_, event)) = events.next_if(|(at, _)| *at <= self.at()) {
                self.apply(event);
            }
            self.step()?;
        }
        events.for_each(|(_, event)| self.apply(event));
        for (_, link) in std::mem::take(&mut self.doomed) {
            link.lose();
        }
        self.phase.send_replace(Phase::Calm);
        self.settle()?;
        // A subscription made again takes a moment to be heard of, or to be refused.
        for _ in 0..100 {
            self.step()?;
        }
        self.settle()?;
        let before: Vec<usize> = self.log.lock().sessions.iter().map(|session| session.ids.len()).collect();
        let drops = self.drops();
        self.phase.send_replace(Phase::Last);
        self.step()?;
        self.step()?;
        let missing = self.last_messages(&before);
        let arrived = self.until("the last messages arrive", |world| world.have_arrived(&missing, &drops));
        arrived.map_err(|fault| fault + &self.describe(&missing))?;
        self.phase.send_replace(Phase::Close);
        self.until("everybody has closed", Self::all_closed)?;
        self.until("the broker has let go of all connections", |world| {
            world.broker().is_some_and(|broker| broker.stats().connections == 0)
        })?;
        // At rest, the books add up.
        let snapshot = self.broker().map(|broker| broker.snapshot());
        if let Some(snapshot) = snapshot.filter(|snapshot| (snapshot.difference, snapshot.books.queued) != (0, 0)) {
            return Err(format!("the books do not add up: {:?}", snapshot.books));
        }
        self.end_life();
        checks::sessions(&mut self.log.lock());
        let record = self.log.lock();
        (self.summary.moments, self.summary.trace) = record.fingerprint();
        self.summary.messages = record.messages.len() as u64;
        self.summary.connections = record.accepted.len() as u64;
        self.summary.steps = record.step;
        Ok(())
    }

    fn at(&self) -> u64 {
        self.log.lock().step
    }

    fn broker(&self) -> Option<Arc<Broker>> {
        self.site.broker.borrow().clone()
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|cause| cause.to_string())?;
        let now = {
            let mut record = self.log.lock();
            record.step += 1;
            let later = record.step + self.rng.u64(25..200);
            self.doomed.extend(record.abandoned.drain(..).map(|link| (later, link)));
            record.step
        };
        let (due, later) = std::mem::take(&mut self.doomed).into_iter().partition(|(at, _)| *at <= now);
        self.doomed = later;
        let due: Vec<(u64, Arc<Link>)> = due;
        for (_, link) in due {
            link.lose();
        }
        if let Some(broker) = self.broker().filter(|_| now.is_multiple_of(8)) {
            checks::memory(&mut self.log.lock(), &self.scenario, &broker.stats());
            if now.is_multiple_of(64) {
                checks::outboxes(&mut self.log.lock(), &self.scenario, &broker.metrics(Exposition::Prometheus));
            }
        }
        Ok(())
    }

    fn until(&mut self, what: &str, mut is_true: impl FnMut(&Self) -> bool) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if is_true(self) {
                return Ok(());
            }
            self.step()?;
            if !self.log.lock().faults.is_empty() {
                return Err("given up".to_owned());
            }
        }
        Err(format!("it never happens that {what}"))
    }

    /// Waits until every client is connected, and none to a broker that is gone without a word. A connection that was
    /// let go of in a step is known after it, and the client hears of it in the next.
    fn settle(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        self.until("everybody is connected again", |world| {
            quiet = if world.doomed.is_empty() && world.all_connected() { quiet + 1 } else { 0 };
            quiet == 3
        })
        .map_err(|fault| fault + &self.describe_states())
    }

    fn describe_states(&self) -> String {
        let states = self.machines.iter().flat_map(|machine| {
            let states = machine.states.borrow();
            states.iter().map(|(ident, (_, state))| format!("; {ident} is {:?}", *state.borrow())).collect::<Vec<_>>()
        });
        states.collect()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::KillBroker { silently } => {
                if *silently {
                    // Neither side hears of it.
                    (0..self.machines.len()).for_each(|host| self.lose(host));
                    let hosts: Vec<_> = (0..self.machines.len()).map(name).collect();
                    for host in &hosts {
                        self.sim.partition(host.as_str(), "broker");
                    }
                    self.crash("broker");
                    for host in &hosts {
                        self.sim.repair(host.as_str(), "broker");
                    }
                } else {
                    self.crash("broker");
                }
                self.end_life();
            }
            Event::StopBroker => {
                self.stopped = true;
                self.site.stop.notify_one();
            }
            Event::StartBroker => {
                // After a kill this changes nothing.
                self.crash("broker");
                if self.site.broker.borrow().is_some() || self.stopped {
                    self.end_life();
                }
                self.stopped = false;
                self.log.lock().life += 1;
                self.summary.lives += 1;
                self.sim.bounce("broker");
            }
            Event::Kill { host, silently } => {
                if *silently {
                    self.lose(*host);
                    self.sim.partition(name(*host), "broker");
                }
                self.crash(&name(*host));
                self.machines[*host].states.borrow_mut().clear();
            }
            Event::Start(host) => {
                self.sim.repair(name(*host), "broker");
                self.sim.bounce(name(*host));
            }
            Event::Partition { host, way } => {
                self.lose(*host);
                match way {
                    Way::Both => self.sim.partition(name(*host), "broker"),
                    Way::ToBroker => self.sim.partition_oneway(name(*host), "broker"),
                    Way::FromBroker => self.sim.partition_oneway("broker", name(*host)),
                }
            }
            // Connections that were made meanwhile, one way, are no good, either.
            Event::Repair(host) => {
                self.lose(*host);
                self.sim.repair(name(*host), "broker");
            }
            Event::Hold(host) => self.sim.hold(name(*host), "broker"),
            Event::Release(host) => self.sim.release(name(*host), "broker"),
            Event::Rekey { ident, rights } => {
                let Some(actor) = self.scenario.actors().find(|actor| actor.ident == *ident) else { return };
                self.keys.set(actor, rights.as_deref());
                let mut record = self.log.lock();
                let step = record.step;
                let history = record.rights.entry(ident.clone()).or_default();
                history.push((step, rights.clone().unwrap_or_default()));
                drop(record);
                if let Some(broker) = self.broker() {
                    broker.recheck_now();
                }
            }
        }
    }

    fn crash(&mut self, host: &str) {
        self.log.lock().crashing = true;
        self.sim.crash(host);
        self.log.lock().crashing = false;
    }

    /// The connections of a machine lack something from now on, which TCP notices some time.
    fn lose(&mut self, host: usize) {
        let (now, addr) = (self.at(), self.sim.lookup(name(host)));
        for link in self.log.lock().links_of(addr) {
            self.doomed.push((now + self.rng.u64(25..400), link));
        }
    }

    /// The broker is gone, or has nothing more to do. One that was killed during its shutdown cannot be asked any more.
    fn end_life(&mut self) {
        let broker = self.site.broker.borrow_mut().take();
        let stats = broker.map(|broker| broker.stats()).or(self.site.last.borrow_mut().take());
        let mut record = self.log.lock();
        if let Some(stats) = &stats {
            self.summary.delivered += stats.delivered;
            self.summary.dropped += stats.dropped + stats.discarded;
            record.mark(10, stats.delivered, stats.dropped);
            record.mark(11, stats.received_messages, stats.discarded);
            record.mark(12, stats.unrouted, 0);
        }
        self.summary.repeated += checks::repeated(&record);
        checks::life(&mut record, stats.as_ref());
    }

    fn all_connected(&self) -> bool {
        self.machines.iter().all(|machine| {
            let states = machine.states.borrow();
            states.len() == self.scenario.hosts[machine.host].len()
                && states.values().all(|(_, state)| *state.borrow() == SessionState::Connected)
        })
    }

    fn all_closed(&self) -> bool {
        let record = self.log.lock();
        let numbers = self
            .machines
            .iter()
            .flat_map(|machine| machine.states.borrow().values().map(|(number, _)| *number).collect::<Vec<_>>());
        numbers.into_iter().all(|number| record.sessions[number].closed.is_some())
    }

    fn drops(&self) -> Vec<(String, String, u64)> {
        let drops = self.broker().map(|broker| broker.dropped()).unwrap_or_default();
        let mut drops: Vec<_> =
            drops.iter().map(|drop| (drop.ident.to_string(), drop.channel.to_string(), drop.messages)).collect();
        drops.sort();
        drops
    }

    /// Recipients of what was just published: sessions, and for each a message.
    fn last_messages(&self, before: &[usize]) -> Vec<(usize, u64)> {
        let record = self.log.lock();
        let mut due = Vec::new();
        for machine in &self.machines {
            for actor in &self.scenario.hosts[machine.host] {
                let Role::Subscriber { channels, pace } = &actor.role else { continue };
                if *pace == Pace::Stuck {
                    continue;
                }
                let number = machine.states.borrow()[&actor.ident].0;
                let gets = |channel: &str| {
                    actor.rights.iter().any(|right| covers(right, channel))
                        && channels.iter().any(|pattern| covers(pattern, channel))
                };
                // Messages after one that is refused go with it: those who try are not asked for.
                let honest = |ident: &str| {
                    let rogue = |actor: &Actor| matches!(actor.role, Role::Publisher { rogue: true });
                    !self.scenario.actors().any(|actor| actor.ident == ident && rogue(actor))
                };
                let sessions = record.sessions.iter().zip(before).filter(|(session, _)| honest(&session.ident));
                let new = sessions.flat_map(|(session, before)| &session.ids[*before..]);
                let wanted = new.filter(|id| record.messages[*id].taken && gets(&record.messages[*id].channel));
                due.extend(wanted.map(|id| (number, *id)));
            }
        }
        due
    }

    fn describe(&self, due: &[(usize, u64)]) -> String {
        let record = self.log.lock();
        let missing = due.iter().filter(|(number, id)| !record.sessions[*number].received.contains(id));
        missing.take(3).fold(String::new(), |text, (number, id)| {
            let (session, message) = (&record.sessions[*number], &record.messages[id]);
            let (channel, sent, read) = (&message.channel, message.sent, !message.reads.is_empty());
            text + &format!(
                "; {} lacks {id:x} on {channel}, sent {sent} times, read by the broker: {read}",
                session.name
            )
        })
    }

    /// Or have been counted as dropped meanwhile.
    fn have_arrived(&self, due: &[(usize, u64)], drops: &[(String, String, u64)]) -> bool {
        let now = self.drops();
        let record = self.log.lock();
        due.iter().all(|(number, id)| {
            let session = &record.sessions[*number];
            let channel = &record.messages[id].channel;
            let dropped = |drops: &[(String, String, u64)]| {
                let entry = drops.iter().find(|(ident, name, _)| *ident == session.ident && name == channel);
                entry.map_or(0, |(_, _, count)| *count)
            };
            session.received.contains(id) || dropped(&now) > dropped(drops)
        })
    }
}

fn name(host: usize) -> String {
    format!("host{host}")
}
