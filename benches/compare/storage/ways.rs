//! The ways of a message over a relay, and of those that waited in a mailbox: each beside the direct
//! way in the same round.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::engine::SIZE;
use crate::{
    kind::Kind,
    measure::{Bench, Sample, delays, ratio},
    protocol::{Protocol, Role, Routing, Shape, numbered, subscribe},
    receiver::Receiver,
    sender::{Batch, Sender, nanos},
    server::{Clients, Server},
    support::quantile,
    work::Pace,
};

/// Messages on their way over a relay, and those that wait in a mailbox.
const ON_THE_WAY: u64 = 400_000;
const WAITING: u64 = 1_500_000;
/// Messages a second whose latency is measured.
const RATE: u32 = 10_000;
/// How long something may take that always comes.
const PATIENCE: Duration = Duration::from_secs(60);

const PAIR: Clients = Clients { publishers: 1, subscribers: 1, size: SIZE };
/// All messages that wait are for one of many channels.
const ROUTING: Routing = Routing { channels: 1, run: u64::MAX, scattered: false, spread: 1 };

/// Processor time of a relay and its parent for each message, beside that of the parent alone.
pub(super) fn hop(program: &Path, length: Duration, rounds: usize) -> io::Result<String> {
    let (mut direct, mut over) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        direct.push(through(program, length, false)?);
        over.push(through(program, length, true)?);
    }
    Ok(row("over a relay: CPU ns per message of both", &over, "direct", &direct))
}

fn through(program: &Path, length: Duration, is_over: bool) -> io::Result<f64> {
    let mut parent = storing(program, "archive=bench")?;
    let mut relay = None;
    if is_over {
        parent.connect(Role::Idle)?;
        let arguments = ["--data-dir", "data", "--key", "dev", "--parent", &parent.address()].map(str::to_owned);
        let front = relay.insert(Server::start_with(Kind::OurRelay, program, PAIR, &arguments)?);
        front.connect(Role::Idle)?;
        parent.publish_to(front);
    }
    let mut bench = Bench::of(parent, PAIR, ON_THE_WAY, Batch::LARGE)?;
    let before = bench.server.process.cpu()?;
    let before_relay = relay.as_ref().map_or(Ok(0), |relay| relay.process.cpu())?;
    let arrival = bench.drive(move |sender| sender.run(Instant::now() + length))?;
    let mut used = bench.server.process.cpu_since(before)?;
    if let Some(relay) = &relay {
        used += relay.process.cpu_since(before_relay)?;
    }
    if arrival.loss > 0.0 || arrival.cut {
        return Err(io::Error::other(format!("not all came over the relay:{arrival}")));
    }
    Ok(ratio(used, bench.receiver.check().received))
}

/// Messages a second that a subscriber gets who was away, beside one who is there.
pub(super) fn catching_up(program: &Path, rounds: usize) -> io::Result<String> {
    let (mut there, mut away) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let server = Server::start(Kind::Ours, program, PAIR, &[])?;
        let mut bench = Bench::of(server, PAIR, WAITING, Batch::LARGE)?;
        let start = Instant::now();
        bench.drive(move |sender| sender.run(Instant::now() + PATIENCE))?;
        there.push(rate(bench.receiver.check().received, start));

        let mut server = storing(program, "dev=bench")?;
        let shape = Protocol::Hpfeeds.published(SIZE);
        fill(&mut server, shape.clone())?;
        let start = Instant::now();
        let mut receiver = Receiver::new(vec![server.connect(Role::Subscriber)?], 1, shape, b"")?;
        while receiver.check().received < WAITING {
            receiver.turn(Duration::from_millis(10))?;
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("only {} came", receiver.check().received)));
            }
        }
        away.push(rate(WAITING, start));
    }
    Ok(row("catching up from a mailbox: messages a second", &away, "a live subscriber", &there))
}

/// The latency of others while a subscriber catches up as fast as it can, beside the time when all
/// have caught up.
pub(super) fn others(program: &Path, length: Duration, rounds: usize) -> io::Result<String> {
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut server = storing(program, "dev=scale.*")?;
        fill(&mut server, Shape::routed(SIZE, ROUTING))?;
        let dialer = server.dialer();
        let mut bench = Bench::of(server, PAIR, u64::MAX, Batch::LARGE)?;
        let pace = Pace { sending: length, ..Pace::new(false) };
        quiet.push(median_of(&delays(&mut bench, RATE, pace)?)?);

        let mut reader = dialer.connect(Role::Idle)?;
        reader.write_all(&subscribe(&numbered(0))?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reading = thread::spawn(move || -> io::Result<usize> {
            let (mut buffer, mut all) = (vec![0; 256 * 1024], 0);
            while !stopped.load(Relaxed) {
                all += reader.read(&mut buffer)?;
            }
            Ok(all)
        });
        let sample = delays(&mut bench, RATE, pace)?;
        stop.store(true, Relaxed);
        let read = reading.join().map_err(|_| io::Error::other("the reader's thread panicked"))?;
        // One that has caught up waits in vain for more.
        if read.as_ref().is_ok_and(|read| *read == 0) {
            return Err(io::Error::other("nothing came from the mailbox"));
        }
        beside.push(median_of(&sample)?);
    }
    Ok(row("latency beside one who catches up: median µs", &beside, "without", &quiet))
}

/// Our broker with a data folder and a mailbox.
fn storing(program: &Path, mailbox: &str) -> io::Result<Server> {
    let arguments = ["--data-dir", "data", "--mailbox", mailbox, "--journal-max-bytes", "64G"].map(str::to_owned);
    Server::start(Kind::Ours, program, PAIR, &arguments)
}

/// Has it store messages for which nobody is there.
fn fill(server: &mut Server, shape: Shape) -> io::Result<()> {
    let mut sender = Sender::new(vec![server.connect(Role::Publisher)?], shape, WAITING, Batch::LARGE)?;
    let sent = sender.run(Instant::now() + PATIENCE);
    if let Some(error) = sent.broken {
        return Err(server.report(&error));
    }
    server.settle()
}

fn rate(messages: u64, since: Instant) -> f64 {
    ratio(messages * 1_000_000, nanos(since.elapsed()) / 1000)
}

fn median_of(sample: &Sample) -> io::Result<f64> {
    sample.figures.first().copied().ok_or_else(|| io::Error::other("no message came"))
}

/// The medians, and the median of the ratios within the rounds, with their middle half.
fn row(what: &str, figures: &[f64], beside: &str, others: &[f64]) -> String {
    let ratios: Vec<f64> = figures.iter().zip(others).map(|(one, other)| one / other).collect();
    let [least, middle, most] = [0.25, 0.5, 0.75].map(|part| quantile(ratios.clone(), part).unwrap_or(f64::NAN));
    let [one, other] = [figures, others].map(|list| quantile(list.to_vec(), 0.5).unwrap_or(f64::NAN));
    format!("- {what}: {one:.0}; {beside}: {other:.0}; {middle:.2}× ({least:.2} to {most:.2})")
}
