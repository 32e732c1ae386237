//! The operator's commands about mailboxes and the journal, with brokers that run, were killed, or never
//! were.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use hpfeeds::{ClientSession, SubscribeFrom};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use super::{Running, command, file};
use crate::support::within;

/// Keys of a sensor and a collector, a mailbox, two threads.
async fn start(dir: &Path) -> Running {
    let dir = dir.to_str().unwrap();
    let keys = file(
        ".json",
        r#"{"sensor": {"owner": "o", "secret": "s", "pubchans": ["*"], "subchans": []},
            "collector": {"owner": "o", "secret": "s", "pubchans": [], "subchans": ["*"]}}"#,
    );
    let arguments = ["--bind", "127.0.0.1:0", "--auth", keys.to_str().unwrap(), "--threads", "2", "--data-dir", dir];
    let mut command = command(&arguments);
    command.args(["--mailbox", "collector=cowrie.*", "--mailbox", "collector/elastic=*", "--mailbox", "other=a"]);
    Running::start(command).await
}

/// Runs a command about a folder: exit code, stdout and stderr.
async fn ask(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(arguments);
    command.args(["--data-dir", dir.to_str().unwrap()]);
    let output = within(command.output()).await.unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), stdout, stderr)
}

async fn good(dir: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = ask(dir, arguments).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    stdout
}

async fn fault(dir: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = ask(dir, arguments).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}");
    stderr.strip_prefix("hpfeeds-broker: ").expect(&stderr).trim_end().to_owned()
}

/// A mailbox in the list, as JSON.
async fn mailbox(dir: &Path, name: &str) -> Value {
    let list: Value = serde_json::from_str(&good(dir, &["mailbox", "list", "--json"]).await).unwrap();
    list["mailboxes"].as_array().unwrap().iter().find(|one| one["mailbox"] == name).unwrap().clone()
}

/// Waits until as many messages wait for a mailbox.
async fn waiting(dir: &Path, name: &str, messages: u64) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let one = mailbox(dir, name).await;
        if one["messages"] == messages {
            return one;
        }
        assert!(tokio::time::Instant::now() < deadline, "{messages}: {one}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn publish(broker: &Running, channel: &str, payloads: impl IntoIterator<Item = String>) {
    let mut sensor = ClientSession::connect(broker.addr, "sensor", "s").await.unwrap();
    for payload in payloads {
        sensor.publish(channel, payload).await.unwrap();
    }
    assert_eq!(sensor.flush().await.unwrap().refused, 0);
    sensor.close().await.unwrap();
}

async fn read(session: &mut ClientSession) -> String {
    String::from_utf8(within(session.read()).await.unwrap().2.to_vec()).unwrap()
}

#[tokio::test]
async fn an_operator_sees_what_waits_and_who_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data");
    let broker = start(&dir).await;
    publish(&broker, "cowrie.sessions", (0..10).map(|n| n.to_string())).await;
    publish(&broker, "dionaea.capture", ["\u{1}".to_owned()]).await;
    let text = good(&dir, &["mailbox", "list"]).await;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["MAILBOX", "MESSAGES", "BYTES", "OLDEST", "ATTACHED"]);
    assert_eq!(words(1)[..2], ["collector", "10"], "{text}");
    assert_eq!(words(2), ["nobody", "has", "ever", "subscribed"]);
    assert_eq!(words(3)[..2], ["collector/elastic", "11"]);
    assert_eq!(words(5)[..4], ["other", "0", "0", "B"]);
    assert!(text.lines().last().unwrap().starts_with("journal: good, "), "{text}");

    // A collector takes a part, and says so.
    let mut session =
        ClientSession::builder(broker.addr, "collector", "s").manual_commit(true).connect().await.unwrap();
    within(session.subscribe_from("*", SubscribeFrom::mailbox("elastic"))).await.unwrap();
    for expected in 0..4 {
        assert_eq!(read(&mut session).await, expected.to_string());
        assert_eq!(session.origin().unwrap().mailbox.as_ref(), "elastic");
    }
    session.commit();
    let one = waiting(&dir, "collector/elastic", 7).await;
    assert_eq!((&one["attached"], &one["address"]), (&true.into(), &"127.0.0.1".into()));
    let shown = good(&dir, &["mailbox", "show", "collector/elastic"]).await;
    assert!(shown.contains("waiting      7 messages") && shown.contains("attached     127.0.0.1"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("cursor       1:4 *")), "{shown}");
    // The messages that wait, and stay.
    let dump = good(&dir, &["mailbox", "dump", "collector/elastic"]).await;
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let positions: Vec<_> = lines.iter().map(|line| line["position"].as_str().unwrap()).collect();
    assert_eq!(positions, ["1:5", "1:6", "1:7", "1:8", "1:9", "1:10", "1:11"]);
    assert_eq!((&lines[0]["payload"], &lines[0]["ident"]), (&"4".into(), &"sensor".into()));
    assert_eq!(good(&dir, &["mailbox", "dump", "other"]).await, "");
    waiting(&dir, "collector/elastic", 7).await;
    session.close().await.unwrap();
    let one = waiting(&dir, "collector/elastic", 7).await;
    assert_eq!(one["attached"], false);
}

