//! One measurement: one broker, one work, a process of its own.

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    kind::Kind,
    protocol::{Protocol, Role},
    receiver::Receiver,
    sender::{Batch, Sender, Sent, nanos},
    server::{Clients, Server},
    work::{Flow, Load, Pace},
};

/// How long it may take until every subscriber has got something of every publisher.
const GREETINGS: Duration = Duration::from_secs(20);

/// When nothing has come for so long, nothing more will.
const SILENCE: Duration = Duration::from_secs(1);
/// How long subscribers may go on after the publishers have ended. Later messages are not counted,
/// nor called lost.
const AFTER: Duration = Duration::from_secs(4);

/// Bytes of payload when latency is measured.
const SIZE: usize = 256;

/// The figures of one measurement.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// As many as the work has rows.
    pub(crate) figures: Vec<f64>,
    pub(crate) arrival: Arrival,
}

/// How much of what was sent has arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    /// Which part of the messages was lost.
    pub(crate) loss: f64,
    /// The broker had not finished when there was no more time.
    pub(crate) cut: bool,
}

/// `None` when the broker cannot do this work. `more` are arguments of our broker.
pub(crate) fn measure(
    kind: Kind,
    program: &Path,
    load: Load,
    pace: Pace,
    more: &[String],
) -> io::Result<Option<Sample>> {
    match load {
        Load::Throughput(flow) => throughput(kind, program, flow, pace, more).map(Some),
        Load::Latency { rate } => latency(kind, program, rate, pace, more).map(Some),
        // A relay has no handshake.
        Load::Connections if kind == Kind::Relay => Ok(None),
        Load::Connections => connections(kind, program, pace.connections, more).map(Some),
    }
}

fn throughput(kind: Kind, program: &Path, flow: Flow, pace: Pace, more: &[String]) -> io::Result<Sample> {
    let Flow { publishers, subscribers, size, most } = flow;
    let mut bench = Bench::open(kind, program, Clients { publishers, subscribers, size }, most, more)?;
    let before = bench.server.process.cpu()?;
    let arrival = bench.drive(move |sender| sender.run(Instant::now() + pace.sending))?;
    let used = bench.server.process.cpu_since(before)?;
    Ok(Sample { figures: vec![ratio(used, bench.receiver.check().received)], arrival })
}

fn latency(kind: Kind, program: &Path, rate: u32, pace: Pace, more: &[String]) -> io::Result<Sample> {
    let clients = Clients { publishers: 1, subscribers: 1, size: SIZE };
    let mut bench = Bench::open(kind, program, clients, u64::MAX, more)?;
    delays(&mut bench, rate, pace)
}

/// Median and p99 of the time that a message takes, in µs.
pub(crate) fn delays(bench: &mut Bench, rate: u32, pace: Pace) -> io::Result<Sample> {
    let epoch = Instant::now();
    bench.receiver.check().delays = Some((epoch, Vec::new()));
    let arrival = bench.drive(move |sender| sender.pace(rate, epoch, epoch + pace.sending))?;
    let mut delays = bench.receiver.check().delays.take().map(|(_, delays)| delays).unwrap_or_default();
    // The first tenth warms up.
    delays.drain(..delays.len() / 10);
    delays.sort_unstable();
    let at = |percent: usize| delays.get(delays.len() * percent / 100).copied().map(|nanos| ratio(nanos, 1000));
    let figures = [at(50), at(99)].into_iter().flatten().collect();
    Ok(Sample { figures, arrival })
}

fn connections(kind: Kind, program: &Path, count: u32, more: &[String]) -> io::Result<Sample> {
    let clients = Clients { publishers: 0, subscribers: 0, size: 0 };
    let mut server = Server::start(kind, program, clients, more)?;
    // The first few pay for what is allocated once.
    for _ in 0..50 {
        server.connect(Role::Idle)?;
    }
    server.settle()?;
    let (cpu, memory) = (server.process.cpu()?, server.process.memory()?);
    let open = (0..count).map(|_| server.connect(Role::Idle)).collect::<io::Result<Vec<_>>>()?;
    server.settle()?;
    let cpu = ratio(server.process.cpu_since(cpu)?, 1000 * u64::from(count));
    let memory = ratio(server.process.memory()?.saturating_sub(memory), count.into());
    drop(open);
    Ok(Sample { figures: vec![cpu, memory], arrival: Arrival::default() })
}

/// A broker with its publishers and subscribers, and the way between them is open.
pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) receiver: Receiver,
    sender: Option<Sender>,
    /// How often each message is delivered.
    copies: u64,
}

impl Bench {
    pub(crate) fn new(server: Server, receiver: Receiver, sender: Sender, copies: u64) -> Self {
        Self { server, receiver, sender: Some(sender), copies }
    }

