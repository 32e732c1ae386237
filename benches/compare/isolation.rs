//! The measurement of isolation: what a subscriber that does not read, or hardly, costs the others.

use std::{
    fmt::Write as _,
    io,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    kind::Kind,
    laggards::{Laggards, Toll},
    measure::{Bench, ratio},
    programs, report,
    sender::Batch,
    server::Clients,
    support::median,
};

pub(crate) const USAGE: &str = "\
usage: scripts/bench-scale isolation [--quick] [--seconds N] [--policy NAME] [--write]

  --quick      20 seconds, and a deadline for slow subscribers of 5: whether it works
  --seconds N  how long the bad subscribers are there, for each policy (default 600)
  --policy     only one of disconnect and drop-oldest
  --write      write the tables into docs/dev/benchmarks.md";

const SCRIPT: &str = "scripts/bench-scale isolation";

const POLICIES: [&str; 2] = ["disconnect", "drop-oldest"];

const PUBLISHERS: usize = 3;
const HEALTHY: usize = 5;
const SIZE: usize = 1024;

/// The broker's defaults; `--help` says the same.
const LOW_MARK: u64 = 1024;
const HIGH_MARK: u64 = 50 * 1024;
const DEADLINE: u64 = 60;
/// The most that an active connection adds: what it waits with, and what it is in the middle of.
const ACTIVE: u64 = 512;

/// The time that is told apart from the rest: in it, the broker finds out that they are slow.
const FIRST: Duration = Duration::from_secs(10);

/// After that, so long at once the broker with the bad subscribers has its load, and so long one
/// without them: a machine has its moods for minutes.
const TURN: Duration = Duration::from_secs(20);
const CONTROL: Duration = Duration::from_secs(5);

/// How often the broker is looked at.
const SLICE: Duration = Duration::from_secs(1);

struct Arguments {
    seconds: u64,
    deadline: u64,
    /// How long the others are measured alone, before and after.
    alone: Duration,
    policies: Vec<&'static str>,
    write: bool,
}

/// About a second.
#[derive(Clone, Copy)]
struct Slice {
    phase: Phase,
    time: Duration,
    /// Messages that healthy subscribers got.
    received: u64,
    /// Nanoseconds of the broker.
    cpu: u64,
    stall: Duration,
    /// Resident KiB of the broker.
    memory: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    /// Two bad ones have come.
    First,
    Rest,
    /// The other broker.
    Control,
    After,
}

/// The summary of all slices of a phase.
struct Summary {
    time: Duration,
    /// Messages in a second, for all healthy subscribers together: in the mean, and in the middle
    /// of all slices.
    rate: f64,
    usual: f64,
    cpu: f64,
    stall: Duration,
    memory: u64,
    /// Slices with less than half of what was usual before.
    halved: usize,
}

pub(crate) fn run(args: &[String]) -> io::Result<()> {
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let arguments = Arguments::parse(args).map_err(io::Error::other)?;
    let program = programs::find(Kind::Ours).ok_or_else(|| io::Error::other("hpfeeds-broker has not been built"))?;
    let mut text = format!(
        "{}. {PUBLISHERS} publishers at full speed, {HEALTHY} healthy subscribers, {SIZE} B; the bad ones are there for \
         {} s, the deadline for slow subscribers is {} s. Healthy subscribers lost nothing.\n",
        report::conditions(),
        arguments.seconds,
        arguments.deadline
    );
    for policy in &arguments.policies {
        text.push_str(&measure(&program, &arguments, policy)?);
    }
    println!("{text}");
    if arguments.write { report::write(report::BENCHMARKS, SCRIPT, &text) } else { Ok(()) }
}

impl Arguments {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut quick, mut write, mut seconds, mut policies) = (false, false, None, POLICIES.to_vec());
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--write" => write = true,
                "--seconds" => {
                    let number = args.next().and_then(|value| value.parse().ok()).filter(|n| *n > FIRST.as_secs());
                    seconds = Some(number.ok_or("--seconds needs a number above 10")?);
                }
                "--policy" => {
                    let name = args.next();
                    policies.retain(|policy| name.is_some_and(|name| name == policy));
                    if policies.is_empty() {
                        return Err(format!("--policy is one of {}", POLICIES.join(" and ")));
                    }
                }
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        Ok(Self {
            seconds: seconds.unwrap_or(if quick { 20 } else { 600 }),
            deadline: if quick { 5 } else { DEADLINE },
            alone: Duration::from_secs(if quick { 4 } else { 20 }),
            policies,
            write,
        })
    }
}

/// An error when a healthy subscriber lost a message.
fn measure(program: &Path, arguments: &Arguments, policy: &str) -> io::Result<String> {
    let clients = Clients { publishers: PUBLISHERS, subscribers: HEALTHY, size: SIZE };
    let deadline = arguments.deadline.to_string();
    let options = ["--slow-policy", policy, "--slow-deadline", &deadline].map(str::to_owned);
    let open = || Bench::open_with(Kind::Ours, program, clients, u64::MAX, Batch::LARGE, &options);
    let (mut bench, mut control) = (open()?, open()?);
    bench.server.settle()?;
    let idle = bench.server.process.memory()?;
    let mut slices = Vec::new();
    let mut load = |bench: &mut Bench, phase, time| {
        drive(bench, phase, time, &mut slices).map_err(|error| io::Error::other(format!("{policy}: {error}")))
    };
    load(&mut bench, Phase::Before, arguments.alone)?;
    let laggards = Laggards::start(bench.server.dialer(), bench.server.log());
    load(&mut bench, Phase::First, FIRST)?;
    let mut rest = Duration::from_secs(arguments.seconds).saturating_sub(FIRST);
    while !rest.is_zero() {
        load(&mut control, Phase::Control, CONTROL)?;
        let time = rest.min(TURN);
        load(&mut bench, Phase::Rest, time)?;
        rest -= time;
    }
    let toll = laggards.toll()?;
    load(&mut bench, Phase::After, arguments.alone)?;
    Ok(table(policy, &slices, &toll, (idle, bench.server.peak()?)))
}

