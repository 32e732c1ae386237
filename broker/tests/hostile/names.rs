//! Names that want to be more than names: in the log, in metrics, and on the terminal of who reads them.

use tokio::io::AsyncWriteExt as _;

use crate::{
    scrape::{self, Exposed},
    support::{Peer, publish, subscribe},
    target::{Bound, Target, dial, login, whole},
};

/// Names that forge lines, clear terminals, turn text around, break out of quotes, or are as long as
/// can be.
fn evil() -> Vec<String> {
    let mut names: Vec<String> = [
        "\n",
        "\r\n2026-01-01T00:00:00.000000Z  INFO connected ident=\"root\"",
        "x\" ident=\"root",
        "\\",
        "\\\" \\n \\u{1b}",
        "\x1b[2J\x1b[1;1H\x1b]0;owned\x07",
        "\u{9b}2J",
        "\u{202e}gnp.exe",
        "\u{2028}line\u{2029}paragraph\u{85}next",
        "\u{feff}\u{200b}\u{e0001}",
        "\0",
        "\x7f\x08\x08\x08",
        "{\"level\":\"ERROR\"}",
        "\"}\n{\"timestamp\":\"x\"",
        "a\",owner=\"b\"} 1e9\nhpfeeds_broker_connection_made_total 7\n# EOF",
        "%s%n{}${jndi:ldap://x}",
        "é\u{301}🦀",
        "\t\x0b\x0c",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    names.pop();
    names.push("x".repeat(255));
    names.push("\n".repeat(255));
    names.push("\u{1b}".repeat(255));
    names.push("🦀".repeat(63));
    names
}

/// Each of these idents has a key, which allows nothing but to publish to the channel of its own name.
fn keys() -> String {
    let mut keys = serde_json::json!({
        "honest": {"owner": "honest", "secret": "s3cret", "pubchans": ["honest"], "subchans": ["honest"]},
        "dev": {"owner": "dev", "secret": "dev", "pubchans": ["*"], "subchans": ["*"]},
        "mallory": {"owner": "mallory", "secret": "stolen", "pubchans": ["*"], "subchans": ["*"]},
        "weak": {"owner": "weak", "secret": "stolen", "pubchans": ["a"], "subchans": ["b"]},
    });
    for name in evil() {
        let key = serde_json::json!({"owner": name.clone(), "secret": "stolen", "pubchans": [name], "subchans": []});
        keys.as_object_mut().unwrap().insert(name.clone(), key);
    }
    keys.to_string()
}

/// Everything that puts a name somewhere. Returns how many connections there were.
async fn attack(target: &Target) -> usize {
    let names = evil();
    for (n, name) in names.iter().enumerate() {
        // Each from its own address, so that each has a line.
        let from = [127, 30, 0, u8::try_from(n).unwrap()];
        let failed = format!("Authentication failed for {name}");
        Peer::greeted(dial(from, target.plain).await).await.authenticate(name, "x").await.expect_error(failed).await;
        // As a frame that is refused, which the reason repeats.
        let mut stream = dial(from, target.plain).await;
        stream.write_all(name.as_bytes()).await.unwrap();
        drop(stream);
        let from = [127, 31, 0, u8::try_from(n).unwrap()];
        for frame in [publish("weak", name, ""), subscribe("weak", name), publish(name, "a", "")] {
            let mut peer = login(from, target.plain, "weak", "stolen").await;
            peer.send(frame).await;
            peer.next().await.unwrap();
        }
        // Labels, as who has the key may have them.
        let mut peer = login(from, target.plain, "mallory", "stolen").await;
        peer.send(subscribe("mallory", name)).await;
        peer.send(publish("mallory", name, "")).await;
        assert_eq!(peer.next().await, Some(publish("mallory", name, "")));
        let mut peer = login(from, target.plain, name, "stolen").await;
        peer.send(publish(name, name, "")).await;
        peer.send(subscribe(name, name)).await;
        peer.next().await.unwrap();
    }
    names.len() * 7
}

/// The exposition can be parsed, and holds the names as they are.
async fn check_metrics(target: &Target) {
    for accept in ["", "Accept: application/openmetrics-text\r\n"] {
        let answer = scrape::request(target.exporter, "GET", "/metrics", accept).await;
        let exposed = Exposed::parse(&answer.body);
        for line in answer.body.lines() {
            assert!(line.starts_with('#') || line.starts_with("hpfeeds_") || line.starts_with("process_"), "{line:?}");
        }
        let channels: Vec<_> = exposed.select("hpfeeds_broker_receive_publish_count_total{ident=\"mallory\"}");
        for name in evil() {
            assert!(channels.iter().any(|sample| sample.labels["chan"] == name), "{name:?}");
            let ready = exposed.select("hpfeeds_broker_connection_ready_total");
            assert_eq!(
                ready.iter().find(|sample| sample.labels["ident"] == name).map(|sample| whole(sample.value)),
                Some(1),
                "{name:?}"
            );
        }
    }
}

#[tokio::test]
async fn names_in_text() {
    let mut target = Target::with_keys(&keys(), &["--log-level=debug"]).await;
    let connections = attack(&target).await;
    check_metrics(&target).await;
    target
        .survives(
            &format!("{connections} connections with evil names"),
            Bound { active: 8, idle: 50, ..Bound::default() },
        )
        .await;
    let log = target.stops().await;
    for line in &log {
        assert!(line.chars().all(|char| !char.is_control()), "{line:?}");
        assert!(!line.contains(['\u{202e}', '\u{2028}', '\u{2029}', '\u{200b}', '\u{feff}', '\u{e0001}']), "{line:?}");
        // A time, and a level: no line has begun in a name.
        let mut words = line.split_whitespace();
        assert!(words.next().unwrap().starts_with('2'), "{line:?}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&words.next().unwrap()), "{line:?}");
        assert!(line.len() < 8192, "{} bytes", line.len());
    }
    // The forged words are there, but inside of quotes.
    assert!(log.iter().any(|line| line.contains(r#"ident="x\" ident=\"root""#)), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains(" ident=\"root\" ")), "{log:#?}");
}

#[tokio::test]
async fn names_in_json() {
    let mut target = Target::with_keys(&keys(), &["--log-level=debug", "--log-format=json"]).await;
    let connections = attack(&target).await;
    check_metrics(&target).await;
    target
        .survives(
            &format!("{connections} connections with evil names, JSON"),
            Bound { active: 8, idle: 50, ..Bound::default() },
        )
        .await;
    let log = target.stops().await;
    let mut failed = Vec::new();
    for line in &log {
        assert!(line.bytes().all(|byte| byte >= b' ' && byte != 0x7f), "{line:?}");
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let event = event.as_object().unwrap();
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        if event["message"].as_str().unwrap().starts_with("authentication failed") {
            failed.push(event["ident"].as_str().unwrap().to_owned());
        }
    }
    let mut names = evil();
    names.sort();
    failed.sort();
    assert_eq!(failed, names, "each name is what was sent");
}