    fn open(kind: Kind, program: &Path, clients: Clients, most: u64, more: &[String]) -> io::Result<Self> {
        Self::open_with(kind, program, clients, most, Batch::of(clients.publishers), more)
    }

    /// `more` are arguments of our broker.
    pub(crate) fn open_with(
        kind: Kind,
        program: &Path,
        clients: Clients,
        most: u64,
        batch: Batch,
        more: &[String],
    ) -> io::Result<Self> {
        Self::of(Server::start(kind, program, clients, more)?, clients, most, batch)
    }

    /// A server that runs already, with its clients, which are new.
    pub(crate) fn of(mut server: Server, clients: Clients, most: u64, batch: Batch) -> io::Result<Self> {
        let Clients { publishers, subscribers, size } = clients;
        let protocol = server.dialer().protocol();
        let mut connect = |count, role| (0..count).map(|_| server.connect(role)).collect::<io::Result<Vec<_>>>();
        let (receiving, sending) = (connect(subscribers, Role::Subscriber)?, connect(publishers, Role::Publisher)?);
        let mut receiver = Receiver::new(receiving, publishers, protocol.delivered(size), protocol.noise())?;
        let mut sender = Sender::new(sending, protocol.published(size), most, batch)?;
        if protocol == Protocol::Confirmed {
            sender.expect_acks();
        }
        greet(&mut sender, &mut receiver, publishers).map_err(|error| server.report(&error))?;
        Ok(Self::new(server, receiver, sender, subscribers as u64))
    }

    /// Sends on a thread of its own and receives on this one.
    pub(crate) fn drive(&mut self, work: impl FnOnce(&mut Sender) -> Sent + Send + 'static) -> io::Result<Arrival> {
        self.drive_and(work, |_| Ok(()))
    }

    /// The same, and does something else now and then while the publishers send.
    pub(crate) fn drive_and(
        &mut self,
        work: impl FnOnce(&mut Sender) -> Sent + Send + 'static,
        mut meanwhile: impl FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<Arrival> {
        let Some(mut sender) = self.sender.take() else {
            return Err(io::Error::other("the publishers have ended"));
        };
        let sending = thread::spawn(move || {
            let sent = work(&mut sender);
            // The connections stay open until everything has been measured: a relay ends with its
            // publishers.
            (sent, sender)
        });
        while !sending.is_finished() {
            self.turn()?;
            meanwhile(self)?;
        }
        let (sent, sender) = sending.join().map_err(|_| io::Error::other("the publishers' thread panicked"))?;
        self.sender = Some(sender);
        let mut arrival = self.drain(sent.messages * self.copies)?;
        arrival.cut |= sent.cut;
        if let Some(error) = sent.broken {
            return Err(self.server.report(&error));
        }
        Ok(arrival)
    }

    /// Receives what is still on its way.
    fn drain(&mut self, expected: u64) -> io::Result<Arrival> {
        let (deadline, mut last) = (Instant::now() + AFTER, Instant::now());
        while self.receiver.check().received < expected {
            if self.receiver.open == 0 || last.elapsed() > SILENCE {
                let absent = expected - self.receiver.check().received;
                return Ok(Arrival { loss: ratio(absent, expected), cut: false });
            }
            if Instant::now() > deadline {
                return Ok(Arrival { loss: ratio(self.receiver.check().missing, expected), cut: true });
            }
            if self.turn()? {
                last = Instant::now();
            }
        }
        Ok(Arrival::default())
    }

    fn turn(&mut self) -> io::Result<bool> {
        self.receiver.turn(Duration::from_millis(10)).map_err(|error| self.server.report(&error))
    }
}

/// Sends messages that do not count until every subscriber has got one of each publisher:
/// subscribing has no answer everywhere.
fn greet(sender: &mut Sender, receiver: &mut Receiver, publishers: usize) -> io::Result<()> {
    let deadline = Instant::now() + GREETINGS;
    let late = || Err(io::Error::other("not every subscriber got a first message"));
    while !receiver.greeted(1) {
        sender.greet(0)?;
        receiver.turn(Duration::from_millis(20))?;
        if Instant::now() > deadline {
            return late();
        }
    }
    (1..publishers).try_for_each(|publisher| sender.greet(publisher))?;
    while !receiver.greeted(publishers) {
        receiver.turn(Duration::from_millis(20))?;
        if Instant::now() > deadline {
            return late();
        }
    }
    // Greetings of the first publisher that came twice.
    while receiver.turn(Duration::from_millis(50))? {}
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "far more digits are left than the figures have")]
pub(crate) fn ratio(of: u64, by: u64) -> f64 {
    if by == 0 { f64::NAN } else { of as f64 / by as f64 }
}

/// For the progress line.
pub(crate) fn seconds(time: Duration) -> u64 {
    nanos(time) / 1_000_000_000
}