/// Full load for some time.
fn drive(bench: &mut Bench, phase: Phase, time: Duration, slices: &mut Vec<Slice>) -> io::Result<()> {
    bench.receiver.forget_pauses();
    let (start, first) = (Instant::now(), slices.len());
    let mut last = (start, bench.receiver.check().received, bench.server.process.cpu()?);
    let arrival = bench.drive_and(
        move |sender| sender.run(start + time),
        |bench| {
            let now = Instant::now();
            let at = now.saturating_duration_since(start);
            if now.saturating_duration_since(last.0) < SLICE || at > time {
                return Ok(());
            }
            let here = (now, bench.receiver.check().received, bench.server.process.cpu()?);
            let slice = Slice {
                phase,
                time: here.0.saturating_duration_since(last.0),
                received: here.1 - last.1,
                cpu: here.2.saturating_sub(last.2),
                stall: std::mem::take(&mut bench.receiver.stall),
                memory: bench.server.process.memory()?,
            };
            last = here;
            slices.push(slice);
            Ok(())
        },
    )?;
    if arrival.loss > 0.0 || arrival.cut {
        let error = io::Error::other(format!("healthy subscribers did not get everything{arrival}"));
        return Err(bench.server.report(&error));
    }
    let now = Summary::of(slices.iter().skip(first), f64::NAN);
    eprintln!("{phase:?}: {:.0} messages/s, {:.0} ns, {} MiB", now.usual, now.cpu, now.memory / 1024);
    Ok(())
}

fn table(policy: &str, slices: &[Slice], toll: &Toll, (idle, peak): (u64, u64)) -> String {
    let of = |phase, usual| Summary::of(slices.iter().filter(|slice| slice.phase == phase), usual);
    let control = of(Phase::Control, f64::NAN);
    let rows = [
        ("none, before", of(Phase::Before, control.usual)),
        ("two, first 10 s", of(Phase::First, control.usual)),
        ("two, from then on", of(Phase::Rest, control.usual)),
        ("none, the other broker by turns", of(Phase::Control, control.usual)),
        ("none, after", of(Phase::After, control.usual)),
    ];
    let mut text = format!(
        "\n`--slow-policy {policy}`:\n\n| bad subscribers | seconds | messages/s | in the usual second | to the other | CPU \
         ns per message | to the other | longest pause ms | seconds below half | RSS MiB |\n|{}",
        "---|".repeat(10)
    );
    for (label, row) in rows {
        let _ = write!(
            text,
            "\n| {label} | {:.0} | {:.0} | {:.0} | {:+.1} % | {:.0} | {:+.1} % | {} | {} | {} |",
            row.time.as_secs_f64(),
            row.rate,
            row.usual,
            (row.usual / control.usual - 1.0) * 100.0,
            row.cpu,
            (row.cpu / control.cpu - 1.0) * 100.0,
            row.stall.as_millis(),
            row.halved,
            row.memory / 1024
        );
    }
    // Each bad one has its high mark, each other the low mark and a run above it, and twice as much
    // may be kept.
    let queued = 2 * toll.subscribers * HIGH_MARK + 2 * HEALTHY as u64 * (LOW_MARK + ACTIVE / 2);
    let active = (PUBLISHERS + HEALTHY) as u64 + toll.subscribers;
    let bound = idle + queued + active * ACTIVE;
    let _ = writeln!(
        text,
        "\n\nThe bad ones were disconnected {} times and connected again; {} messages were dropped for them. RSS at \
         the most: {} MiB; the bound that `--help` promises: {} MiB.",
        toll.disconnects,
        toll.dropped,
        peak / 1024,
        bound / 1024
    );
    text
}

impl Summary {
    fn of<'a>(slices: impl Iterator<Item = &'a Slice>, usual: f64) -> Self {
        let slices: Vec<&Slice> = slices.collect();
        let rate = |slice: &&Slice| ratio(slice.received, 1) / slice.time.as_secs_f64();
        let time: Duration = slices.iter().map(|slice| slice.time).sum();
        let received: u64 = slices.iter().map(|slice| slice.received).sum();
        Self {
            time,
            rate: ratio(received, 1) / time.as_secs_f64(),
            usual: median(slices.iter().map(rate).collect()).unwrap_or(f64::NAN),
            cpu: ratio(slices.iter().map(|slice| slice.cpu).sum(), received),
            stall: slices.iter().map(|slice| slice.stall).max().unwrap_or_default(),
            memory: slices.iter().map(|slice| slice.memory).max().unwrap_or_default(),
            halved: slices.iter().filter(|slice| rate(slice) < usual / 2.0).count(),
        }
    }
}
