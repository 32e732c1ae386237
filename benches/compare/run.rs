//! The rounds: every broker does each work once in each, one after the other.

use std::{
    env, io, iter,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    arguments::{Arguments, USAGE},
    extension, growth, isolation,
    kind::Kind,
    measure::{Sample, measure, seconds},
    programs,
    relay::{self, Plan},
    report::{self, Table},
    server::check_file_limit,
    storage,
    work::{Pace, Work},
};

/// No round begins after so long.
const ENOUGH: Duration = Duration::from_secs(10 * 60);

/// A thousand publishers, or two thousand idle connections, and what the brokers open besides.
const FILES: u64 = 2500;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((mode, rest)) if mode == "relay" => relay(rest),
        Some((mode, rest)) if mode == "plain" => storage::plain_loop(rest),
        // `cargo test --all-targets` runs benchmarks too, without it.
        _ if !args.iter().any(|arg| arg == "--bench") => return ExitCode::SUCCESS,
        Some((mode, rest)) if mode == "extension" => extension::run(rest),
        Some((mode, rest)) if mode == "growth" => growth::run(rest),
        Some((mode, rest)) if mode == "isolation" => isolation::run(rest),
        Some((mode, rest)) if mode == "storage" => storage::run(rest),
        _ if args.iter().any(|arg| arg == "--help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => Arguments::parse(args.into_iter()).map_err(io::Error::other).and_then(|arguments| compare(&arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn relay(args: &[String]) -> io::Result<()> {
    let plan = Plan::parse(args).ok_or_else(|| io::Error::other("this is run by the benchmark itself"))?;
    relay::run(plan)
}

fn compare(arguments: &Arguments) -> io::Result<()> {
    check_file_limit(FILES)?;
    let programs: Vec<(Kind, PathBuf)> = arguments.kinds.iter().filter_map(|kind| found(*kind)).collect();
    let mut table = Table::new(&programs, &arguments.works);
    let start = Instant::now();
    for round in 0..arguments.rounds {
        if start.elapsed() > ENOUGH {
            eprintln!("this takes too long: only {round} rounds");
            break;
        }
        one_round(arguments, &programs, &mut table, start);
        table.rounds += 1;
    }
    let text = table.markdown();
    println!("{text}");
    if arguments.write {
        report::write(report::COMPARISON, "scripts/bench-compare", &text)?;
    }
    table.verdict()
}

fn one_round(arguments: &Arguments, programs: &[(Kind, PathBuf)], table: &mut Table, start: Instant) {
    let pace = Pace::new(arguments.quick);
    let samples = |work: &Work| if arguments.quick { 1 } else { work.samples() };
    let rows = arguments.works.iter().enumerate().flat_map(|row| iter::repeat_n(row, samples(row.1)));
    for (row, work) in rows {
        for (column, (kind, program)) in programs.iter().enumerate() {
            let sample = measure(*kind, program, work.load, pace, &[]);
            let shown = match &sample {
                Ok(None) => continue,
                Ok(Some(Sample { figures, arrival })) => format!("{figures:.1?}{arrival}"),
                Err(error) => error.to_string(),
            };
            eprintln!("[{:3}s] {} {}: {shown}", seconds(start.elapsed()), work.name, kind.name());
            table.add(row, column, sample.ok().flatten());
        }
    }
}

fn found(kind: Kind) -> Option<(Kind, PathBuf)> {
    let program = programs::find(kind);
    if program.is_none() {
        eprintln!("{} is not installed: left out", kind.name());
    }
    program.map(|program| (kind, program))
}
