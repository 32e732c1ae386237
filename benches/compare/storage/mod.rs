//! The cost of storing a message before it is acknowledged: our journal, a plain loop that appends
//! the same bytes and syncs each group, Redis Streams and NATS `JetStream`, by turns.
//!
//! Redis runs with `appendfsync always` and with
//! `everysec`, which acknowledges before it syncs, as `JetStream` does. A second table has what the
//! journal costs publishers that do not wait, and subscribers.

mod engine;
mod journal;
mod plain;
mod ways;
mod window;

pub(crate) use self::plain::run as plain_loop;

use std::{fmt::Write as _, io, time::Duration, time::Instant};

use self::{
    engine::{Engine, SIZE},
    window::Window,
};
use crate::{arguments::chosen, measure::seconds, report, server::check_file_limit, support::quantile};

pub(crate) const USAGE: &str = "\
usage: scripts/bench-delivery storage [--quick] [--rounds N] [--only NAME,...] [--table confirmed|journal]

  --quick     one short round: whether it works, not what anything costs
  --rounds N  how often everything is measured (default 7)
  --only      of the first table: plain, ours, redis-always, redis-everysec, jetstream; the plain loop always runs
  --table     one of the two tables";

/// Publishers, and how many messages each has under way that are not acknowledged.
const PUBLISHERS: usize = 64;
const UNCONFIRMED: usize = 64;
/// Sockets of both ends, and what else is open.
const FILES: u64 = 1000;

/// The figures of one engine in one round.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Messages a second that were acknowledged, of all publishers.
    rate: f64,
    /// Processor time of the server for each of them, in ns.
    cpu: f64,
    /// The median time of one message at a time, of one publisher, in µs.
    alone: f64,
}

impl Figures {
    const ROWS: [&str; 3] = [
        "64 publishers with 64 unconfirmed each: messages a second",
        "the same: CPU ns per message",
        "one message at a time: median µs",
    ];

    fn row(self, row: usize) -> f64 {
        [self.rate, self.cpu, self.alone][row]
    }
}

struct Arguments {
    length: Duration,
    rounds: usize,
    engines: Vec<Engine>,
    confirmed: bool,
    journal: bool,
}

pub(crate) fn run(args: &[String]) -> io::Result<()> {
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let arguments = Arguments::parse(args).map_err(io::Error::other)?;
    check_file_limit(FILES)?;
    if arguments.confirmed {
        println!("{}", confirmed(&arguments)?);
    }
    if arguments.journal {
        println!("{}", journal::table(arguments.length, arguments.rounds)?);
    }
    Ok(())
}

/// The first table, as Markdown.
fn confirmed(arguments: &Arguments) -> io::Result<String> {
    let mut samples = vec![Vec::new(); arguments.engines.len()];
    let start = Instant::now();
    for round in 0..arguments.rounds {
        for turn in 0..arguments.engines.len() {
            // Each is the first in turn: what one leaves behind in the machine meets all alike.
            let column = (round + turn) % arguments.engines.len();
            let engine = arguments.engines[column];
            let figures = measure(engine, arguments.length)?;
            eprintln!("[{:3}s] {}: {figures:.1?}", seconds(start.elapsed()), engine.name());
            samples[column].push(figures);
        }
    }
    Ok(markdown(arguments, &samples))
}

fn measure(engine: Engine, length: Duration) -> io::Result<Figures> {
    let mut server = engine.start()?;
    let mut many = Window::open(engine, &mut server, PUBLISHERS, UNCONFIRMED)?;
    // The first part warms up.
    many.run(length / 4).map_err(|error| server.report(&error))?;
    let (before, start) = (server.process.cpu()?, Instant::now());
    let acknowledged = many.run(length).map_err(|error| server.report(&error))?;
    let (used, took) = (server.process.cpu_since(before)?, start.elapsed());
    drop(many);
    let mut one = Window::open(engine, &mut server, 1, 1)?;
    one.run(length).map_err(|error| server.report(&error))?;
    let alone = one.median().ok_or_else(|| io::Error::other("nothing was acknowledged"))?;
    #[allow(clippy::cast_precision_loss, reason = "far more digits are left than the figures have")]
    let (messages, used) = (acknowledged as f64, used as f64);
    Ok(Figures { rate: messages / took.as_secs_f64(), cpu: used / messages, alone })
}

impl Arguments {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut quick, mut rounds, mut names, mut table) = (false, None, None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--rounds" => {
                    let number = value()?.parse::<usize>().ok().filter(|n| *n > 0);
                    rounds = Some(number.ok_or("--rounds needs a number above 0")?);
                }
                "--only" => names = Some(value()?),
                "--table" => table = Some(value()?.as_str()),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        let asked = chosen(names.map(String::as_str), Engine::ALL, Engine::name, USAGE)?;
        let is_there = |engine: &Engine| {
            let there = engine.is_there();
            if !there {
                eprintln!("{} is not installed: left out", engine.name());
            }
            there
        };
        let wanted = |engine: &Engine| *engine == Engine::Plain || asked.contains(engine);
        let engines = Engine::ALL.iter().copied().filter(wanted).filter(is_there).collect();
        let (confirmed, journal) = match table {
            None => (true, true),
            Some("confirmed") => (true, false),
            Some("journal") => (false, true),
            Some(other) => return Err(format!("unknown table {other:?}\n{USAGE}")),
        };
        let length = Duration::from_millis(if quick { 300 } else { 2000 });
        Ok(Self { length, rounds: rounds.unwrap_or(if quick { 1 } else { 7 }), engines, confirmed, journal })
    }
}

fn markdown(arguments: &Arguments, samples: &[Vec<Figures>]) -> String {
    let versions: Vec<String> = arguments.engines.iter().filter_map(|engine| engine.version()).collect();
    let mut text = format!(
        "{}, rounds: {}, {SIZE} B each. Versions: {}.\n\n| |",
        report::conditions(),
        arguments.rounds,
        versions.join(", ")
    );
    for engine in &arguments.engines {
        let _ = write!(text, " {} |", engine.name());
    }
    let _ = write!(text, "\n|---|{}", "---|".repeat(arguments.engines.len()));
    for (row, label) in Figures::ROWS.iter().enumerate() {
        let _ = write!(text, "\n| {label} |");
        for column in samples {
            // Beside the plain loop of the same round.
            let figures = column.iter().map(|figures| figures.row(row)).collect::<Vec<_>>();
            let ratios: Vec<f64> =
                column.iter().zip(&samples[0]).map(|(one, plain)| one.row(row) / plain.row(row)).collect();
            let _ = write!(text, " {} |", cell(figures, &ratios));
        }
    }
    text.push('\n');
    text
}

/// The median, and the median of the ratios with their middle half.
fn cell(figures: Vec<f64>, ratios: &[f64]) -> String {
    let quantiles = [0.25, 0.5, 0.75].map(|part| quantile(ratios.to_vec(), part));
    match (quantile(figures, 0.5), quantiles) {
        (Some(middle), [Some(least), Some(ratio), Some(most)]) => {
            format!("{middle:.0}, {ratio:.2}× ({least:.2} to {most:.2})")
        }
        _ => "–".to_owned(),
    }
}
