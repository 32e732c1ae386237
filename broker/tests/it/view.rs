//! The operator's snapshot: states of sensors, presence through a restart, incidents, and the books.

use std::{fs, path::Path, time::Duration};

use hpfeeds::wire::extension::{ClientHello, Flags};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, IncidentKind, Key, Sensor, SlowPolicy, State};

use crate::{
    extension_client::{Scripted, hello},
    support::{Peer, builder, publish, start, until},
};

const DAY: u64 = 24 * 60 * 60;

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn sensor(broker: &Broker, ident: &str) -> Option<Sensor> {
    broker.snapshot().sensors.rows.into_iter().find(|sensor| sensor.ident == ident)
}

fn state(broker: &Broker, ident: &str) -> Option<State> {
    sensor(broker, ident).map(|sensor| sensor.state)
}

/// Stores the presence of idents that are known for ten days: what comes before is the entry of each.
fn remember(folder: &Path, idents: &[(&str, serde_json::Value)]) {
    let first = now() - 10 * DAY;
    let entries = idents.iter().map(|(ident, more)| {
        let (gaps, peaks) = ([0; 7], [60; 7]);
        let mut entry = serde_json::json!({
            "first": first, "published": first, "connected": first, "left": now() - 60, "reason": "shutdown",
            "day": now() / DAY, "gaps": gaps, "peaks": peaks,
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ((*ident).to_owned(), entry)
    });
    let entries: serde_json::Map<_, _> = entries.collect();
    let whole = serde_json::json!({"version": 1, "idents": entries});
    fs::write(folder.join("presence.json"), whole.to_string()).unwrap();
}

fn fleet(folder: &Path, idents: &[&str]) -> BrokerBuilder {
    let keys = idents.iter().map(|ident| Key::new(*ident, "s").unwrap().publish(["a"]).unwrap());
    let builder = keys.fold(builder(), BrokerBuilder::user);
    builder.data_dir(folder).auth_failure_delay(Duration::ZERO)
}

#[tokio::test]
async fn each_sensor_has_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = serde_json::json!({"quiet": 1300, "gaps": [5, 600, 0, 0, 0, 0, 0]});
    let patient = serde_json::json!({"quiet": 1300, "gaps": [5, 700, 0, 0, 0, 0, 0]});
    let plain = serde_json::json!({});
    remember(
        folder.path(),
        &[("steady", plain.clone()), ("quiet", quiet), ("patient", patient), ("loud", plain.clone()), ("away", plain)],
    );
    let broker = start(fleet(folder.path(), &["steady", "quiet", "patient", "loud", "away", "new", "absent"])).await;
    let addr = broker.local_addr();
    let mut peers = Vec::new();
    for ident in ["steady", "quiet", "patient", "loud", "new"] {
        peers.push(Peer::login(addr, ident, "s").await);
    }
    peers[0].send(publish("steady", "a", "x")).await;
    // A flood, also half a minute after the minute in which it was.
    for _ in 0..2000 {
        peers[3].send(publish("loud", "a", "x")).await;
    }
    let expected = [
        ("steady", State::Ok),
        ("quiet", State::Silent),
        ("patient", State::Ok),
        ("loud", State::Flood),
        ("away", State::Gone),
        ("new", State::Learning),
        ("absent", State::Never),
    ];
    until(|| expected.iter().all(|(ident, expected)| state(&broker, ident) == Some(*expected))).await;
    let snapshot = broker.snapshot();
    // alice and dev have never connected, either.
    let states = snapshot.states;
    assert_eq!((states.gone, states.silent, states.flood, states.never), (1, 1, 1, 3));
    assert_eq!((states.learning, states.ok), (1, 2));
    assert!(snapshot.sensors.rows.is_sorted_by_key(|sensor| sensor.state), "the worst come first");
    let away = sensor(&broker, "away").unwrap();
    assert_eq!((away.since, away.reason), (away.left, Some("shutdown")));
    // A sensor that stops is gone at once, for the reason that its connection ended for.
    drop(peers.remove(0));
    until(|| state(&broker, "steady") == Some(State::Gone)).await;
    let steady = sensor(&broker, "steady").unwrap();
    assert!(steady.published >= Some(now() - 60) && steady.left >= Some(now() - 60), "{steady:?}");
    assert!(matches!(steady.reason, Some("closed" | "broken")), "{steady:?}");
    drop(peers);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_restart_does_not_forget_since_when_a_sensor_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(fleet(folder.path(), &["one", "two"])).await;
    let mut one = Peer::login(broker.local_addr(), "one", "s").await;
    one.send(publish("one", "a", "x")).await;
    one.confirm().await;
    let (mut two, _) = Scripted::connect(broker.local_addr())
        .await
        .login("two", "s", ClientHello { software: "cowrie/2.5", ..hello(Flags::default(), 0, 0) })
        .await;
    until(|| sensor(&broker, "one").is_some_and(|one| one.left.is_some() && one.published.is_some())).await;
    until(|| sensor(&broker, "two").is_some_and(|two| two.software.is_some())).await;
    let before = [sensor(&broker, "one").unwrap(), sensor(&broker, "two").unwrap()];
    assert_eq!((before[1].state, before[1].connections), (State::Learning, 1));
    broker.shutdown().await;
    two.finish().await;
    let broker = start(fleet(folder.path(), &["one", "two"])).await;
    let after = [sensor(&broker, "one").unwrap(), sensor(&broker, "two").unwrap()];
    assert_eq!((after[0].since, after[0].published), (before[0].left, before[0].published));
    assert_eq!((after[1].software.as_deref(), after[1].reason), (Some("cowrie/2.5"), Some("shutdown")));
    assert_eq!((after[1].state, &after[1].peer), (State::Gone, &before[1].peer));
    broker.shutdown().await;
}

#[tokio::test]
async fn faults_of_clients_are_incidents() {
    let broker = start(builder().auth_failure_delay(Duration::ZERO)).await;
    let addr = broker.local_addr();
    for _ in 0..3 {
        Peer::login(addr, "alice", "x").await.expect_error("Authentication failed for alice").await;
    }
    Peer::login(addr, "mallory", "x").await.expect_error("Authentication failed for mallory").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send(publish("alice", "forbidden", "x")).await;
    alice.expect_error("Authkey not allowed to pub here. ident=alice, chan=forbidden").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send(publish("dev", "a", "x")).await;
    alice.expect_error("Invalid authkey in message, ident=dev").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send_raw(b"\xff\xff\xff\xff\x03").await;
    let _ = alice.next().await;
    let mut stranger = Peer::connect(addr).await;
    stranger.send(publish("dev", "a", "x")).await;
    stranger.expect_error("First message was not AUTH").await;
    until(|| broker.snapshot().incidents.total == 6).await;
    let incidents = broker.snapshot().incidents.rows;
    let of = |kind| incidents.iter().find(|incident| incident.kind == kind).unwrap();
    let wrong = of(IncidentKind::WrongSecret);
    assert_eq!((wrong.ident.as_deref(), wrong.count, &*wrong.text), (Some("alice"), 3, "wrong secret"));
    assert!(wrong.first <= wrong.last && wrong.source.is_loopback());
    assert_eq!(of(IncidentKind::UnknownIdent).ident.as_deref(), Some("mallory"));
    assert_eq!(of(IncidentKind::DeniedPublish).channel.as_deref(), Some("forbidden"));
    assert_eq!(of(IncidentKind::OthersName).text, "Invalid authkey in message, ident=dev");
    assert_eq!(of(IncidentKind::NoAuth).ident, None);
    assert!(of(IncidentKind::BadFrame).text.contains("is too long"), "{incidents:?}");
    broker.shutdown().await;
}

/// Consumers that read, that do not read, that come late and that leave.
#[tokio::test]
async fn the_books_add_up_whatever_consumers_do() {
    for policy in [SlowPolicy::Disconnect, SlowPolicy::DropOldest] {
        let small = builder().low_mark(20_000).high_mark(60_000).floor_window(Duration::from_millis(200));
        let broker = start(small.slow_policy(policy)).await;
        let mut reader = Peer::subscriber(&broker, &["a"]).await;
        let stuck = Peer::narrow_subscriber(&broker, &["a"]).await;
        let reading = tokio::spawn(async move {
            let mut count = 0;
            while let Some(frame) = reader.next().await {
                if frame == publish("dev", "a", "end") {
                    break;
                }
                count += 1;
            }
            (count, reader)
        });
        let mut dev = Peer::dev(&broker).await;
        for _ in 0..2000 {
            dev.send(publish("dev", "a", vec![b'x'; 5000])).await;
        }
        dev.send(publish("dev", "a", "end")).await;
        let (count, reader) = reading.await.unwrap();
        assert_eq!(count, 2000);
        let books = broker.snapshot().books;
        assert_eq!((books.difference(), books.cut_off), (0, 0), "{books:?}");
        assert!(books.dropped > 0 && books.copies >= 4002, "{books:?}");
        let dropped = || {
            let incidents = broker.snapshot().incidents.rows;
            incidents.iter().find(|incident| incident.kind == IncidentKind::Dropped).map_or(0, |dropped| dropped.count)
        };
        assert!((1..=books.dropped).contains(&dropped()), "told once a second at most");
        drop((dev, stuck, reader));
        until(|| broker.stats().connections == 0).await;
        let books = broker.snapshot().books;
        until(|| dropped() == books.dropped).await;
        assert_eq!((books.difference(), books.queued), (0, 0), "{books:?}");
        assert_eq!(books.copies, books.delivered + books.dropped + books.cut_off);
        let stats = broker.shutdown().await;
        assert_eq!((stats.delivered, stats.dropped, stats.discarded), (books.delivered, books.dropped, books.cut_off));
    }
}

#[tokio::test]
async fn consumers_and_channels_are_listed() {
    let broker = start(builder()).await;
    let _consumer = Peer::subscriber(&broker, &["a", "b"]).await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    for _ in 0..3 {
        alice.send(publish("alice", "a", "four")).await;
    }
    alice.confirm().await;
    let snapshot = broker.snapshot();
    let [consumer] = &snapshot.consumers.rows[..] else { panic!("{:?}", snapshot.consumers) };
    assert_eq!((&*consumer.ident, consumer.state, consumer.subscriptions), ("dev", State::Ok, 2));
    let channel = snapshot.channels.rows.iter().find(|row| row.channel == "a").unwrap();
    assert_eq!((channel.messages, channel.bytes, channel.publishers, channel.subscriptions), (3, 12, 1, 1));
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(json["consumers"]["rows"][0]["state"], "ok");
    assert_eq!(json["books"]["copies"], snapshot.books.copies);
    broker.shutdown().await;
}

#[tokio::test]
async fn certificates_say_when_they_expire() {
    let pki = crate::pki::Pki::new();
    let tls = Broker::dev_builder().endpoint(Endpoint::tcp("127.0.0.1", 0)).endpoint(pki.endpoint());
    let broker = start(tls).await;
    let metrics = broker.metrics(hpfeeds_broker::Exposition::Prometheus);
    let name = "hpfeeds_broker_certificate_expiry_timestamp_seconds{";
    let lines: Vec<_> = metrics.lines().filter(|line| line.starts_with(name)).collect();
    // 4096-01-01 is the default of the certificates here.
    assert_eq!(lines, [format!("{name}endpoint=\"{}\"}} 67090118400", broker.local_addrs()[1])]);
    broker.shutdown().await;
}
