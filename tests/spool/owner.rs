//! Whose a spool is.

use hpfeeds::{
    Limits,
    spool::{SpoolHandle, SpoolNews},
};

use crate::{
    sim_disk::SimDisk,
    support::{batch, drain, small, start},
};

fn filled() -> SimDisk {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    spool.append(batch(1, 1, 10)).unwrap();
    drop(spool);
    disk
}

/// The error that a session of another ident hears.
fn refusal(disk: &SimDisk, ident: &str) -> String {
    let before = disk.operations();
    let spool = SpoolHandle::start(&small(disk), ident, Limits::default()).unwrap();
    let news = spool.news();
    let [SpoolNews::Failing(error)] = &news[..] else { panic!("{news:?}") };
    assert!(error.is_permanent() && !spool.is_open());
    assert_eq!(spool.status().failing.as_ref(), Some(error));
    assert_eq!(disk.operations(), before, "nothing is touched");
    error.to_string()
}

#[test]
fn a_spool_of_another_ident_is_refused_and_not_touched() {
    let disk = filled();
    assert_eq!(
        refusal(&disk, "sensor-18"),
        "the spool of a test belongs to ident \"sensor-17\": name another folder, or use that ident"
    );
    assert_eq!(drain(&start(&small(&disk))), [(1, 1, 10)]);
}

#[test]
fn an_owner_that_is_lost_is_known_by_the_messages() {
    for damage in [None, Some(b"hpfeeds-spool 1\nident 6d65\ncrc 00000000\n".to_vec())] {
        let mut files = filled().files();
        files.remove("spool");
        files.extend(damage.map(|bytes| ("spool".to_owned(), bytes)));
        let disk = SimDisk::with(1, files);
        let refused = SpoolHandle::start(&small(&disk), "sensor-18", Limits::default()).unwrap();
        assert!(matches!(&refused.news()[..], [SpoolNews::Failing(error)] if error.is_permanent()));
        drop(refused);
        assert_eq!(drain(&start(&small(&disk))), [(1, 1, 10)]);
        refusal(&disk, "sensor-18");
    }
}

#[test]
fn a_spool_of_a_newer_program_is_refused_and_not_touched() {
    let mut files = filled().files();
    let text = "hpfeeds-spool 2\nident 6d65\n";
    let text = format!("{text}crc {:08x}\n", crc32fast::hash(text.as_bytes()));
    files.insert("spool".to_owned(), text.into_bytes());
    assert_eq!(
        refusal(&SimDisk::with(1, files), "me"),
        "the spool of a test cannot be used: a newer program has written it: use that, or another folder"
    );
}
