//! The output formats of `hpfeeds subscribe`, and the files that it stores.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Running, TestBroker};

/// Everything that could move the cursor, end a line early or confuse a parser.
const HOSTILE: &[&[u8]] = &[
    b"text",
    "{\"a\": \"\u{fc}\\n\"}".as_bytes(),
    b"",
    b"\x1b]0;owned\x07\x1b[2J\n[events] sensor: forged\r",
    b"\x00\xff\xfe",
    b"\x9b31m",
    "\u{9b}31m\u{202e}\u{7f}".as_bytes(),
];

fn printed(args: &[&str]) -> String {
    let broker = TestBroker::start();
    let count = HOSTILE.len().to_string();
    let mut tool = broker.subscribed(&[args, &["--count", &count]].concat());
    broker.publish(HOSTILE.iter().map(|payload| payload.to_vec()));
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    let text = String::from_utf8(tool.stdout()).expect("what it prints is always UTF-8");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}'), "{text:?}");
    text
}

#[test]
fn a_line_is_one_line_and_shows_no_control_characters() {
    let expected = [
        "text",
        "{\"a\": \"ü\\n\"}",
        "",
        r"\u{1b}]0;owned\u{7}\u{1b}[2J\n[events] sensor: forged\r",
        r"\u{0}\xff\xfe",
        r"\x9b31m",
        r"\u{9b}31m\u{202e}\u{7f}",
    ];
    let text = printed(&[]);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected.map(|line| format!("[events] sensor: {line}")));
    assert_eq!(printed(&["--format", "line"]), text);
}

#[test]
fn ndjson_gives_everything_back() {
    let text = printed(&["--format", "ndjson"]);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), HOSTILE.len());
    for (record, payload) in records.iter().zip(HOSTILE) {
        assert_eq!((&record["ident"], &record["channel"]), (&json!("sensor"), &json!("events")));
        let time = record["time"].as_str().unwrap();
        assert!(time.len() == "2025-01-02T03:04:05.678Z".len() && time.ends_with('Z'), "{time}");
        match str::from_utf8(payload) {
            Ok(text) => assert_eq!((&record["payload"], record.get("payload_base64")), (&json!(text), None)),
            Err(_) => assert_eq!(record.get("payload"), None),
        }
    }
    assert_eq!(records[4]["payload_base64"], "AP/+");
    assert_eq!(records[5]["payload_base64"], "mzMxbQ==");
}

#[test]
fn names_are_as_hostile_as_payloads() {
    let broker = TestBroker::start();
    let channel = "odd.\u{1b}[31m]\n";
    let mut command = broker.subscriber(&["--count", "1", "-c", channel]);
    let mut tool = Running::start(&mut command);
    tool.wait_for_stderr(r"subscribed to odd.\u{1b}[31m]\n");
    broker.publish_as("sensor", channel, ["x"]);
    assert_eq!(tool.wait(), Some(0));
    assert_eq!(String::from_utf8(tool.stdout()).unwrap(), "[odd.\\u{1b}[31m]\\n] sensor: x\n");
}

#[test]
fn raw_is_the_bytes_and_nothing_else() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--format", "raw", "--count", &HOSTILE.len().to_string()]);
    broker.publish(HOSTILE.iter().map(|payload| payload.to_vec()));
    assert_eq!(tool.wait(), Some(0));
    assert_eq!(tool.stdout(), HOSTILE.concat());
}

#[test]
fn a_message_is_printed_when_it_comes() {
    let broker = TestBroker::start();
    let tool = broker.subscribed(&["--format", "raw"]);
    broker.publish(["no newline"]);
    tool.wait_for_stdout(b"no newline");
}

#[test]
fn output_appends_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["-o", path.to_str().unwrap(), "--count", "1"]);
    broker.publish(["one"]);
    assert_eq!(tool.wait(), Some(0));

    // Before the action, as the Python tool has it.
    let port = broker.port().to_string();
    let mut command = crate::support::bare_tool();
    command.args(["--output", path.to_str().unwrap(), "-p", &port, "-i", "dev", "-s", "dev", "-c", "events"]);
    let mut again = Running::start(command.args(["subscribe", "-n", "1"]));
    again.wait_for_stderr("subscribed to events");
    broker.publish(["two"]);
    assert_eq!(again.wait(), Some(0));

    assert_eq!(fs::read_to_string(&path).unwrap(), "before\n[events] sensor: one\n[events] sensor: two\n");
    assert_eq!((tool.stdout(), again.stdout()), (vec![], vec![]));
}

const SHA_X: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn payloads_are_stored_under_their_hash_whatever_the_names_say() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("a/b/saved");
    let broker = TestBroker::start();
    let channel = "odd.../../../../../../escaped";
    let mut command = broker.subscriber(&["--save-dir", saved.to_str().unwrap(), "-n", "4", "-c", channel]);
    let mut tool = Running::start(&mut command);
    tool.wait_for_stderr("subscribed to");
    // Twice the same, once an empty one, and one that is called as a path.
    broker.publish_as("../../sensor", channel, ["x", "x", "", "../../escaped"]);
    assert_eq!(tool.wait(), Some(0));

    let lines = String::from_utf8(tool.stdout()).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], format!("[{channel}] ../../sensor: {}/{SHA_X} (1 bytes)", saved.display()));
    assert_eq!(lines[1], lines[0]);
    assert_eq!(names(&saved).len(), 3);
    assert!(names(&saved).iter().all(|name| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())));
    assert_eq!(fs::read(saved.join(SHA_X)).unwrap(), b"x");
    assert_eq!((names(dir.path()), names(&dir.path().join("a/b"))), (vec!["a".to_owned()], vec!["saved".to_owned()]));
}

#[test]
fn ndjson_says_where_a_payload_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    // A file that is there already stays.
    fs::write(dir.path().join(SHA_X), "y").unwrap();
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--save-dir", dir.path().to_str().unwrap(), "--format", "ndjson", "-n", "1"]);
    broker.publish(["x"]);
    assert_eq!(tool.wait(), Some(0));
    let record: Value = serde_json::from_slice(&tool.stdout()).unwrap();
    assert_eq!(record["path"], json!(dir.path().join(SHA_X)));
    assert_eq!((&record["sha256"], &record["size"], record.get("payload")), (&json!(SHA_X), &json!(1), None));
    assert_eq!(fs::read(dir.path().join(SHA_X)).unwrap(), b"y");
}

#[test]
fn a_directory_that_cannot_be_made_is_1() {
    let broker = TestBroker::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().join("dir");
    let mut tool = Running::start(&mut broker.subscriber(&["-c", "events", "--save-dir", dir.to_str().unwrap()]));
    assert_eq!(tool.wait(), Some(1));
    assert!(tool.stderr().contains(dir.to_str().unwrap()), "{}", tool.stderr());
}