#[tokio::test]
async fn an_operator_sets_a_mailbox_back_and_forgets_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data");
    let broker = start(&dir).await;
    publish(&broker, "cowrie.sessions", (0..6).map(|n| n.to_string())).await;
    let mut session = ClientSession::connect(broker.addr, "collector", "s").await.unwrap();
    within(session.subscribe_from("cowrie.*", SubscribeFrom::mailbox(""))).await.unwrap();
    for expected in 0..6 {
        assert_eq!(read(&mut session).await, expected.to_string());
    }
    session.commit();
    waiting(&dir, "collector", 0).await;
    // The collector that is attached gets them once more.
    let said = good(&dir, &["mailbox", "rewind", "collector", "--to", "1:3"]).await;
    assert_eq!(said, "collector: goes on behind 1:2; 4 messages to deliver\n");
    for expected in 2..6 {
        assert_eq!(read(&mut session).await, expected.to_string());
    }
    good(&dir, &["mailbox", "rewind", "collector", "--to", "2h"]).await;
    for expected in 0..6 {
        assert_eq!(read(&mut session).await, expected.to_string());
    }
    session.commit();
    waiting(&dir, "collector", 0).await;
    session.close().await.unwrap();
    good(&dir, &["mailbox", "rewind", "collector", "--to", "start"]).await;
    waiting(&dir, "collector", 6).await;
    assert_eq!(good(&dir, &["mailbox", "drop", "collector"]).await, "collector: has forgotten 6 messages\n");
    waiting(&dir, "collector", 0).await;
    // What waits is known after a restart, too.
    broker.stop("-KILL").await;
    let broker = start(&dir).await;
    let one = waiting(&dir, "collector/elastic", 6).await;
    assert!(one["oldest_ms"].as_i64().unwrap() > 0 && one["bytes"].as_u64().unwrap() >= 6 * 28, "{one}");
    broker.stop("-KILL").await;
}

#[tokio::test]
async fn a_command_that_cannot_be_done_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let list = ["mailbox", "list"];
    assert_eq!(
        fault(&dir, &list).await,
        format!("there is no folder {}: name the broker's with --data-dir", dir.display())
    );
    fs::create_dir(&dir).unwrap();
    let none = format!("no broker runs with the data folder {}", dir.display());
    assert_eq!(fault(&dir, &list).await, format!("{none}, or it is older than this program"));
    let broker = start(&dir).await;
    assert_eq!(fs::metadata(dir.join("control")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fault(&dir, &["mailbox", "show", "colector/elastic"]).await,
        "there is no mailbox \"colector/elastic\": did you mean collector/elastic?"
    );
    assert_eq!(
        fault(&dir, &["mailbox", "drop", "something-else-entirely"]).await,
        "there is no mailbox \"something-else-entirely\": mailbox list shows all"
    );
    let skip = fault(&dir, &["mailbox", "skip", "collector"]).await;
    assert!(skip.starts_with("collector: no message is known on which the collector crashes"), "{skip}");
    // A peer that says nothing, or too much, keeps nobody from asking.
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(dir.join("control")).await.unwrap();
        stream.write_all(&[b'x'; 5000]).await.unwrap();
        silent.push(stream);
        silent.push(UnixStream::connect(dir.join("control")).await.unwrap());
    }
    good(&dir, &list).await;
    broker.stop("-KILL").await;
    // It was killed.
    assert_eq!(fault(&dir, &list).await, format!("{none}: its last one was killed, and left the socket"));
    // The next one takes its place, and when it is stopped, the socket goes with it.
    let broker = start(&dir).await;
    good(&dir, &list).await;
    broker.stop("-TERM").await;
    assert_eq!(fault(&dir, &list).await, format!("{none}, or it is older than this program"));
}

#[tokio::test]
async fn a_journal_is_checked_beside_a_broker_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let verify = ["journal", "verify"];
    assert!(fault(&dir, &verify).await.ends_with("is no data folder of a broker: name one with --data-dir"));
    let broker = start(&dir).await;
    publish(&broker, "cowrie.sessions", (0..100).map(|n| format!("{n:01000}"))).await;
    publish(&broker, "cowrie.sessions", (0..100).map(|n| format!("{n:01000}"))).await;
    let text = good(&dir, &verify).await;
    assert!(text.lines().next().unwrap().contains(" 200 messages from 1:1 to 1:200"), "{text}");
    broker.stop("-TERM").await;
    good(&dir, &verify).await;
    let segment = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|it| it == "seg")).max().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (code, stdout, stderr) = ask(&dir, &verify).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "hpfeeds-broker: damaged: journal\n"), "{stdout}");
    assert!(stdout.contains("are damaged"), "{stdout}");
}
