//! The measurement of growth: whether a message costs the same when there are many channels,
//! subscribers or publishers.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    kind::Kind,
    measure::{Arrival, Bench, ratio, seconds},
    programs,
    protocol::{self, Protocol, Role, Routing, Shape},
    receiver::Receiver,
    report,
    sender::{Batch, Sender},
    server::{Clients, Server, check_file_limit},
    support::median,
};

pub(crate) const USAGE: &str = "\
usage: scripts/bench-scale growth [--quick] [--rounds N] [--only TEXT] [--write]

  --quick     one short round, of smaller numbers: whether it works
  --rounds N  how often everything is measured (default 3)
  --only      only rows whose table and label, as shown meanwhile, contain this
  --write     write the tables into docs/dev/benchmarks.md";

const SCRIPT: &str = "scripts/bench-scale growth";

/// Ten thousand connections, and what else is open.
const FILES: u64 = 10_100;
/// Arguments of our broker: the most connections and channels of one connection that there will be.
const LIMITS: [&str; 4] = ["--max-connections", "11000", "--max-subscriptions", "100000"];

/// Bytes of payload.
const SIZE: usize = 256;

/// How many subscriptions are sent at once.
const SUBSCRIPTIONS: usize = 1000;

/// From this number of subscribers on, the kernel may hold at most so many bytes for each.
const CROWD: usize = 1000;
const CROWD_RECEIVES: usize = 64 * 1024;

struct Arguments {
    quick: bool,
    rounds: usize,
    only: String,
    write: bool,
}

/// One row of a table.
struct Case {
    label: String,
    setup: Setup,
    batch: Batch,
    /// A relay does the same.
    relay: bool,
}

#[derive(Clone, Copy)]
enum Setup {
    /// So many publishers and one subscriber on one channel; elsewhere so many connections that
    /// each subscribe to a channel of their own, and one that subscribes to so many more channels.
    One { publishers: usize, idle: u64, elsewhere: u64 },
    /// Publishers and subscribers of many channels.
    Many { publishers: usize, subscribers: usize, routing: Routing },
}

/// A table: its heading and its rows.
struct Section {
    /// The heading of the table's first column.
    heading: &'static str,
    cases: Vec<Case>,
}

/// The figures of one measurement.
#[derive(Clone, Copy)]
struct Figures {
    /// Nanoseconds of the broker for each message that a subscriber got.
    cpu: f64,
    /// The same of the relay.
    relay: Option<f64>,
    /// Messages that all subscribers got in a second.
    rate: f64,
    /// Resident KiB while nothing was sent yet.
    memory: u64,
    /// The same at the most.
    peak: u64,
}

pub(crate) fn run(args: &[String]) -> io::Result<()> {
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let arguments = Arguments::parse(args).map_err(io::Error::other)?;
    check_file_limit(FILES)?;
    let program = |kind| programs::find(kind).ok_or_else(|| io::Error::other("hpfeeds-broker has not been built"));
    let (relay, ours) = (program(Kind::Relay)?, program(Kind::Ours)?);
    let start = Instant::now();
    let sending = Duration::from_millis(if arguments.quick { 300 } else { 1000 });
    let mut sections = sections(arguments.quick);
    for section in &mut sections {
        section.cases.retain(|case| format!("{}, {}:", section.heading, case.label).contains(&arguments.only));
    }
    sections.retain(|section| !section.cases.is_empty());
    let mut figures: Vec<Vec<Vec<Figures>>> = sections.iter().map(|s| vec![Vec::new(); s.cases.len()]).collect();
    for _ in 0..arguments.rounds {
        for (section, rows) in sections.iter().zip(&mut figures) {
            for (case, row) in section.cases.iter().zip(rows) {
                let mut sample = case.measure(Kind::Ours, &ours, sending)?;
                if case.relay {
                    sample.relay = Some(case.measure(Kind::Relay, &relay, sending)?.cpu);
                }
                let Figures { cpu, relay, rate, .. } = sample;
                let relay = relay.map(|relay| format!(", relay {relay:.1}")).unwrap_or_default();
                let at = seconds(start.elapsed());
                eprintln!("[{at:3}s] {}, {}: {cpu:.1} ns{relay}, {rate:.0}/s", section.heading, case.label);
                row.push(sample);
            }
        }
    }
    let mut text = format!("{}, rounds: {}. Nothing was lost.\n", report::conditions(), arguments.rounds);
    for (section, rows) in sections.iter().zip(&figures) {
        section.write(rows, &mut text);
    }
    let channels = if arguments.quick { 10_000 } else { 100_000 };
    let (first, further) = memory(&ours, channels)?;
    let _ = writeln!(
        text,
        "\nResident memory with {channels} channels: {first} bytes for each channel with its first subscription, \
         {further} for each further subscription."
    );
    println!("{text}");
    if arguments.write { report::write(report::BENCHMARKS, SCRIPT, &text) } else { Ok(()) }
}

