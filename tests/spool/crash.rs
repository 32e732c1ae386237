//! Crash images of a spool: every number that was said to be durable is there once, in order, and
//! nothing is made up.
//!
//! `HPFEEDS_SPOOL_SEEDS` asks for more scripts.

use std::{collections::BTreeMap, env};

use hpfeeds::{
    Spool, WhenFull,
    spool::{Answer, SpoolHandle, Want},
    wire::extension::StreamPosition,
};

use crate::{
    sim_disk::{Faults, Random, SimDisk},
    support::{at, batch, check, small, start},
};

/// The knowledge of the programs that have used a spool, by stream: one for each life.
#[derive(Debug, Default)]
struct Model {
    /// The last number that was appended, durable, and released.
    streams: BTreeMap<u8, (u64, u64, u64)>,
}

impl Model {
    /// Reads everything, as the next program would, and checks it. `releases` are told to the spool
    /// on the way.
    fn read(&mut self, spool: &SpoolHandle, mut release: impl FnMut(&mut Random) -> bool) -> Result<(), String> {
        let mut random = Random(self.streams.len() as u64);
        let mut seen: BTreeMap<u8, u64> = BTreeMap::new();
        loop {
            spool.read(Want::Any, 0);
            let chunk = match spool.answer() {
                Some(Answer::Chunk(chunk)) => chunk,
                Some(Answer::End) => break,
                None => return Ok(()),
            };
            let numbers = check(&chunk)?;
            let id = chunk.stream.as_bytes()[0];
            let &(appended, _, released) = self.streams.get(&id).ok_or(format!("stream {id} is made up"))?;
            if seen.keys().next_back().is_some_and(|&newest| newest > id) {
                return Err(format!("stream {id} comes after {seen:?}"));
            }
            let before = seen.insert(id, *numbers.end());
            let next = before.map_or(1, |before| before + 1);
            // Released messages may be there or not.
            if *numbers.start() < next || *numbers.start() > next.max(released + 1) || *numbers.end() > appended {
                return Err(format!("{numbers:?} of stream {id} after {before:?}, and {released} is released"));
            }
            if release(&mut random) {
                let last = numbers.start() + random.below(chunk.messages);
                spool.release(at(id, last));
                let stream = self.streams.entry(id).or_default();
                stream.2 = stream.2.max(last);
            }
        }
        for (id, &(_, durable, released)) in &self.streams {
            let last = seen.get(id).copied().unwrap_or(0).max(released);
            if last < durable {
                return Err(format!("stream {id} ends at {last}, and {durable} is durable"));
            }
        }
        Ok(())
    }
}

/// One program: it appends, reads, releases, and is cut.
fn live(spool: &Spool, id: u8, model: &mut Model, random: &mut Random) -> Result<(), String> {
    let spool = start(spool);
    if !spool.is_open() {
        return Ok(());
    }
    let reads = random.below(3);
    if reads > 0 {
        model.read(&spool, |random| reads == 2 && random.below(2) == 0)?;
    }
    let mut number = 1;
    let mut held = 0;
    for _ in 0..random.below(25) {
        match random.below(8) {
            0..5 => {
                let messages = u32::try_from(random.below(12)).unwrap() + 1;
                let last = number + u64::from(messages) - 1;
                model.streams.entry(id).or_default().0 = last;
                if spool.append(batch(id, number, messages)).is_err() {
                    break;
                }
                number = last + 1;
            }
            5 => {
                let to = random.below(number);
                spool.release(at(id, to));
                if model.streams.contains_key(&id) {
                    let stream = model.streams.entry(id).or_default();
                    stream.2 = stream.2.max(to);
                }
            }
            6 => {
                held = held.max(random.below(number));
                spool.read(Want::After(at(id, held)), 0);
                if let Some(Answer::Chunk(chunk)) = spool.answer() {
                    let numbers = check(&chunk)?;
                    if chunk.stream.as_bytes()[0] == id {
                        if *numbers.start() <= held {
                            return Err(format!("{numbers:?} is read, and is in memory up to {held}"));
                        }
                        held = *numbers.end();
                    }
                }
            }
            _ => spool.close(),
        }
        if let Some(StreamPosition { number, .. }) = spool.durable() {
            let stream = model.streams.entry(id).or_default();
            stream.1 = stream.1.max(number);
        }
        if spool.is_closed() {
            break;
        }
    }
    Ok(())
}

