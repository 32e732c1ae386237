//! The table on disk: rows through commits, rewrites, damage and crashes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    super::table_log::TableLog,
    sim_disk::{Random, SimDisk},
    support::seeds,
};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk) -> TableLog {
    TableLog::open(Arc::new(disk.clone())).unwrap().0
}

fn rows(table: &TableLog) -> Rows {
    table.rows(1).map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

#[test]
fn rows_are_as_they_were_last_committed() {
    let disk = SimDisk::new(1);
    let (mut table, report) = TableLog::open(Arc::new(disk.clone())).unwrap();
    assert!(report.is_new);
    table.put(1, b"a", Some(Bytes::from_static(b"1")));
    table.put(1, b"b", Some(Bytes::from_static(b"2")));
    table.put(2, b"a", Some(Bytes::from_static(b"other")));
    table.commit().unwrap();
    table.put(1, b"a", None);
    table.put(1, b"b", Some(Bytes::from_static(b"3")));
    table.commit().unwrap();
    table.put(1, b"c", Some(Bytes::from_static(b"never committed")));
    drop(table);
    let (table, report) = TableLog::open(Arc::new(disk)).unwrap();
    assert_eq!((report.is_new, report.lost), (false, 0));
    assert_eq!(rows(&table), Rows::from([(b"b".to_vec(), b"3".to_vec())]));
    assert_eq!(table.rows(2).count(), 1);
}

#[test]
fn one_sync_makes_all_changes_durable_and_none_is_needed_without_a_change() {
    let disk = SimDisk::new(1);
    let mut table = open(&disk);
    table.put(1, b"a", Some(Bytes::from_static(b"1")));
    table.commit().unwrap();
    let syncs = disk.syncs();
    for number in 0..100_u32 {
        table.put(1, &number.to_be_bytes(), Some(Bytes::from_static(b"x")));
    }
    table.commit().unwrap();
    table.put(1, b"a", Some(Bytes::from_static(b"1")));
    table.commit().unwrap();
    assert_eq!(disk.syncs(), syncs + 1);
}

#[test]
fn a_table_that_changes_for_ever_stays_small() {
    let disk = SimDisk::new(1);
    let mut table = open(&disk);
    for round in 0..3000_u32 {
        let value = [round.to_be_bytes().as_slice(), &vec![7; 20_000]].concat();
        table.put(1, &(round % 7).to_be_bytes(), Some(value.into()));
        table.commit().unwrap();
        assert!(table.size() < 8 << 20, "{} after {round}", table.size());
    }
    let before = rows(&table);
    drop(table);
    assert_eq!(rows(&open(&disk)), before);
}

/// A row is the newest that was committed, or one that was being committed.
fn lives(seed: u64, lies: bool) -> Result<(), String> {
    let mut random = Random(seed);
    let mut disk = SimDisk::new(seed);
    let mut committed = Rows::new();
    for _ in 0..4 {
        let mut attempted = committed.clone();
        disk.faults(|faults| {
            faults.halt_after = Some(random.below(60));
            faults.lie_about_data = lies;
        });
        if let Ok((mut table, _)) = TableLog::open(Arc::new(disk.clone())) {
            for _ in 0..random.below(12) {
                let name = vec![u8::try_from(random.below(4)).unwrap()];
                let value = vec![u8::try_from(random.below(250)).unwrap(); 1000];
                table.put(1, &name, Some(value.clone().into()));
                attempted.insert(name, value);
                if random.below(2) == 0 && table.commit().is_ok() {
                    committed = attempted.clone();
                }
            }
        }
        disk = disk.crash(random.next());
        let found = rows(&open(&disk));
        for (name, value) in &found {
            if committed.get(name) != Some(value) && attempted.get(name) != Some(value) {
                // One that was put in between counts as well, if it was never committed over.
                if committed.contains_key(name) && attempted.get(name) == committed.get(name) {
                    return Err(format!("seed {seed}: {name:?} is {}", value[0]));
                }
            }
        }
        if let Some(missing) = committed.keys().find(|name| !found.contains_key(*name)) {
            return Err(format!("seed {seed}: {missing:?} is gone"));
        }
        committed = found;
    }
    Ok(())
}

#[test]
fn a_power_cut_takes_no_row_back_that_was_committed() {
    for seed in 0..seeds(500) {
        lives(seed, false).unwrap();
    }
    let noticed = (0..200).filter(|&seed| lives(seed, true).is_err()).count();
    assert!(noticed > 10, "{noticed}");
}
