//! The chain: sensors, a relay, a broker that stores, and a collector that commits what it has written. Each is killed
//! in turn: `scripts/kill-rounds --chain`.

mod check;
mod children;
mod parts;
mod plain;
mod written;

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::time::{Instant, sleep};

pub(crate) use self::children::is_part;
use self::{
    parts::Process,
    plain::Shared,
    written::{Kill, Part, Source, Written},
};
use crate::{
    REPORT,
    collector::within,
    event::{IDENT, Line, Moment},
    millis,
    sensor::stay_awake,
};

/// How long nothing at all may arrive while something is on its way.
const PATIENCE: Duration = Duration::from_secs(60);

const PARTS: [Part; 4] = [Part::Sensor, Part::Relay, Part::Broker, Part::Collector];

struct Chain<'a> {
    folder: &'a Path,
    broker_addr: SocketAddr,
    relay_addr: SocketAddr,
    sensor: Process,
    relay: Process,
    broker: Process,
    collector: Process,
    sources: Vec<Source>,
    kills: Vec<Kill>,
    written: Written,
    plain: Arc<Shared>,
    seeds: Rng,
}

impl<'a> Chain<'a> {
    async fn start(folder: &'a Path, mut seeds: Rng) -> Self {
        let (broker, broker_addr) = parts::broker(folder, 0).await;
        let (relay, relay_addr) = parts::relay(folder, 0, broker_addr).await;
        Self {
            folder,
            broker_addr,
            relay_addr,
            sensor: parts::sensor(relay_addr, 1, seeds.u64(..)),
            relay,
            broker,
            collector: parts::collector(folder, broker_addr),
            sources: Vec::new(),
            kills: Vec::new(),
            written: Written::new(parts::file(folder)),
            plain: Arc::default(),
            seeds,
        }
    }

    async fn kill(&mut self, part: Part) {
        let process = match part {
            Part::Sensor => &mut self.sensor,
            Part::Relay => {
                self.plain.kills.fetch_add(1, SeqCst);
                &mut self.relay
            }
            Part::Broker => &mut self.broker,
            Part::Collector => &mut self.collector,
        };
        self.kills.push(process.kill(part).await);
        if part == Part::Sensor {
            self.hear().await;
        }
    }

    async fn start_again(&mut self, part: Part) {
        match part {
            Part::Sensor => self.sensor = parts::sensor(self.relay_addr, self.free(), self.seeds.u64(..)),
            Part::Relay => (self.relay, _) = parts::relay(self.folder, self.relay_addr.port(), self.broker_addr).await,
            Part::Broker => (self.broker, _) = parts::broker(self.folder, self.broker_addr.port()).await,
            Part::Collector => self.collector = parts::collector(self.folder, self.broker_addr),
        }
    }

    /// The first number that no sensor's process has tried.
    fn free(&self) -> u64 {
        self.sources.last().map_or(1, |source| source.first + source.tried)
    }

    /// Takes over the lines of a sensor that has ended.
    async fn hear(&mut self) {
        let mut source = Source { ident: IDENT, first: self.free(), tried: 0, confirmed: Vec::new() };
        for line in within(self.sensor.lines.take().unwrap()).await.unwrap() {
            match line {
                Line::Tried { .. } => source.tried += 1,
                Line::Confirmed { number, .. } => source.confirmed.push(number),
                Line::Drained => {}
                other => panic!("the sensor of a chain: {other}"),
            }
        }
        self.sources.push(source);
    }

    /// Waits until the collector has written as many lines more, or all of these numbers.
    async fn arrive(&mut self, lines: usize, mut missing: HashSet<u64>) -> Result<(), String> {
        let mut last = Instant::now();
        self.written.read();
        let (mut heard, until) = (0, self.written.entries.len() + lines);
        loop {
            self.written.read();
            let entries = &self.written.entries;
            if entries.len() > heard {
                for entry in &entries[heard..] {
                    missing.remove(&entry.number);
                }
                (heard, last) = (entries.len(), Instant::now());
            }
            if heard >= until && missing.is_empty() {
                return Ok(());
            }
            if last.elapsed() > PATIENCE {
                let mut numbers: Vec<_> = missing.into_iter().collect();
                numbers.sort_unstable();
                let first = &numbers[..numbers.len().min(20)];
                return Err(format!("nothing arrives; {} confirmed ones are missing: {first:?}", numbers.len()));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) async fn kill(rounds: usize, mut rng: Rng, folder: &Path) -> Result<(), String> {
    let started = Instant::now();
    // The time for which this machine ran its programs and its disk, by moments.
    let clock = Arc::new(Mutex::new(BTreeMap::new()));
    let (ticks, path) = (clock.clone(), folder.join("awake"));
    let awake = tokio::spawn(stay_awake(path, move |at: Moment, awake| {
        ticks.lock().unwrap().insert(at, awake);
    }));
    let mut chain = Chain::start(folder, rng.fork()).await;
    let plain = tokio::spawn(plain::publish(chain.relay_addr, chain.plain.clone(), rng.fork()));
    let together = AtomicUsize::new(0);
    for round in 1..=rounds {
        sleep(millis(&mut rng, 5, 120)).await;
        if rng.u8(..8) == 0 {
            // Now and then all of it works, and what was committed before is in the file of cursors.
            chain.arrive(rng.usize(1..200), HashSet::new()).await?;
            sleep(millis(&mut rng, 0, 1500)).await;
        }
        let mut victims = vec![PARTS[rng.usize(..PARTS.len())]];
        // One of four times, another dies while that is away.
        let other = PARTS[rng.usize(..PARTS.len())];
        if rng.u8(..4) == 0 && !victims.contains(&other) {
            victims.push(other);
            together.fetch_add(1, SeqCst);
        }
        for part in &victims {
            chain.kill(*part).await;
            sleep(millis(&mut rng, 0, 50)).await;
        }
        rng.shuffle(&mut victims);
        for part in victims {
            chain.start_again(part).await;
        }
        if round % REPORT == 0 {
            chain.written.read();
            println!("{round:5} rounds, {:4} s: {} lines", started.elapsed().as_secs(), chain.written.entries.len());
        }
    }
    chain.sensor.drain().await;
    chain.hear().await;
    chain.plain.draining.store(true, SeqCst);
    chain.sources.extend(plain.await.unwrap());
    let confirmed = chain.sources.iter().flat_map(|source| source.confirmed.iter().copied());
    // The last of both are among them, and all else comes before those.
    let confirmed = confirmed.collect();
    chain.arrive(0, confirmed).await?;
    chain.relay_is_empty().await?;
    awake.abort();
    let clock = std::mem::take(&mut *clock.lock().unwrap());
    check::check(&chain.sources, &chain.kills, &chain.written.entries, &clock)?;
    let (together, seconds) = (together.into_inner(), started.elapsed().as_secs());
    println!("{rounds} rounds, {together} of them with two parts at once, in {seconds} s: the sums agree");
    Ok(())
}

impl Chain<'_> {
    /// The relay's own figures: nothing waits, nothing is lost.
    async fn relay_is_empty(&self) -> Result<(), String> {
        let mut screen = String::new();
        for _ in 0..600 {
            screen = parts::relay_status(self.folder).await;
            let all = |word: &str| {
                let mut lines = screen.lines().filter_map(|line| line.trim().strip_prefix(word));
                lines.clone().count() == 2 && lines.all(|figure| figure.trim() == "0")
            };
            if all("waiting") && all("lost") {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("the relay has something left: {screen}"))
    }
}
