//! What stderr says, in both formats.

use std::time::Duration;

use hpfeeds::wire::Frame;

use super::{
    Running, command, file, run,
    support::{Peer, publish, subscribe},
};

/// A name that would forge a line of the log, or clear a terminal.
const EVIL: &str = "e\nINFO forged\r\x1b[2J\x7f\u{9b}\u{202e}\"";

/// Lets somebody in, turns three away, and returns what was logged.
async fn events(format: &str, more: &[&str]) -> String {
    let evil = serde_json::Value::from(EVIL);
    let keys = format!(r#"{{{evil}: {{"owner": {evil}, "secret": "hunter2", "pubchans": ["a"], "subchans": []}}}}"#);
    let keys = file(".json", keys);
    let arguments = ["--bind=127.0.0.1:0", "--auth", keys.to_str().unwrap(), "--log-format", format];
    let running = Running::start(command(&[&arguments, more].concat())).await;
    let frames = [publish(EVIL, EVIL, ""), subscribe(EVIL, EVIL), publish("other", "a", "")];
    let denied = ["Authkey not allowed to pub", "Authkey not allowed to sub", "Invalid authkey in message"];
    for (frame, denied) in frames.into_iter().zip(denied) {
        let mut peer = Peer::login(running.addr, EVIL, "hunter2").await;
        peer.send(frame).await;
        let Some(Frame::Error { message }) = peer.next().await else {
            panic!("no ERROR {denied:?}");
        };
        assert!(String::from_utf8_lossy(&message).starts_with(denied), "{message:?}");
        assert_eq!(peer.next().await, None);
    }
    Peer::login(running.addr, "b\nob", "hunter2").await.expect_error("Authentication failed for b\nob").await;
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
    assert!(stderr.chars().all(|char| char == '\n' || (' '..='~').contains(&char)), "{stderr:?}");
    stderr
}

/// `2026-11-20T16:00:00.000000Z`
fn assert_time(text: &str) {
    let date = text.strip_suffix('Z').and_then(|text| text.split_once('T'));
    let digits =
        |text: &str| text.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect::<String>();
    let (date, time) = date.map(|(date, time)| (digits(date), digits(time))).expect(text);
    assert_eq!((&*date, time.split('.').next().unwrap()), ("0000-00-00", "00:00:00"), "{text}");
}

#[tokio::test]
async fn text_has_one_line_for_each_event() {
    let log = events("text", &[]).await;
    for line in log.lines() {
        let mut words = line.split_whitespace();
        assert_time(words.next().unwrap());
        assert!(["INFO", "WARN"].contains(&words.next().unwrap()), "{line}");
    }
    let evil = format!("{EVIL:?}");
    let expected = [
        format!("connected ident={evil} owner={evil} peer=127.0.0.1:"),
        "denied: publish ident=".to_owned(),
        format!("channel={evil}"),
        "denied: subscribe ident=".to_owned(),
        format!("denied: publish in another's name ident={evil} peer=127.0.0.1:"),
        "channel=\"a\" claimed=\"other\"".to_owned(),
        "disconnected ident=".to_owned(),
        "reason=refused: \"Authkey not allowed to pub here. ident=".to_owned(),
        "authentication failed: unknown ident ident=\"b\\nob\" peer=127.0.0.1:".to_owned(),
        "SIGTERM: stopping".to_owned(),
    ];
    for part in expected {
        assert!(log.contains(&part), "{part} is missing in {log}");
    }
}

#[tokio::test]
async fn json_is_an_object_on_each_line() {
    let log = events("json", &[]).await;
    let mut messages = Vec::new();
    for line in log.lines() {
        let object: serde_json::Map<_, _> = serde_json::from_str(line).expect(line);
        assert_time(object["timestamp"].as_str().unwrap());
        assert!(["INFO", "WARN"].contains(&object["level"].as_str().unwrap()), "{line}");
        let message = object["message"].as_str().unwrap().to_owned();
        // Names stand there as they are, not in quotes of their own.
        if message.starts_with("denied") || message == "connected" || message == "disconnected" {
            assert_eq!(object["ident"], EVIL, "{line}");
            assert!(object["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        }
        if message.starts_with("denied") {
            assert!(object["channel"] == EVIL || object["channel"] == "a", "{line}");
        }
        messages.push(message);
    }
    let count = |message: &str| messages.iter().filter(|other| *other == message).count();
    assert_eq!((count("connected"), count("disconnected")), (3, 3), "{log}");
    for message in ["denied: publish", "denied: subscribe", "denied: publish in another's name", "started", "stopped"] {
        assert_eq!(count(message), 1, "{message}: {log}");
    }
}

#[tokio::test]
async fn the_level_decides_what_is_logged() {
    assert_eq!(events("text", &["--log-level", "error"]).await, "");
    assert!(!events("text", &["--log-level", "warn"]).await.contains("INFO"));
    let (code, stderr) = run(&["--dev", "--debug", "--log-level", "warn"]).await;
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
    // Somebody who goes before they have authenticated is of interest to who looks for a fault only.
    for (level, is_logged) in [("info", false), ("debug", true)] {
        let running = Running::start(command(&["--dev", "--bind=127.0.0.1:0", "--log-level", level])).await;
        drop(Peer::connect(running.addr).await);
        // The broker greets the next one after it has seen to the last.
        tokio::time::timeout(Duration::from_secs(20), Peer::login(running.addr, "dev", "dev"))
            .await
            .unwrap()
            .settle()
            .await;
        let (_, stderr) = running.stop("-TERM").await;
        assert_eq!(stderr.contains("gone before authentication"), is_logged, "{stderr}");
    }
}

#[tokio::test]
async fn a_json_log_tells_in_json_why_the_broker_does_not_run() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, stderr) = run(&["--dev", "--bind", &addr, "--log-format=json"]).await;
    let object: serde_json::Map<_, _> = serde_json::from_str(&stderr).expect(&stderr);
    assert_eq!((code, &object["level"]), (Some(1), &"ERROR".into()));
    let message = object["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("cannot listen on {addr}: ")), "{message}");
}
