//! The cost of the extension `hpx/1` in processor time and memory: our broker with it off, on and
//! unused, and on with publishers that are confirmed, by turns.

use std::{
    env,
    fmt::Write as _,
    io,
    path::{self, PathBuf},
    time::Instant,
};

use crate::{
    arguments::chosen,
    kind::Kind,
    measure::{Sample, measure, seconds},
    programs, report,
    server::check_file_limit,
    support::{median, quantile},
    work::{Load, Pace, Work},
};

pub(crate) const USAGE: &str = "\
usage: scripts/bench-delivery broker [--quick] [--rounds N] [--work NAME,...] [--connections N]

  --quick          one short round: whether it works, not what anything costs
  --rounds N       how often everything is measured (default 15)
  --work           1-1-32, 1-1-256, 1-1-64k, 5-50-1k, 1000-1-256, latency, connections
  --connections N  idle ones (default 10000)

HPFEEDS_BROKER_BEFORE  a broker from before the extension, as one more column";

/// Idle connections, and what else is open.
const MORE_FILES: u64 = 100;

struct Arguments {
    pace: Pace,
    rounds: usize,
    works: Vec<Work>,
}

/// One column.
struct Variant {
    name: &'static str,
    kind: Kind,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Variant {
    /// A publisher that is paced does not read what it is sent.
    fn does(&self, work: &Work) -> bool {
        self.kind != Kind::Confirmed || !matches!(work.load, Load::Latency { .. })
    }
}

pub(crate) fn run(args: &[String]) -> io::Result<()> {
    if args.iter().any(|arg| arg == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let arguments = Arguments::parse(args).map_err(io::Error::other)?;
    check_file_limit(u64::from(arguments.pace.connections) + MORE_FILES)?;
    let variants = variants(arguments.pace.connections)?;
    let mut samples = vec![vec![Vec::new(); variants.len()]; arguments.works.len()];
    let start = Instant::now();
    for round in 0..arguments.rounds {
        for (work, columns) in arguments.works.iter().zip(&mut samples) {
            // Each is the first in turn: what one leaves behind in the machine meets all alike.
            for turn in 0..variants.len() {
                let column = (round + turn) % variants.len();
                let variant = &variants[column];
                if !variant.does(work) {
                    continue;
                }
                let more = &variant.arguments;
                let Some(sample) = measure(variant.kind, &variant.program, work.load, arguments.pace, more)? else {
                    continue;
                };
                let Sample { figures, arrival } = &sample;
                eprintln!("[{:3}s] {} {}: {figures:.2?}{arrival}", seconds(start.elapsed()), work.name, variant.name);
                // A cut message was not lost, and each figure is for a message that arrived.
                if arrival.loss > 0.0 {
                    return Err(io::Error::other(format!("{} lost messages in {}", variant.name, work.name)));
                }
                columns[column].push(sample.figures);
            }
        }
    }
    println!("{}", markdown(&arguments, &variants, &samples));
    Ok(())
}

fn variants(connections: u32) -> io::Result<Vec<Variant>> {
    let absent = || io::Error::other("hpfeeds-broker has not been built");
    let ours = programs::find(Kind::Ours).ok_or_else(absent)?;
    let variant = |name, kind, program: &PathBuf, more: &[&str]| {
        let most = (u64::from(connections) + MORE_FILES).to_string();
        let arguments = more.iter().copied().chain(["--max-connections", &most]).map(str::to_owned).collect();
        Variant { name, kind, program: program.clone(), arguments }
    };
    let mut variants = Vec::new();
    if let Some(before) = env::var_os("HPFEEDS_BROKER_BEFORE") {
        variants.push(variant("before", Kind::Ours, &path::absolute(before)?, &[]));
    }
    variants.push(variant("off", Kind::Ours, &ours, &["--extensions", "off"]));
    variants.push(variant("on", Kind::Ours, &ours, &["--extensions", "on"]));
    variants.push(variant("confirmed", Kind::Confirmed, &ours, &["--extensions", "on"]));
    Ok(variants)
}

impl Arguments {
    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut quick, mut rounds, mut names, mut connections) = (false, None, None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0);
            match arg.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--rounds" => rounds = Some(number(value()?).ok_or("--rounds needs a number above 0")?),
                "--connections" => {
                    connections = Some(number(value()?).ok_or("--connections needs a number above 0")?);
                }
                "--work" => names = Some(value()?),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        let connections = connections.unwrap_or(if quick { 200 } else { 10_000 });
        Ok(Self {
            pace: Pace { connections, ..Pace::new(quick) },
            rounds: rounds.unwrap_or(if quick { 1 } else { 15 }) as usize,
            works: chosen(names.map(String::as_str), Work::ALL, |work| work.name, USAGE)?,
        })
    }
}

/// Figures by work, variant, round and row.
type Samples = Vec<Vec<Vec<Vec<f64>>>>;

fn markdown(arguments: &Arguments, variants: &[Variant], samples: &Samples) -> String {
    let mut text = format!("{}, rounds: {}.\n\n| |", report::conditions(), arguments.rounds);
    for Variant { name, .. } in variants {
        let _ = write!(text, " {name} |");
    }
    // Each beside the one before it.
    for pair in variants.windows(2) {
        let _ = write!(text, " {} to {} (middle half) |", pair[1].name, pair[0].name);
    }
    let _ = write!(text, "\n|---|{}", "---|".repeat(variants.len() * 2 - 1));
    for (work, columns) in arguments.works.iter().zip(samples) {
        for (row, label) in work.rows().into_iter().enumerate() {
            let figures: Vec<Vec<f64>> =
                columns.iter().map(|c| c.iter().map(|figures| figures[row]).collect()).collect();
            let _ = write!(text, "\n| {label} |");
            for column in &figures {
                match median(column.clone()) {
                    Some(middle) => {
                        let _ = write!(text, " {middle:.*} |", usize::from(middle < 100.0));
                    }
                    None => text.push_str(" – |"),
                }
            }
            let memory = matches!(work.load, Load::Connections) && row == 1;
            for pair in figures.windows(2) {
                let _ = write!(text, " {} |", compared(&pair[0], &pair[1], memory));
            }
        }
    }
    text.push('\n');
    text
}

/// The median of the ratios within the rounds, or of the differences in bytes, and the quartiles.
fn compared(one: &[f64], other: &[f64], memory: bool) -> String {
    let pairs = one.iter().zip(other);
    let all: Vec<f64> =
        if memory { pairs.map(|(a, b)| (b - a) * 1024.0).collect() } else { pairs.map(|(a, b)| b / a).collect() };
    let [Some(least), Some(middle), Some(most)] = [0.25, 0.5, 0.75].map(|part| quantile(all.clone(), part)) else {
        return "–".to_owned();
    };
    if memory {
        format!("{middle:+.0} B ({least:+.0} to {most:+.0})")
    } else {
        format!("{middle:.3}× ({least:.3} to {most:.3})")
    }
}
