//! The log on stderr, in both formats.

use std::{net::SocketAddr, time::Duration};

use hpfeeds::wire::Frame;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpSocket,
    process::ChildStderr,
};

use super::{
    Running, command, file,
    pki::{Pki, TlsPeer},
    run,
    support::{Peer, publish, subscribe, within},
};

type Object = serde_json::Map<String, serde_json::Value>;

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
        if message == "stopped" {
            let counts =
                ["received", "delivered", "dropped", "discarded", "unrouted"].map(|name| object[name].as_u64());
            assert_eq!(counts, [Some(0); 5], "everything was refused: {line}");
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

/// A slow consumer, how much it has lost, its disconnection; and that publishers do not wait for it
/// again.
#[tokio::test]
async fn a_slow_consumer_is_logged() {
    let arguments = ["--dev", "--bind=127.0.0.1:0", "--log-format=json", "--low-mark=64k", "--high-mark=1M"];
    let more = ["--slow-deadline=0.5", "--floor-rate=64M"];
    let mut running = Running::start(command(&[&arguments[..], &more].concat())).await;
    let mut log = BufReader::new(running.child.stderr.take().unwrap()).lines();
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut slow = Peer::login(running.addr, "dev", "dev").await;
        slow.send(subscribe("dev", "c")).await;
        slow.settle().await;
        let mut publisher = Peer::login(running.addr, "dev", "dev").await;
        for _ in 0..32 {
            publisher.send(publish("dev", "c", vec![0; 1_000_000])).await;
        }
        publisher.confirm().await;
        let at_mark = "slow subscriber is at its high mark: its messages are dropped";
        let line = next(&mut log, &mut lines, at_mark).await;
        assert!(line["ident"] == "dev" && line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line:?}");
        // It reads again when it is too late; any later will do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        while !matches!(slow.next().await.expect("an ERROR"), Frame::Error { .. }) {}
        let line = loop {
            let line = next(&mut log, &mut lines, "disconnected").await;
            if line["dropped"].as_u64() > Some(0) {
                break line;
            }
        };
        assert_eq!((&line["reason"], &line["ident"]), (&"slow for too long".into(), &"dev".into()));
    }
    running.stop("-TERM").await;
    let line = lines.iter().find(|line| line["message"] == "messages dropped for a slow subscriber").expect("a line");
    assert!(line["channel"] == "c" && line["dropped"].as_u64() > Some(0), "{line:?}");
    let again = "reconnecting slow consumer: publishers do not wait for it (probation)";
    // The subscriber, and the publisher that has ident and address in common with it.
    assert_eq!(lines.iter().filter(|line| line["message"] == again).count(), 2);
}