impl Arguments {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut quick, mut write, mut rounds) = (false, false, None);
        let (mut args, mut only) = (args.iter(), String::new());
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--write" => write = true,
                "--only" => only.clone_from(args.next().ok_or("--only needs a value")?),
                "--rounds" => {
                    let number = args.next().and_then(|value| value.parse().ok()).filter(|n| *n > 0);
                    rounds = Some(number.ok_or("--rounds needs a number above 0")?);
                }
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        Ok(Self { quick, rounds: rounds.unwrap_or(if quick { 1 } else { 3 }), only, write })
    }
}

/// One channel used by turns would be one run.
const TURNS: [u64; 6] = [2, 8, 100, 1000, 10_000, 100_000];

fn sections(quick: bool) -> Vec<Section> {
    let small = |number: &u64| !quick || *number <= 1000;
    let case = |label: String, setup, batch| Case { label, setup, batch, relay: false };
    let one = |publishers, idle, elsewhere| Setup::One { publishers, idle, elsewhere };
    let turns = |channels: u64, run, scattered| {
        let routing = Routing { channels, run, scattered, spread: 1 };
        let setup = Setup::Many { publishers: 1, subscribers: 1, routing };
        case(channels.to_string(), setup, Batch::LARGE)
    };
    let spread = |publishers, subscribers| {
        let routing = Routing { channels: 1, run: 1, scattered: false, spread: subscribers };
        let label = format!("{publishers} publishers, {subscribers} subscribers and channels");
        case(label, Setup::Many { publishers, subscribers, routing }, Batch::TINY)
    };
    let counts = |all: &'static [u64]| all.iter().copied().filter(small);
    let fan_in =
        |n: u64, batch| Case { relay: true, ..case(n.to_string(), one(n.try_into().unwrap_or(1), 0, 0), batch) };
    vec![
        Section {
            heading: "channels that others subscribe to",
            cases: counts(&[0, 1000, 100_000]).map(|n| case(n.to_string(), one(1, 0, n), Batch::LARGE)).collect(),
        },
        Section {
            heading: "channels that one publisher uses by turns, 16 messages each",
            cases: counts(&TURNS).map(|n| turns(n, 16, false)).collect(),
        },
        Section {
            heading: "channels that one publisher uses by turns, 1 message each",
            cases: counts(&TURNS).map(|n| turns(n, 1, false)).collect(),
        },
        Section {
            heading: "channels that one publisher uses in no order, 1 message each",
            cases: counts(&TURNS[1..]).map(|n| turns(n, 1, true)).collect(),
        },
        Section {
            heading: "idle subscribers elsewhere",
            cases: counts(&[10, 100, 1000, 10_000]).map(|n| case(n.to_string(), one(1, n, 0), Batch::LARGE)).collect(),
        },
        Section {
            heading: "publishers",
            cases: counts(&[1, 10, 100, 1000]).map(|n| fan_in(n, Batch::SMALL)).collect(),
        },
        Section {
            heading: "publishers with large send buffers",
            cases: counts(&[1, 10, 100]).map(|n| fan_in(n, Batch::LARGE)).collect(),
        },
        Section {
            heading: "connections at work",
            cases: if quick {
                vec![spread(990, 10), spread(500, 500)]
            } else {
                vec![spread(9990, 10), spread(5000, 5000)]
            },
        },
    ]
}

impl Section {
    fn write(&self, rows: &[Vec<Figures>], text: &mut String) {
        let relay = self.cases.iter().any(|case| case.relay);
        let more = if relay { " relay | to the relay |" } else { "" };
        let _ = write!(text, "\n| {} | CPU ns per message | to the first row |{more}", self.heading);
        let _ = write!(
            text,
            " messages/s | RSS KiB: before | peak |\n|---|---|---|{}---|---|---|",
            if relay { "---|---|" } else { "" }
        );
        let Some(first) = rows.first() else { return };
        for (case, row) in self.cases.iter().zip(rows) {
            let of = |figure: &dyn Fn(&Figures) -> f64| median(row.iter().map(figure).collect()).unwrap_or(f64::NAN);
            let pairs = row.iter().zip(first).map(|(here, there)| here.cpu / there.cpu);
            let growth = median(pairs.collect()).unwrap_or(f64::NAN);
            let _ = write!(text, "\n| {} | {:.1} | {growth:.2}× |", case.label, of(&|f| f.cpu));
            if relay {
                let ratio = of(&|f| f.cpu / f.relay.unwrap_or(f64::NAN));
                let _ = write!(text, " {:.1} | {ratio:.2}× |", of(&|f| f.relay.unwrap_or(f64::NAN)));
            }
            let peak = row.iter().map(|f| f.peak).max().unwrap_or(0);
            let _ = write!(
                text,
                " {:.0} | {} | {peak} |",
                of(&|f| f.rate),
                row.iter().map(|f| f.memory).max().unwrap_or(0)
            );
        }
        text.push('\n');
    }
}

