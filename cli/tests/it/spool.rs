//! `hpfeeds spool`: what a spool holds, without a program that uses it, and beside one.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use hpfeeds::{
    Channel, Ident,
    log::{Append, FRAMES, Log, LogOptions, RealDisk, StreamEnd},
    wire::Frame,
};

use crate::support::{TestBroker, fails, outcome, tool};

/// The time of the first message, 2026-01-31T12:00:00.5Z.
const START: i64 = 1_769_860_800_500;

/// A spool with small segments, in use.
fn spool(dir: &Path) -> Log {
    let disk = Arc::new(RealDisk::open_anywhere(dir).unwrap());
    Log::open(disk, &LogOptions::default().segment_bytes(20_000)).unwrap().0
}

/// Appends a record of these messages, a second after the one before it.
fn append(log: &mut Log, messages: &[(&str, Bytes)]) {
    let mut body = bytes::BytesMut::new();
    for (channel, payload) in messages {
        let (ident, channel) = (Ident::new("sensor").unwrap(), Channel::new(channel).unwrap());
        Frame::Publish { ident, channel, payload: payload.clone() }
            .encode(&mut body, hpfeeds::Limits::default())
            .unwrap();
    }
    let last = log.last().number + messages.len() as u64;
    let unix_ms = START + 1000 * i64::try_from(log.last().number).unwrap();
    let stream = Some(StreamEnd { id: [7; 16], last });
    let count = u32::try_from(messages.len()).unwrap();
    log.append(&Append { kind: FRAMES, unix_ms, messages: count, stream, channels: &[], body: &body }).unwrap();
}

/// Its exit code, and what it printed.
fn run(action: &str, dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = tool().args(["spool", action]).arg(dir).args(more).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The names and bytes of all files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn status_says_what_a_spool_holds_and_who_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("spool");
    let mut log = spool(&dir);
    append(&mut log, &[("a", "one".into()), ("b\u{1b}", "two".into())]);
    append(&mut log, &[("a", "three".into())]);
    log.sync().unwrap();
    log.consume(hpfeeds::wire::extension::Position::new(1, 1)).unwrap();
    log.store_cursor().unwrap();
    let before = files(&dir);
    let (code, text) = run("status", &dir, &[]);
    assert_eq!((code, files(&dir) == before), (Some(0), true));
    let segment = before.iter().find(|(name, _)| name.starts_with('0')).unwrap().1.len();
    let expected = format!(
        "spool     {}\nused by   process {}\nident     sensor\n\
         messages  2 with 8 bytes of payload, in {segment} bytes of files\n\
         oldest    2026-01-31T12:00:00.500Z, ",
        dir.display(),
        std::process::id()
    );
    assert!(text.starts_with(&expected), "{text}\n{expected}");
    assert!(text.contains("\nnewest    2026-01-31T12:00:02.500Z, ") && text.contains(" d ago\n"), "{text}");
    let end = "streams   1\nchannels  a 1, b\\u{1b} 1\ndamage    none\nlost      0 damaged, 0 dropped for room\n";
    assert!(text.ends_with(end), "{text}");
    drop(log);
    let (_, text) = run("status", &dir, &[]);
    let last = format!("\nused by   nobody here; last by process {} on ", std::process::id());
    assert!(text.contains(&last), "{text}");
}

#[test]
fn an_empty_spool_and_one_that_is_not_there_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = run("status", dir.path(), &[]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("used by   nobody\nmessages  0 with 0 bytes of payload, in 0 bytes of files\ndamage"),
        "{text}"
    );
    assert_eq!(run("verify", dir.path(), &[]), (Some(0), "0 segments, 0 records, 0 messages: good\n".to_owned()));
    assert_eq!(run("dump", dir.path(), &[]), (Some(0), String::new()));
    let missing = dir.path().join("missing");
    for action in ["status", "verify", "dump"] {
        fails(tool().args(["spool", action]).arg(&missing), 1, "missing: there is no such directory");
    }
    // Nothing is made by looking.
    assert!(!missing.exists() && files(dir.path()).is_empty());
    let (code, stderr) = outcome(tool().arg("spool"));
    assert!(code == Some(2) && stderr.contains("Usage: hpfeeds spool"), "{stderr}");
}

