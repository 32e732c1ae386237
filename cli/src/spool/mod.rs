//! `hpfeeds spool`: what a spool holds, read beside the program that uses it.

pub(crate) mod args;
mod drain;
mod dump;
mod holder;
mod survey;

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use hpfeeds::log::{LogError, RealDisk, Snapshot};
use jiff::Timestamp;

pub(crate) use self::drain::drain;
use self::{args::SpoolAction, survey::Survey};
use crate::{
    escape::Escaped,
    exit::{DAMAGED, Failure, count, messages},
};

/// Channels that are named; those beyond are counted.
const NAMED: usize = 10;

/// Looks at a spool.
pub(crate) fn look(action: &SpoolAction) -> Result<(), Failure> {
    match action {
        SpoolAction::Status { dir } => status(dir),
        SpoolAction::Verify { dir } => verify(dir),
        SpoolAction::Dump { dir, all } => dump::run(dir, *all),
        SpoolAction::Drain { .. } => Ok(()),
    }
}

/// The files of a spool as they are now. Nothing is made that is not there.
fn open(dir: &Path) -> Result<Snapshot, Failure> {
    let fault = |cause: &dyn Display| Failure::new(format!("cannot read the spool {}: {cause}", dir.display()));
    if !dir.is_dir() {
        return Err(fault(&"there is no such directory"));
    }
    let disk = RealDisk::open_anywhere(dir).map_err(|cause| fault(&cause))?;
    Snapshot::take(&disk).map_err(|cause| match cause {
        LogError::Io(cause) => fault(&cause),
        cause => fault(&cause),
    })
}

fn status(dir: &Path) -> Result<(), Failure> {
    let snapshot = open(dir)?;
    let survey = Survey::of(&snapshot);
    let mut lines = vec![("spool", dir.display().to_string()), ("used by", holder::of(dir).to_string())];
    if !survey.idents.is_empty() {
        lines.push(("ident", survey.idents.iter().map(String::as_str).collect::<Vec<_>>().join(", ")));
    }
    let bytes = count(survey.bytes, "byte");
    lines.push((
        "messages",
        format!("{} with {bytes} of payload, in {} of files", survey.messages, count(snapshot.bytes(), "byte")),
    ));
    if let (Some(oldest), Some(newest)) = (survey.oldest, survey.newest) {
        lines.push(("oldest", time(oldest)));
        lines.push(("newest", time(newest)));
    }
    if survey.messages > 0 {
        lines.push(("streams", survey.streams.len().to_string()));
        lines.push(("channels", channels(&survey.channels)));
    }
    let damage = match survey.places() {
        0 => "none".to_owned(),
        places => format!("{}; hpfeeds spool verify names them", count(places, "place")),
    };
    lines.push(("damage", damage));
    lines.push(("lost", format!("{} damaged, {} dropped for room", survey.lost, snapshot.dropped())));
    print(lines.iter().map(|(name, value)| format!("{name:<10}{value}")))
}

fn verify(dir: &Path) -> Result<(), Failure> {
    let snapshot = open(dir)?;
    let survey = Survey::of(&snapshot);
    let named = survey.damage.iter();
    let named =
        named.map(|place| format!("damaged: {}: {} at {}", place.file, count(place.length, "byte"), place.offset));
    let mut lines: Vec<_> = named.collect();
    if survey.more_damage > 0 {
        lines.push(format!("damaged: {} more", count(survey.more_damage, "place")));
    }
    if survey.tail > 0 {
        let tail = count(survey.tail, "byte");
        lines.push(format!("the last {tail} are no whole record: it is being written, or was cut off by a crash"));
    }
    let (segments, records) = (count(survey.segments, "segment"), count(survey.records, "record"));
    let lost = (survey.lost > 0).then(|| format!("{} missing", messages(survey.lost)));
    let places = (survey.places() > 0).then(|| format!("damaged in {}", count(survey.places(), "place")));
    let faults: Vec<_> = places.into_iter().chain(lost).collect();
    let verdict = if faults.is_empty() { "good".to_owned() } else { faults.join(", ") };
    lines.push(format!("{segments}, {records}, {}: {verdict}", messages(survey.all_messages)));
    print(lines)?;
    if faults.is_empty() { Ok(()) } else { Err(Failure::silent(DAMAGED)) }
}

/// A point in time, and how long ago that is, by this machine's clock.
fn time(unix_ms: i64) -> String {
    let Ok(time) = Timestamp::from_millisecond(unix_ms) else { return "unknown".to_owned() };
    match Duration::try_from(Timestamp::now().duration_since(time)) {
        Ok(ago) => format!("{time:.3}, {} ago", rounded(ago)),
        Err(_) => format!("{time:.3}, which is yet to come"),
    }
}

/// A time in the largest unit that it has twice of.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    match [(86_400, "d"), (3600, "h"), (60, "min")].into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

/// Channels with their messages, those with most first.
fn channels(counts: &BTreeMap<String, u64>) -> String {
    let mut channels: Vec<_> = counts.iter().collect();
    channels.sort_by(|one, other| other.1.cmp(one.1));
    let mut named: Vec<_> = channels.iter().take(NAMED).map(|(name, messages)| format!("{name} {messages}")).collect();
    if let Some(others) = channels.get(NAMED..).filter(|others| !others.is_empty()) {
        let messages: u64 = others.iter().map(|(_, messages)| **messages).sum();
        named.push(format!("{} others {messages}", others.len()));
    }
    named.join(", ")
}

/// Prints lines, at once.
fn print(lines: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(Escaped(line.as_bytes()).to_string().as_bytes());
        text.push(b'\n');
    }
    match io::stdout().lock().write_all(&text) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {cause}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_the_largest_unit_that_they_have_twice_of() {
        let cases = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (864_000, "10 d")];
        for (seconds, expected) in cases {
            assert_eq!(rounded(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn channels_are_named_by_their_messages_and_the_last_counted() {
        let counts = |n: u64| (0..n).map(|n| (format!("c{n:02}"), n)).collect();
        assert_eq!(channels(&counts(3)), "c02 2, c01 1, c00 0");
        assert!(channels(&counts(13)).ends_with(", c03 3, 3 others 3"));
    }
}
