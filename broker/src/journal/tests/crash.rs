//! Crash images of the journal, cut at any operation: what was said to be durable is there, in
//! order, and nothing is made up.
//!
//! `HPFEEDS_JOURNAL_SEEDS` asks for more scripts.

use std::collections::BTreeMap;

use hpfeeds::wire::extension::Position;

use super::{
    sim_disk::{Faults, Random, SimDisk},
    support::{Hand, draft, messages, read, seeds, small},
};

#[derive(Debug, Default)]
struct Model {
    /// Texts by their positions, all that were ever appended.
    appended: BTreeMap<Position, u64>,
    /// Messages that could be read.
    seen: BTreeMap<Position, u64>,
    /// Messages that were told to be durable.
    durable: BTreeMap<Position, u64>,
    next: u64,
}

fn live(disk: &SimDisk, model: &mut Model, random: &mut Random) -> Result<(), String> {
    let Ok(mut hand) = Hand::open(disk, small()) else { return Ok(()) };
    check(&hand, model)?;
    // An epoch that was on no disk comes again: nobody could read anything of it.
    let epoch = hand.journal.last().epoch;
    if let Some((seen, _)) = model.seen.last_key_value().filter(|(seen, _)| seen.epoch >= epoch) {
        return Err(format!("{seen} was read, and epoch {epoch} comes again"));
    }
    model.appended.retain(|position, _| position.epoch < epoch);
    for _ in 0..random.below(25) {
        match random.below(4) {
            0 | 1 => {
                let count = random.below(3) + 1;
                let more = usize::try_from(random.below(3) * 700).unwrap();
                let texts: Vec<_> =
                    (0..count).map(|at| (["a", "b"][usize::try_from(at % 2).unwrap()], model.next + at)).collect();
                let Ok(last) = hand.journal.append(draft(&texts, more)) else { continue };
                for (at, (_, text)) in texts.iter().enumerate() {
                    let position = Position::new(last.epoch, last.number + 1 + at as u64 - count);
                    model.appended.insert(position, *text);
                    if model.seen.contains_key(&position) {
                        return Err(format!("{position} comes again"));
                    }
                }
                model.next += count;
            }
            2 => drop(hand.turn()),
            _ => drop(hand.turn_wanted()),
        }
        let readable = *hand.journal.readable().borrow();
        let epoch = model.appended.range(Position::new(readable.epoch, 0)..=readable);
        model.seen.extend(epoch.map(|(position, text)| (*position, *text)));
        let durable = hand.journal.durable_position();
        for (position, text) in model.appended.range(..=durable) {
            if position.epoch == durable.epoch {
                model.durable.insert(*position, *text);
            }
        }
    }
    Ok(())
}

fn check(hand: &Hand, model: &Model) -> Result<(), String> {
    let found = messages(&read(&hand.journal, Position::NONE), Position::NONE);
    if !found.is_sorted_by(|(one, _), (two, _)| one < two) {
        return Err(format!("not in order: {found:?}"));
    }
    if let Some(made_up) = found.iter().find(|(position, text)| model.appended.get(position) != Some(text)) {
        return Err(format!("made up: {made_up:?}"));
    }
    let found: BTreeMap<_, _> = found.into_iter().collect();
    match model.durable.iter().find(|(position, _)| !found.contains_key(position)) {
        Some(missing) => Err(format!("lost: {missing:?}")),
        None => Ok(()),
    }
}

fn lives(seed: u64, faults: &Faults) -> Result<(), String> {
    let mut random = Random(seed);
    let (mut disk, mut model) = (SimDisk::new(seed), Model::default());
    for life in 0..5 {
        let last = random.below(80);
        disk.faults(|own| *own = Faults { halt_after: Some(last), ..faults.clone() });
        live(&disk, &mut model, &mut random)
            .map_err(|error| format!("seed {seed}, life {life}, cut after {last}: {error}"))?;
        disk = if random.below(4) == 0 { disk.kill() } else { disk.crash(random.next()) };
    }
    let hand = Hand::open(&disk, small()).map_err(|error| error.to_string())?;
    check(&hand, &model).map_err(|error| format!("seed {seed}, at the end: {error}"))
}

#[test]
fn a_power_cut_at_any_operation_takes_nothing_that_was_said_to_be_durable() {
    for seed in 0..seeds(400) {
        lives(seed, &Faults::default()).unwrap();
    }
}

#[test]
fn a_power_cut_after_failed_syncs_and_writes_takes_nothing_that_was_said_to_be_durable() {
    for seed in 0..seeds(300) {
        let mut random = Random(!seed);
        let mut some = |bound| (0..2).map(|_| random.below(bound) + 1).collect::<Vec<_>>();
        let faults =
            Faults { fail_syncs: some(9), fail_dir_syncs: some(5), fail_writes: some(20), ..Faults::default() };
        lives(seed, &faults).unwrap();
    }
}

#[test]
fn an_acknowledgement_before_its_sync_is_noticed() {
    let lying = Faults { lie_about_data: true, ..Faults::default() };
    let noticed = (0..100).filter(|&seed| lives(seed, &lying).is_err()).count();
    assert!(noticed > 5, "{noticed}");
}
