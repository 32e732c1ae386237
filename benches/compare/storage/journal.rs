//! The cost of the journal for publishers that do not wait, and for subscribers: in the broker's
//! processor time beside a broker without one.

use std::{fmt::Write as _, io, path::Path, time::Duration, time::Instant};

use super::{engine::SIZE, ways};
use crate::{
    kind::Kind,
    measure::{Sample, measure, seconds},
    programs, report,
    support::quantile,
    work::{Flow, Load, Pace},
};

/// A column: a name, and the mailboxes of the channel.
struct Variant {
    name: &'static str,
    mailboxes: &'static [&'static str],
    /// The column that it is compared with.
    beside: usize,
}

/// The subscriber's own mailbox is `dev`; nobody is attached to the others.
const VARIANTS: [Variant; 4] = [
    Variant { name: "without", mailboxes: &[], beside: 0 },
    Variant { name: "journal", mailboxes: &["m0"], beside: 0 },
    Variant {
        name: "ten mailboxes",
        mailboxes: &["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"],
        beside: 1,
    },
    Variant { name: "through its mailbox", mailboxes: &["dev"], beside: 0 },
];

/// 1 → 1, 256 B.
const LOAD: Load = Load::Throughput(Flow { publishers: 1, subscribers: 1, size: SIZE, most: 8_000_000 });

/// The second table, as Markdown.
pub(super) fn table(length: Duration, rounds: usize) -> io::Result<String> {
    let program = programs::find(Kind::Ours).ok_or_else(|| io::Error::other("hpfeeds-broker has not been built"))?;
    let mut samples = VARIANTS.map(|_| Vec::new());
    let start = Instant::now();
    for round in 0..rounds {
        for turn in 0..VARIANTS.len() {
            let column = (round + turn) % VARIANTS.len();
            let figure = one(&program, &VARIANTS[column], length)?;
            eprintln!("[{:3}s] {}: {figure:.1}", seconds(start.elapsed()), VARIANTS[column].name);
            samples[column].push(figure);
        }
    }
    let hop = ways::hop(&program, length, rounds)?;
    let (catching_up, others) = (ways::catching_up(&program, rounds)?, ways::others(&program, length, rounds)?);
    Ok(format!("{}\n{hop}\n{catching_up}\n{others}", markdown(rounds, &samples)))
}

/// Processor time of the broker for each message, in ns.
fn one(program: &Path, variant: &Variant, length: Duration) -> io::Result<f64> {
    let mut more = Vec::new();
    if !variant.mailboxes.is_empty() {
        more.extend(["--data-dir", "data", "--journal-max-bytes", "64G"].map(str::to_owned));
    }
    for mailbox in variant.mailboxes {
        more.extend(["--mailbox".to_owned(), format!("{mailbox}=bench")]);
    }
    let pace = Pace { sending: length, ..Pace::new(false) };
    match measure(Kind::Ours, program, LOAD, pace, &more)? {
        Some(Sample { figures, arrival }) if arrival.loss == 0.0 && figures.len() == 1 => Ok(figures[0]),
        _ => Err(io::Error::other(format!("{} lost messages", variant.name))),
    }
}

fn markdown(rounds: usize, samples: &[Vec<f64>]) -> String {
    let mut text = format!("{}, rounds: {rounds}.\n\n| |", report::conditions());
    for variant in &VARIANTS {
        let _ = write!(text, " {} |", variant.name);
    }
    let _ = write!(text, "\n|---|{}\n| 1 → 1, 256 B: CPU ns per message |", "---|".repeat(VARIANTS.len()));
    for (variant, column) in VARIANTS.iter().zip(samples) {
        let ratios: Vec<f64> = column.iter().zip(&samples[variant.beside]).map(|(one, other)| one / other).collect();
        let [least, ratio, most] = [0.25, 0.5, 0.75].map(|part| quantile(ratios.clone(), part).unwrap_or(f64::NAN));
        let middle = quantile(column.clone(), 0.5).unwrap_or(f64::NAN);
        let beside = VARIANTS[variant.beside].name;
        let _ = write!(text, " {middle:.0}, {ratio:.2}× {beside} ({least:.2} to {most:.2}) |");
    }
    text.push('\n');
    text
}