fn lives(seed: u64, options: impl Fn(&SimDisk) -> Spool, faults: &Faults) -> Result<(), String> {
    let mut random = Random(seed);
    let (mut disk, mut model) = (SimDisk::new(seed), Model::default());
    for life in 1..6 {
        let last = random.below(100);
        disk.faults(|own| *own = Faults { halt_after: Some(last), ..faults.clone() });
        live(&options(&disk), life, &mut model, &mut random)
            .map_err(|error| format!("seed {seed}, life {life}, cut after {last}: {error}"))?;
        disk = if random.below(4) == 0 { disk.kill().crash(random.next()) } else { disk.crash(random.next()) };
    }
    let spool = start(&options(&disk));
    model.read(&spool, |_| false).map_err(|error| format!("seed {seed}, at the end: {error}"))?;
    let damaged = spool.status().damaged;
    // A torn record was never promised, and may be counted where its header survived.
    let undecided: u64 = model.streams.values().map(|(appended, durable, _)| appended - durable).sum();
    if damaged > undecided { Err(format!("seed {seed}: {damaged} are damaged")) } else { Ok(()) }
}

fn seeds(number: u64) -> u64 {
    env::var("HPFEEDS_SPOOL_SEEDS").ok().map_or(number, |text| text.parse().expect("HPFEEDS_SPOOL_SEEDS is a number"))
}

#[test]
fn a_power_cut_at_any_operation_keeps_every_durable_number_once_and_in_order() {
    for seed in 0..seeds(2000) {
        lives(seed, small, &Faults::default()).unwrap();
    }
}

#[test]
fn a_power_cut_after_failed_syncs_and_writes_keeps_every_durable_number_once_and_in_order() {
    for seed in 0..seeds(2000) {
        let mut random = Random(!seed);
        let mut some = |bound| (0..2).map(|_| random.below(bound) + 1).collect::<Vec<_>>();
        let faults =
            Faults { fail_syncs: some(12), fail_dir_syncs: some(6), fail_writes: some(25), ..Faults::default() };
        lives(seed, small, &faults).unwrap();
    }
}

#[test]
fn a_power_cut_of_a_full_spool_that_waits_keeps_every_durable_number_once_and_in_order() {
    let options = |disk: &SimDisk| small(disk).max_bytes(60_000).when_full(WhenFull::Refuse);
    for seed in 0..seeds(1000) {
        lives(seed, options, &Faults::default()).unwrap();
    }
}

#[test]
fn one_script_of_a_spool_is_cut_at_each_of_its_operations() {
    for seed in 0..seeds(2000) / 200 {
        let whole = SimDisk::new(seed);
        live(&small(&whole), 1, &mut Model::default(), &mut Random(seed)).unwrap();
        for last in 0..whole.operations() {
            let disk = SimDisk::new(seed);
            disk.faults(|faults| faults.halt_after = Some(last));
            let mut model = Model::default();
            live(&small(&disk), 1, &mut model, &mut Random(seed)).unwrap();
            for image in 0..4 {
                let spool = start(&small(&disk.crash(image)));
                model
                    .read(&spool, |_| false)
                    .unwrap_or_else(|error| panic!("seed {seed}, cut after {last}, {image}: {error}"));
            }
        }
    }
}

/// The checks above notice an engine that says too early that something is durable: here the disk
/// below it does.
#[test]
fn a_spool_that_promises_too_early_is_noticed() {
    let noticed = |faults: Faults| (0..400).filter(|&seed| lives(seed, small, &faults).is_err()).count();
    let data = noticed(Faults { lie_about_data: true, ..Faults::default() });
    let names = noticed(Faults { lie_about_names: true, ..Faults::default() });
    assert!(data > 20 && names > 20, "{data} {names}");
}
