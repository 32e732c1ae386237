//! The command line of `compare`.

use crate::{kind::Kind, work::Work};

pub(crate) const USAGE: &str = "\
usage: scripts/bench-compare [--quick] [--rounds N] [--only BROKER,...] [--work NAME,...] [--write]

  --quick     one short round: whether it works, not how fast it is
  --rounds N  how often everything is measured (default 5)
  --only      relay, ours, python, nats, redis, mosquitto; the relay always runs
  --work      1-1-32, 1-1-256, 1-1-64k, 5-50-1k, 1000-1-256, latency, connections
  --write     write the table into docs/performance.md even if it is not complete";

/// The settings of a run.
pub(crate) struct Arguments {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) works: Vec<Work>,
    /// The table goes into the documentation.
    pub(crate) write: bool,
}

impl Arguments {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut quick, mut write, mut rounds, mut only, mut names) = (false, false, None, None, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--quick" => quick = true,
                "--write" => write = true,
                "--rounds" => {
                    rounds = Some(value()?.parse().ok().filter(|n| *n > 0).ok_or("--rounds needs a number above 0")?);
                }
                "--only" => only = Some(value()?),
                "--work" => names = Some(value()?),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        let kinds = chosen(only.as_deref(), Kind::ALL, Kind::name, USAGE)?;
        let kinds = Kind::ALL.iter().copied().filter(|kind| *kind == Kind::Relay || kinds.contains(kind)).collect();
        let works = chosen(names.as_deref(), Work::ALL, |work| work.name, USAGE)?;
        let complete = !quick && only.is_none() && names.is_none();
        Ok(Self { quick, rounds: rounds.unwrap_or(if quick { 1 } else { 5 }), kinds, works, write: write || complete })
    }
}

/// The items of `all` that a list names, in the list's order; all when there is no list.
pub(crate) fn chosen<T: Copy>(
    list: Option<&str>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
    usage: &str,
) -> Result<Vec<T>, String> {
    let Some(list) = list else {
        return Ok(all.to_vec());
    };
    let find = |wanted: &str| {
        let found = all.iter().copied().find(|item| name(*item) == wanted);
        found.ok_or_else(|| format!("unknown name {wanted:?}\n{usage}"))
    };
    list.split(',').map(find).collect()
}