impl Case {
    /// An error when a message was lost.
    fn measure(&self, kind: Kind, program: &Path, sending: Duration) -> io::Result<Figures> {
        // They are kept until everything has been measured.
        let (mut bench, _idle) = match self.setup {
            Setup::One { publishers, idle, elsewhere } => self.one(kind, program, publishers, (idle, elsewhere))?,
            Setup::Many { publishers, subscribers, routing } => {
                (many(program, publishers, subscribers, routing, self.batch)?, Vec::new())
            }
        };
        bench.server.settle()?;
        let (memory, cpu, start) = (bench.server.process.memory()?, bench.server.process.cpu()?, Instant::now());
        let arrival = bench.drive(move |sender| sender.run(Instant::now() + sending))?;
        let (used, took) = (bench.server.process.cpu_since(cpu)?, start.elapsed());
        let received = bench.receiver.check().received;
        let Arrival { loss, cut } = arrival;
        if loss > 0.0 || cut || received == 0 {
            let error = io::Error::other(format!("{}: of {received} messages{arrival}", self.label));
            return Err(bench.server.report(&error));
        }
        let peak = bench.server.peak()?;
        Ok(Figures {
            cpu: ratio(used, received),
            relay: None,
            rate: ratio(received, 1) / took.as_secs_f64(),
            memory,
            peak,
        })
    }

    fn one(
        &self,
        kind: Kind,
        program: &Path,
        publishers: usize,
        (idle, elsewhere): (u64, u64),
    ) -> io::Result<(Bench, Vec<TcpStream>)> {
        let clients = Clients { publishers, subscribers: 1, size: SIZE };
        let mut bench = Bench::open_with(kind, program, clients, u64::MAX, self.batch, &limits())?;
        let mut others = (0..idle)
            .map(|channel| {
                let mut socket = bench.server.connect(Role::Idle)?;
                subscribe(&mut socket, channel..channel + 1)?;
                Ok(socket)
            })
            .collect::<io::Result<Vec<_>>>()?;
        if elsewhere > 0 {
            let mut socket = bench.server.connect(Role::Idle)?;
            subscribe(&mut socket, idle..idle + elsewhere)?;
            others.push(socket);
        }
        Ok((bench, others))
    }
}

fn many(program: &Path, publishers: usize, subscribers: usize, routing: Routing, batch: Batch) -> io::Result<Bench> {
    let mut server = Server::start(Kind::Ours, program, Clients { publishers, subscribers, size: SIZE }, &limits())?;
    let mut receiving = Vec::new();
    for (_, first) in (0..subscribers).zip(0..) {
        let mut socket = server.connect(Role::Idle)?;
        if subscribers >= CROWD {
            SockRef::from(&socket).set_recv_buffer_size(CROWD_RECEIVES)?;
        }
        subscribe(&mut socket, first..first + routing.channels)?;
        receiving.push(socket);
    }
    let sending = (0..publishers).map(|_| server.connect(Role::Publisher)).collect::<io::Result<Vec<_>>>()?;
    // Subscribing has no answer: when it has nothing more to do, it has done that.
    server.settle()?;
    let shape = Shape::routed(SIZE, routing);
    let receiver = Receiver::new(receiving, publishers, shape.clone(), Protocol::Hpfeeds.noise())?;
    let sender = Sender::new(sending, shape, u64::MAX, batch)?;
    Ok(Bench::new(server, receiver, sender, 1))
}

/// The memory of the first subscription to a channel, and of each further one, in bytes.
fn memory(program: &Path, channels: u64) -> io::Result<(u64, u64)> {
    let mut server = Server::start(Kind::Ours, program, Clients { publishers: 0, subscribers: 0, size: 0 }, &limits())?;
    let mut sockets = [server.connect(Role::Idle)?, server.connect(Role::Idle)?];
    // Leaves out allocations that happen once.
    for socket in &mut sockets {
        subscribe(socket, 0..1)?;
    }
    server.settle()?;
    let mut last = server.process.memory()?;
    let mut each = [0; 2];
    for (socket, each) in sockets.iter_mut().zip(&mut each) {
        subscribe(socket, 1..channels)?;
        server.settle()?;
        let now = server.process.memory()?;
        *each = now.saturating_sub(last) * 1024 / channels;
        last = now;
    }
    Ok((each[0], each[1]))
}

fn subscribe(socket: &mut TcpStream, channels: std::ops::Range<u64>) -> io::Result<()> {
    let frames = channels.map(|channel| protocol::subscribe(&protocol::numbered(channel)));
    let frames = frames.collect::<io::Result<Vec<_>>>()?;
    frames.chunks(SUBSCRIPTIONS).try_for_each(|chunk| socket.write_all(&chunk.concat()))
}

fn limits() -> Vec<String> {
    LIMITS.map(str::to_owned).into()
}
