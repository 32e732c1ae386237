//! Crash images: scripts that are cut at every operation, and what must be there afterwards.
//!
//! `HPFEEDS_LOG_SEEDS` asks for more scripts.

use std::{collections::BTreeMap, env};

use hpfeeds::log::{Extent, Item, Log, LogOptions};
use hpfeeds::wire::extension::Position;

use crate::{
    sim_disk::{Faults, Random, SimDisk},
    support::{append, body, open, read, records, small},
};

/// The knowledge of a program about its log, over all its lives.
#[derive(Debug, Default, Clone)]
struct Model {
    /// Messages and length of the body of each record that may still be there, by its position.
    appended: BTreeMap<Position, (u32, usize)>,
    /// Bodies of records that were read before, which never come back with other contents.
    seen: BTreeMap<Position, usize>,
    /// The last message that a sync has promised.
    promised: Position,
    /// Up to here it has told the log that everything is consumed.
    consumed: Position,
    /// The highest number that was ever given.
    highest: u64,
}

/// One life: opens, checks what is there, does what the seed says until the power is gone.
///
/// `Err` says what was broken.
fn live(disk: &SimDisk, options: &LogOptions, model: &mut Model, random: &mut Random) -> Result<(), String> {
    let Ok((mut log, report)) = open(disk, options) else { return Ok(()) };
    if report.cursor_lost {
        return Err("a crash has cost the cursor".to_owned());
    }
    check(&log, model)?;
    // Vanished records were never promised; only those that are there can be there again.
    let left = records(&read(&log, Position::NONE, Extent::Durable));
    let left: Vec<_> = left.iter().map(|record| record.first).collect();
    model.appended.retain(|position, _| left.contains(position));
    if report.unsynced == 0 {
        model.promised = model.promised.max(left.last().copied().unwrap_or_default());
    }
    for _ in 0..random.below(30) {
        let goes_on = act(&mut log, model, random);
        // The program knows the records that the limit has taken.
        model.consumed = model.consumed.max(log.cursor());
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// One call, or a few; returns whether they have worked.
fn act(log: &mut Log, model: &mut Model, random: &mut Random) -> bool {
    match random.below(20) {
        0..10 => {
            let messages = u32::try_from(random.below(4)).unwrap() + 1;
            let length = [0, 30, 700, 3000][usize::try_from(random.below(4)).unwrap()];
            let first = Position::new(log.epoch(), log.last().number + 1);
            // Whether it is known to be appended or not, it may be on disk after a crash.
            model.appended.insert(first, (messages, length));
            model.highest = model.highest.max(first.number + u64::from(messages) - 1);
            append(log, messages, length).is_ok()
        }
        10..12 => {
            let is_written = log.write().is_ok();
            for record in records(&read(log, log.cursor(), Extent::Written)) {
                model.seen.insert(record.first, record.body.len());
            }
            is_written
        }
        12..16 => {
            let synced = log.sync();
            // An epoch exists from its first record on.
            if let Ok(position) = synced
                && model.appended.keys().any(|first| first.epoch == position.epoch)
            {
                model.promised = position;
            }
            synced.is_ok()
        }
        16..19 => {
            let (durable, cursor) = (log.durable(), log.cursor());
            let wanted = cursor.number + random.below(durable.number.saturating_sub(cursor.number) + 1);
            let found = records(&read(log, cursor, Extent::Durable));
            let Some(record) = found.iter().rev().find(|record| record.last().number <= wanted) else { return true };
            model.consumed = model.consumed.max(record.last());
            log.consume(record.last()).is_ok()
        }
        _ => log.store_cursor().and_then(|()| log.trim()).is_ok(),
    }
}

/// The conditions that hold of a log after any crash.
fn check(log: &Log, model: &Model) -> Result<(), String> {
    let cursor = log.cursor();
    // With an empty segment the cursor goes on to its epoch, and passes over no message.
    if cursor.number > model.consumed.number {
        return Err(format!("the cursor is at {cursor}, and only {} is consumed", model.consumed));
    }
    if log.last().number < model.promised.number {
        return Err(format!("numbers go on at {}, and {} is promised", log.last(), model.promised));
    }
    let items = read(log, cursor, Extent::Durable);
    let (mut at, mut lost) = (cursor.number, 0);
    for item in &items {
        match item {
            Item::Record(record) => {
                let first = record.first.number;
                if first > at + 1 || record.last().number <= at {
                    return Err(format!("{} comes after {at}", record.first));
                }
                let known = model.appended.get(&record.first);
                if known != Some(&(record.messages, record.body.len()))
                    || record.body != body(record.first, record.body.len())
                {
                    return Err(format!("{} is made up: {known:?}", record.first));
                }
                at = record.last().number;
            }
            Item::Lost(gap) => {
                if gap.after.number != at || gap.last <= at || gap.last > model.highest {
                    return Err(format!("{gap:?} comes after {at}"));
                }
                // A promised message is lost only if the limit took it, which moves the cursor.
                let promised = |(first, (messages, _)): (&Position, &(u32, usize))| {
                    let end = first.number + u64::from(*messages);
                    *first <= model.promised && first.number <= gap.last && end > gap.after.number + 1
                };
                if model.appended.iter().any(promised) {
                    return Err(format!("{gap:?}, and {} is promised", model.promised));
                }
                lost += gap.messages();
                at = gap.last;
            }
        }
    }
    if at < model.promised.number && model.appended.keys().any(|first| first.number > at && *first <= model.promised) {
        return Err(format!("nothing after {at}, and {} is promised", model.promised));
    }
    for (first, length) in &model.seen {
        let again = items.iter().find_map(|item| match item {
            Item::Record(record) if record.first == *first => Some(record.body.len()),
            _ => None,
        });
        if again.is_some_and(|again| again != *length) {
            return Err(format!("{first} comes back with other contents"));
        }
    }
    // The sum: everything after the cursor was read or is counted.
    let read: u64 = items
        .iter()
        .map(|item| match item {
            Item::Record(record) => u64::from(record.messages - record.skip),
            Item::Lost(_) => 0,
        })
        .sum();
    if cursor.number + read + lost != at {
        return Err(format!("from {cursor} on {read} are read and {lost} lost, up to {at}"));
    }
    Ok(())
}

/// Several lives of one log, each cut at some operation. `Err` names the seed.
fn lives(seed: u64, options: &LogOptions, faults: &Faults) -> Result<(), String> {
    let mut random = Random(seed);
    let mut disk = SimDisk::new(seed);
    let mut model = Model::default();
    for life in 0..6 {
        let last = random.below(120);
        disk.faults(|own| *own = Faults { halt_after: Some(last), ..faults.clone() });
        let result = live(&disk, options, &mut model, &mut random);
        result.map_err(|error| format!("seed {seed}, life {life}, cut after {last}: {error}"))?;
        disk = if random.below(4) == 0 { disk.kill().crash(random.next()) } else { disk.crash(random.next()) };
    }
    let (log, _) = open(&disk, options).map_err(|error| format!("seed {seed}: {error}"))?;
    check(&log, &model).map_err(|error| format!("seed {seed}, at the end: {error}"))
}

fn seeds(number: u64) -> u64 {
    env::var("HPFEEDS_LOG_SEEDS").ok().map_or(number, |text| text.parse().expect("HPFEEDS_LOG_SEEDS is a number"))
}

#[test]
fn a_power_cut_at_any_operation_takes_nothing_that_was_promised() {
    for seed in 0..seeds(3000) {
        lives(seed, &small(), &Faults::default()).unwrap();
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_log_at_its_limit_keeps_what_the_limit_leaves() {
    let options = small().segment_bytes(11_000).max_bytes(45_000);
    for seed in 0..seeds(2000) {
        lives(seed, &options, &Faults::default()).unwrap();
    }
}

#[test]
fn a_power_cut_after_failed_syncs_and_writes_takes_nothing_that_was_promised() {
    for seed in 0..seeds(2000) {
        let mut random = Random(!seed);
        let mut some = |bound| (0..2).map(|_| random.below(bound) + 1).collect::<Vec<_>>();
        let faults =
            Faults { fail_syncs: some(12), fail_dir_syncs: some(6), fail_writes: some(25), ..Faults::default() };
        lives(seed, &small(), &faults).unwrap();
    }
}

#[test]
fn one_script_is_cut_at_each_of_its_operations() {
    for seed in 0..seeds(3000) / 200 {
        let whole = SimDisk::new(seed);
        let mut model = Model::default();
        live(&whole, &small(), &mut model, &mut Random(seed)).unwrap();
        for last in 0..whole.operations() {
            let disk = SimDisk::new(seed);
            disk.faults(|faults| faults.halt_after = Some(last));
            let mut model = Model::default();
            live(&disk, &small(), &mut model, &mut Random(seed)).unwrap();
            for image in 0..4 {
                let (log, _) = open(&disk.crash(image), &small()).unwrap();
                check(&log, &model).unwrap_or_else(|error| panic!("seed {seed}, cut after {last}, {image}: {error}"));
            }
        }
    }
}

/// The checks above notice a log that is built wrong: here the disk below it answers before it has
/// done its work, which is the same as a log that does not wait for it.
#[test]
fn faults_that_are_built_in_are_noticed() {
    let noticed =
        |faults: Faults, options: &LogOptions| (0..400).filter(|&seed| lives(seed, options, &faults).is_err()).count();
    let data = noticed(Faults { lie_about_data: true, ..Faults::default() }, &small());
    assert!(data > 20, "promised before its sync: {data}");
    let names = noticed(Faults { lie_about_names: true, ..Faults::default() }, &small());
    assert!(names > 20, "a segment is made without a sync of the folder: {names}");
    let limit = small().segment_bytes(11_000).max_bytes(45_000);
    let cursor = noticed(Faults { lie_about_cursor: true, ..Faults::default() }, &limit);
    assert!(cursor > 5, "unlinked before the cursor is durable: {cursor}");
}