#[test]
fn verify_says_good_or_damaged_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = spool(dir.path());
    for _ in 0..30 {
        append(&mut log, &[("a", vec![7; 1000].into()), ("a", vec![8; 1000].into())]);
    }
    log.sync().unwrap();
    let (code, text) = run("verify", dir.path(), &[]);
    assert!(code == Some(0) && text.ends_with(" segments, 30 records, 60 messages: good\n"), "{text}");
    drop(log);
    let (name, mut bytes) = files(dir.path()).into_iter().find(|(name, _)| name.starts_with('0')).unwrap();
    bytes[8192 + 500] ^= 1;
    fs::write(dir.path().join(&name), bytes).unwrap();
    let (code, text) = run("verify", dir.path(), &[]);
    assert_eq!(code, Some(8), "{text}");
    assert!(text.starts_with(&format!("damaged: {name}: ")) && text.contains(" bytes at 8192\n"), "{text}");
    assert!(text.ends_with(" records, 58 messages: damaged in 1 place\n"), "{text}");
    let (_, text) = run("status", dir.path(), &[]);
    assert!(text.contains("\ndamage    1 place; hpfeeds spool verify names them\n"), "{text}");
    let (code, stderr) = outcome(tool().args(["spool", "dump"]).arg(dir.path()));
    assert_eq!(code, Some(8));
    assert!(stderr.ends_with(": 0 messages missing, 1 damaged place\n"), "{stderr}");
}

#[test]
fn a_record_that_was_cut_off_by_a_crash_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = spool(dir.path());
    for payload in ["one", "two"] {
        append(&mut log, &[("a", payload.into())]);
    }
    log.sync().unwrap();
    let (name, bytes) = files(dir.path()).into_iter().find(|(name, _)| name.starts_with('0')).unwrap();
    // As a killed process leaves it: without a footer.
    fs::write(dir.path().join(name), &bytes[..bytes.len() - 3]).unwrap();
    std::mem::forget(log);
    let (code, text) = run("verify", dir.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(" are no whole record: it is being written, or was cut off by a crash\n"), "{text}");
    assert!(text.ends_with("1 segment, 1 record, 1 message: good\n"), "{text}");
}

#[test]
fn a_dump_can_be_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = spool(dir.path());
    let payloads: Vec<Bytes> = (0..=255).map(|byte| Bytes::from(vec![byte; 3])).collect();
    append(&mut log, &[("events", "confirmed".into())]);
    for payload in &payloads {
        append(&mut log, &[("events", payload.clone()), ("files", Bytes::new())]);
    }
    log.sync().unwrap();
    log.consume(hpfeeds::wire::extension::Position::new(1, 1)).unwrap();
    log.store_cursor().unwrap();
    let (code, dump) = run("dump", dir.path(), &[]);
    assert_eq!(code, Some(0));
    let first =
        r#"{"time":"2026-01-31T12:00:01.500Z","ident":"sensor","channel":"events","payload":"\u0000\u0000\u0000"}"#;
    assert_eq!(dump.lines().next(), Some(first));
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    broker.sensor("publish").arg("--ndjson").write_stdin(dump).assert().success().stderr("");
    let got: Vec<_> = peer.all().into_iter().map(|(_, channel, payload)| (channel.to_string(), payload)).collect();
    let expected: Vec<_> = payloads
        .iter()
        .flat_map(|payload| [("events".to_owned(), payload.clone()), ("files".to_owned(), Bytes::new())])
        .collect();
    assert!(got == expected);
    let (_, all) = run("dump", dir.path(), &["--all"]);
    assert_eq!((all.lines().count(), all.contains("\"confirmed\"")), (513, true));
}
