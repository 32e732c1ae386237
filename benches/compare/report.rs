//! The table of figures, as Markdown.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{
    kind::Kind,
    measure::{Arrival, Sample},
    programs,
    support::median,
    work::Work,
};

/// The page with the comparison, below the repository.
pub(crate) const COMPARISON: &str = "docs/performance.md";
/// The page with the tables of growth and isolation.
pub(crate) const BENCHMARKS: &str = "docs/dev/benchmarks.md";
const END: &str = "<!-- to here -->\n";

/// The samples by work and broker, a sample a round. A measurement that failed has none.
pub(crate) struct Table {
    kinds: Vec<Kind>,
    works: Vec<Work>,
    versions: Vec<String>,
    samples: Vec<Vec<Vec<Option<Sample>>>>,
    pub(crate) rounds: usize,
}

impl Table {
    pub(crate) fn new(programs: &[(Kind, PathBuf)], works: &[Work]) -> Self {
        Self {
            kinds: programs.iter().map(|(kind, _)| *kind).collect(),
            works: works.to_vec(),
            versions: programs.iter().filter_map(|(kind, program)| programs::version(*kind, program)).collect(),
            samples: vec![vec![Vec::new(); programs.len()]; works.len()],
            rounds: 0,
        }
    }

    pub(crate) fn add(&mut self, work: usize, kind: usize, sample: Option<Sample>) {
        self.samples[work][kind].push(sample);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n| |", self.conditions());
        for kind in &self.kinds {
            let _ = write!(text, " {} |", kind.name());
        }
        let _ = write!(text, "\n|---|{}", "---|".repeat(self.kinds.len()));
        for (work, samples) in self.works.iter().zip(&self.samples) {
            for (row, label) in work.rows().into_iter().enumerate() {
                let _ = write!(text, "\n| {label} |");
                for column in samples {
                    let _ = write!(text, " {} |", cell(column, samples.first(), row));
                }
            }
        }
        text.push('\n');
        text
    }

    fn conditions(&self) -> String {
        format!("{}, rounds: {}. Versions: {}.", conditions(), self.rounds, self.versions.join(", "))
    }

    /// Neither the relay nor ours may fail, or lose a message.
    pub(crate) fn verdict(&self) -> io::Result<()> {
        for (work, columns) in self.works.iter().zip(&self.samples) {
            for (kind, column) in self.kinds.iter().zip(columns) {
                let good = |sample: &Option<Sample>| {
                    sample.as_ref().is_some_and(|sample| {
                        let Arrival { loss, cut } = sample.arrival;
                        loss == 0.0 && !cut
                    })
                };
                if matches!(kind, Kind::Relay | Kind::Ours) && !column.iter().all(good) {
                    return Err(io::Error::other(format!("{} failed or lost messages in {}", kind.name(), work.name)));
                }
            }
        }
        Ok(())
    }
}

/// When and on what this runs.
pub(crate) fn conditions() -> String {
    let date = Command::new("date").args(["-u", "+%F"]).output().map(|output| output.stdout).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    format!(
        "{}, Linux {}, {}, cores: {}",
        String::from_utf8_lossy(&date).trim(),
        kernel.trim(),
        model.trim_matches(|c: char| c.is_whitespace() || c == ':'),
        thread::available_parallelism().map_or(0, usize::from),
    )
}

/// The median, the median of the ratios to the relay in the same round, and the worst loss.
fn cell(column: &[Option<Sample>], relay: Option<&Vec<Option<Sample>>>, row: usize) -> String {
    let figure = |sample: &Option<Sample>| sample.as_ref().and_then(|sample| sample.figures.get(row).copied());
    let Some(middle) = median(column.iter().filter_map(figure).collect()) else {
        return if column.is_empty() { "–".to_owned() } else { "failed".to_owned() };
    };
    let digits = usize::from(middle < 100.0);
    let mut text = format!("{middle:.digits$}");
    let pairs = column.iter().zip(relay.into_iter().flatten());
    let ratios = pairs.filter_map(|(sample, relay)| Some(figure(sample)? / figure(relay)?)).collect();
    if let Some(ratio) = median(ratios) {
        let _ = write!(text, " ({ratio:.2}×)");
    }
    let arrivals: Vec<Arrival> = column.iter().flatten().map(|sample| sample.arrival).collect();
    let loss = arrivals.iter().map(|arrival| arrival.loss).fold(0.0, f64::max);
    let _ = write!(text, "{}", Arrival { loss, cut: arrivals.iter().any(|arrival| arrival.cut) });
    let failed = column.iter().filter(|sample| sample.is_none()).count();
    if failed > 0 {
        let _ = write!(text, " [failed {failed} of {}]", column.len());
    }
    text
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.loss > 0.0 {
            write!(f, " [lost {:.2} %]", self.loss * 100.0)?;
        }
        if self.cut { f.write_str(" [cut]") } else { Ok(()) }
    }
}

/// Replaces the tables that a script has written into a page before.
pub(crate) fn write(page: &str, script: &str, table: &str) -> io::Result<()> {
    let begin = format!("<!-- {script} writes from here -->\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path)?;
    let parts = text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or_else(|| io::Error::other(format!("{page} has no place for the table")))?;
    fs::write(path, format!("{head}{begin}\n{table}\n{END}{tail}"))?;
    eprintln!("written into {page}");
    Ok(())
}