/// Reads up to the line that says this, and keeps all of them.
async fn next(log: &mut Lines<BufReader<ChildStderr>>, lines: &mut Vec<Object>, message: &str) -> Object {
    loop {
        let line = within(log.next_line()).await.unwrap().expect(message);
        let object: Object = serde_json::from_str(&line).expect(&line);
        lines.push(object.clone());
        if object["message"] == message {
            return object;
        }
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
        assert_eq!(stderr.contains("closed before authentication"), is_logged, "{stderr}");
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

/// Connects from an address of its own, as there is one line for each; says something, and waits for the end.
async fn stray(from: u8, to: SocketAddr, said: &[u8]) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 3, from], 0))).unwrap();
    let mut stream = within(socket.connect(to)).await.unwrap();
    within(stream.write_all(said)).await.unwrap();
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn clients_of_other_protocols_are_logged_with_a_hint() {
    let (pki, other) = (Pki::new(), Pki::new());
    let keys = file(".json", "{}");
    let secure = pki.endpoint().to_string();
    let arguments = ["--auth", keys.to_str().unwrap(), "--handshake-timeout=1", "-e", "tcp:interface=127.0.0.1:port=0"];
    let mut running = Running::start(command(&[&arguments[..], &["-e", &secure]].concat())).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let secure: SocketAddr = line.strip_prefix("listening on ").unwrap().parse().unwrap();
    let plain = running.addr;
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    let proxy = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let stray_to_plain = [(hello, 1), (b"GET / HTTP/", 2), (b"SSH-2.0-Ope", 3)];
    for (said, from) in stray_to_plain {
        stray(from, plain, said).await;
        if from > 1 {
            stray(from + 10, secure, said).await;
        }
    }
    stray(4, plain, proxy).await;
    stray(14, secure, proxy).await;
    stray(15, secure, b"\0\0\0\x20\x02\x07mallory01234567890123456789").await;
    // It waits for INFO.
    stray(16, secure, b"").await;
    // A client that trusts another authority; it is alone at 127.0.0.1.
    let error = TlsPeer::try_dev(secure, &other.client(None)).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
    let (_, log) = running.stop("-TERM").await;
    let expected = [
        (1, "hint=\"the client speaks TLS: it needs an endpoint tls:, or has to do without\""),
        (2, "hint=\"the client speaks HTTP: it looks for something else at this port\""),
        (3, "hint=\"the client speaks SSH: it looks for something else at this port\""),
        (4, "hint=\"a proxy sends its header: the endpoint needs proxy=yes and proxyfrom=ADDRESS\""),
        (12, "cause=the client speaks HTTP: it looks for something else at this port"),
        (13, "cause=the client speaks SSH: it looks for something else at this port"),
        (14, "cause=a proxy sends its header: the endpoint needs proxy=yes and proxyfrom=ADDRESS"),
        (15, "cause=the client speaks hpfeeds without TLS: it needs TLS (--tlscert FILE), or an endpoint tcp:"),
        (16, "cause=no TLS within 1 s: a client without TLS waits for the broker to begin"),
    ];
    for (from, what) in expected {
        let line = log.lines().find(|line| line.contains(&format!("handshake failed peer=127.0.3.{from}:")));
        assert!(line.is_some_and(|line| line.contains(what)), "{from}: {what} is missing in {log}");
    }
    let untrusted = log.lines().find(|line| line.contains("TLS handshake failed peer=127.0.0.1:")).unwrap();
    assert!(untrusted.contains("cause=the client does not trust the certificate ("), "{untrusted}");
}

#[tokio::test]
async fn faults_at_an_endpoint_for_proxies_are_logged() {
    let keys = file(".json", r#"{"a": {"owner": "o", "secret": "s", "pubchans": [], "subchans": []}}"#);
    let endpoint = "tcp:interface=127.0.0.1:port=0:proxy=yes:proxyfrom=127.0.3.0/28,127.0.0.1";
    let running = Running::start(command(&["--auth", keys.to_str().unwrap(), "-e", endpoint])).await;
    stray(1, running.addr, b"\0\0\0\x20\x02\x07mallory01234567890123456789").await;
    stray(2, running.addr, b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n").await;
    stray(77, running.addr, b"").await;
    let mut stream = within(tokio::net::TcpStream::connect(running.addr)).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 20000\r\n").await.unwrap();
    Peer::greeted(stream).await.authenticate("a", "wrong").await.expect_error("Authentication failed for a").await;
    let (_, log) = running.stop("-TERM").await;
    let none = "no header of the PROXY protocol: does the proxy send one (haproxy: send-proxy or send-proxy-v2)?";
    for (line, what) in [
        ("PROXY header failed proxy=127.0.3.1:", none),
        (
            "PROXY header failed proxy=127.0.3.2:",
            "cause=the header of the PROXY protocol has no valid addresses and ports",
        ),
        ("connections were turned away ip=127.0.3.77", "Not from a proxy that proxyfrom= of the endpoint names"),
        ("authentication failed: wrong secret ident=\"a\" peer=192.0.2.1:4711", ""),
    ] {
        let found = log.lines().find(|logged| logged.contains(line));
        assert!(found.is_some_and(|found| found.contains(what)), "{line} {what} is missing in {log}");
    }
}
