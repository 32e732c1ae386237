//! Spools in real folders: one process at a time, and a small file system that is really full.

use std::{env, fs, path::Path, process::Command};

use hpfeeds::{Spool, spool::SpoolNews};

use crate::{
    faults::wait_for,
    skip::skip,
    support::{at, batch, drain, start},
};

#[test]
fn a_folder_is_used_by_one_session_at_a_time_and_the_second_hears_at_once_by_whom() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/spool");
    let first = start(&Spool::dir(&path));
    wait_for("it opens", || first.is_open());
    first.append(batch(1, 1, 10)).unwrap();
    wait_for("it syncs", || first.durable() == Some(at(1, 10)));
    let second = start(&Spool::dir(&path).inline());
    let [SpoolNews::Failing(error)] = &second.news()[..] else { panic!("it must fail") };
    let expected = format!("the spool {} is used by process {}", path.display(), std::process::id());
    assert_eq!((error.to_string(), error.is_permanent()), (expected, true));
    drop(second);
    first.close();
    wait_for("it ends", || first.is_closed());
    let third = start(&Spool::dir(&path).inline());
    assert_eq!(drain(&third), [(1, 1, 10)]);
    third.close();
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["cursor", "lock", "spool"], "no segment is left");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    fs::write(&path, "a file").unwrap();
    for path in [path.clone(), path.join("below")] {
        let spool = start(&Spool::dir(&path).inline());
        let [SpoolNews::Failing(error)] = &spool.news()[..] else { panic!("it must fail") };
        assert!(error.is_permanent() && error.to_string().contains("cannot be used"), "{error}");
    }
}

/// The folder of the small file system, in the process that has it.
const FULL: &str = "HPFEEDS_TEST_SMALL_FILE_SYSTEM";

#[test]
fn a_small_file_system_that_is_full_costs_nothing_but_time() {
    if let Some(path) = env::var_os(FULL) {
        return fill(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=3m tmpfs {} && exec \"$0\" \"$@\"", folder.path().display());
    let can = Command::new("unshare").args(["-rm", "sh", "-c", &mount, "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        return skip("a mount namespace (unshare -rm) for a small file system");
    }
    let name = "real::a_small_file_system_that_is_full_costs_nothing_but_time";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &mount])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FULL, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

fn fill(folder: &Path) {
    // Another program's file takes the rest.
    let other = folder.join("other");
    let spool = start(&Spool::dir(folder.join("spool")).inline());
    spool.append(batch(1, 1, 100)).unwrap();
    assert_eq!(spool.durable(), Some(at(1, 100)));
    let mut rest = vec![7_u8; 3 << 20];
    while fs::write(&other, &rest).is_err() {
        rest.truncate(rest.len() - 4096);
    }
    let mut first = 101;
    while spool.durable() == Some(at(1, first - 1)) {
        spool.append(batch(1, first, 100)).unwrap();
        first += 100;
    }
    let failing = spool.status().failing.expect("it is full");
    assert!(!failing.is_permanent() && failing.to_string().contains("space"), "{failing}");
    fs::remove_file(&other).unwrap();
    // Closing tries again at once.
    spool.close();
    assert_eq!(spool.durable(), Some(at(1, first - 1)));
    let spool = start(&Spool::dir(folder.join("spool")).inline());
    assert_eq!(drain(&spool), [(1, 1, first - 1)]);
}
