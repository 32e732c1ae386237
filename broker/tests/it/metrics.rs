//! The exporter, over real HTTP.
#![allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "counts are exact up to 2^53")]

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr, time::Duration};

use hpfeeds::wire::Frame;
use hpfeeds_broker::{Broker, Exposition, Key, StartError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    scrape::{Exposed, exporting, get, lively, request, scrape},
    support::{Peer, builder, bytes, publish, start, subscribe, until, within},
};

#[tokio::test]
async fn the_names_of_the_python_broker_have_its_labels_and_values() {
    let (broker, mut subscriber) = lively().await;
    until(|| broker.stats().connections == 1).await;
    let exposed = scrape(&broker).await;
    let sum = |selector: &str| exposed.sum(selector);
    assert_eq!(sum("hpfeeds_broker_client_connections"), Some(1.0));
    assert_eq!(sum("hpfeeds_broker_connection_made_total"), Some(2.0));
    assert_eq!(sum(r#"hpfeeds_broker_connection_ready_total{ident="alice"}"#), Some(1.0));
    assert_eq!(sum(r#"hpfeeds_broker_connection_lost_total{ident="alice"}"#), Some(1.0));
    assert_eq!(sum(r#"hpfeeds_client_authenticated_connections{ident="dev",owner="dev"}"#), Some(1.0));
    assert_eq!(sum(r#"hpfeeds_client_authenticated_connections{ident="alice"}"#), None);
    assert_eq!(sum(r#"hpfeeds_broker_subscriptions{ident="dev",chan="a"}"#), Some(1.0));
    assert_eq!(sum(r#"hpfeeds_broker_subscriptions{ident="dev",chan="q\"\\\n"}"#), Some(1.0));
    assert_eq!(sum(r#"hpfeeds_broker_subscriptions{ident="dev",chan="private"}"#), Some(0.0));
    assert_eq!(sum(r#"hpfeeds_broker_receive_publish_count_total{ident="alice",chan="a"}"#), Some(5.0));
    let size = |part: &str| sum(&format!("hpfeeds_broker_receive_publish_size_{part}"));
    assert_eq!(size(r#"bucket{ident="alice",chan="a",le="1024.0"}"#), Some(3.0));
    assert_eq!(size(r#"bucket{ident="alice",chan="a",le="2048.0"}"#), Some(4.0));
    assert_eq!(size(r#"bucket{ident="alice",chan="a",le="4096.0"}"#), Some(4.0));
    assert_eq!(size(r#"bucket{ident="alice",chan="a",le="8192.0"}"#), Some(5.0));
    assert_eq!(size(r#"bucket{ident="alice",chan="a",le="+Inf"}"#), Some(5.0));
    assert_eq!(size(r#"count{ident="alice",chan="a"}"#), Some(5.0));
    assert_eq!(size(r#"sum{ident="alice",chan="a"}"#), Some(7059.0));
    // Header, two counted names and payload.
    let wire = 5.0 * (5.0 + 6.0 + 2.0) + 7059.0;
    assert_eq!(sum(r#"hpfeeds_broker_connection_receive_buffer_fill_total{ident="alice"}"#), Some(wire));
    let settled = ("settled".len() as f64, (5 + 4 + 8 + "settled".len()) as f64);
    let quoted = ("quoted".len() as f64, (5 + 4 + 5 + "quoted".len()) as f64);
    let filled = 7059.0 + settled.0 + quoted.0;
    assert_eq!(sum(r#"hpfeeds_broker_connection_send_buffer_fill_total{ident="dev"}"#), Some(filled));
    let drained = wire + settled.1 + quoted.1;
    assert_eq!(sum(r#"hpfeeds_broker_connection_send_buffer_drain_total{ident="dev"}"#), Some(drained));
    assert_eq!(sum(r#"hpfeeds_broker_connection_send_buffer_size{ident="dev"}"#), Some(0.0));
    // Half a message.
    subscriber.send_raw(b"\0\0\0\x64\x03\x03dev").await;
    within(async {
        while scrape(&broker).await.sum(r#"hpfeeds_broker_connection_receive_buffer_size{ident="dev"}"#) != Some(9.0) {}
    })
    .await;
    broker.shutdown().await;
}

#[tokio::test]
async fn a_stranger_becomes_no_label() {
    let broker = start(exporting(builder().auth_failure_delay(Duration::ZERO))).await;
    let addr = broker.local_addr();
    Peer::login(addr, "stranger", "x").await.expect_error("Authentication failed for stranger").await;
    Peer::login(addr, "alice", "x").await.expect_error("Authentication failed for alice").await;
    let mut rude = Peer::connect(addr).await;
    rude.send(subscribe("rude", "a")).await;
    rude.expect_error("First message was not AUTH").await;
    let mut garbage = Peer::connect(addr).await;
    garbage.send_raw(&[0, 0, 0, 1, 0]).await;
    assert!(matches!(garbage.next().await, Some(Frame::Error { .. })));
    Peer::connect(addr).await.confirm().await;
    let mut mallory = Peer::login(addr, "alice", "s3cret").await;
    mallory.send(publish("mallory", "a", "x")).await;
    mallory.expect_error("Invalid authkey in message, ident=mallory").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send(publish("alice", "secret-channel", "x")).await;
    alice.expect_error("Authkey not allowed to pub here. ident=alice, chan=secret-channel").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send(subscribe("somebody", "secret-channel")).await;
    alice.expect_error("Authkey not allowed to sub here. ident=alice, chan=secret-channel").await;
    let mut alice = Peer::login(addr, "alice", "s3cret").await;
    alice.send_raw(&[0, 0, 0, 1, 0]).await;
    assert!(matches!(alice.next().await, Some(Frame::Error { .. })));
    drop((alice, garbage));
    until(|| broker.stats().connections == 0).await;
    let exposed = scrape(&broker).await;
    let errors: BTreeSet<_> = exposed
        .select("hpfeeds_broker_connection_error_total")
        .iter()
        .map(|sample| (&*sample.labels["ident"], &*sample.labels["category"], sample.value.to_string()))
        .collect();
    let expected = [
        ("", "invalid-first-message"),
        ("", "invalid-ident"),
        ("", "invalid-secret"),
        ("alice", "ident-mismatch-pub"),
        ("alice", "invalid-message"),
        ("alice", "no-pub-permission"),
        ("alice", "no-sub-permission"),
    ];
    assert_eq!(errors, expected.map(|(ident, category)| (ident, category, "1".to_owned())).into());
    let failures = |reason| exposed.sum(&format!(r#"hpfeeds_broker_handshake_failures_total{{reason="{reason}"}}"#));
    let reasons = ["unknown-ident", "wrong-secret", "invalid-first-message", "malformed", "closed", "timeout"];
    assert_eq!(reasons.map(failures), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0].map(Some));
    assert_eq!(exposed.sum(r#"hpfeeds_broker_connection_lost_total{ident=""}"#), Some(5.0));
    assert_eq!(exposed.sum(r#"hpfeeds_broker_connection_lost_total{ident="alice"}"#), Some(4.0));
    assert_eq!(exposed.sum("hpfeeds_broker_authentication_seconds_count"), Some(6.0));
    assert_eq!(exposed.sum("hpfeeds_broker_refused_sessions_total"), Some(4.0));
    let labels: BTreeSet<_> = exposed.samples.iter().flat_map(|sample| sample.labels.values()).collect();
    for stranger in ["stranger", "rude", "mallory", "somebody", "secret-channel"] {
        assert!(!labels.contains(&stranger.to_owned()), "{stranger}");
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn limits_are_told() {
    let broker = start(exporting(builder().max_connections(1).max_buffered(12_345))).await;
    let addr = broker.local_addr();
    Peer::login(addr, "alice", "x").await.expect_error("Authentication failed for alice").await;
    until(|| broker.stats().connections == 0).await;
    // It waits for its greeting, and gives way to another one that does.
    let mut turned_away = within(TcpStream::connect(addr)).await.unwrap();
    until(|| broker.stats().connections == 1).await;
    let _waiting = within(TcpStream::connect(addr)).await.unwrap();
    let mut error = Vec::new();
    within(turned_away.read_to_end(&mut error)).await.unwrap();
    assert!(error.ends_with(b"Too many connections"));
    let exposed = within(async {
        loop {
            let exposed = scrape(&broker).await;
            if exposed.sum("hpfeeds_broker_throttled_connections_total") == Some(2.0) {
                return exposed;
            }
        }
    })
    .await;
    assert_eq!(exposed.sum("hpfeeds_broker_rejected_connections_total"), Some(1.0));
    assert_eq!(exposed.sum("hpfeeds_broker_max_connections"), Some(1.0));
    assert_eq!(exposed.sum("hpfeeds_broker_queued_bytes_limit"), Some(12_345.0));
    let state = |state| exposed.sum(&format!(r#"hpfeeds_broker_connections{{endpoint="{addr}",state="{state}"}}"#));
    assert_eq!(["handshake", "session", "closing"].map(state), [1.0, 0.0, 0.0].map(Some));
    drop(broker);
}

#[tokio::test]
async fn a_slow_subscriber_is_told() {
    let slow = builder().low_mark(0).high_mark(100_000).floor_window(Duration::from_millis(1));
    let broker = start(exporting(slow.slow_deadline(Duration::from_millis(1)))).await;
    let stuck = Peer::narrow_subscriber(&broker, &["a"]).await;
    let mut publisher = Peer::dev(&broker).await;
    within(async {
        while broker.stats().slow_disconnects == 0 {
            publisher.send(publish("dev", "a", vec![0; 64 * 1024])).await;
        }
    })
    .await;
    publisher.confirm().await;
    drop(stuck);
    until(|| broker.stats().connections == 0).await;
    let (exposed, stats) = (scrape(&broker).await, broker.stats());
    assert_eq!(exposed.sum(r#"hpfeeds_broker_dropped_messages_total{ident="dev"}"#), Some(stats.dropped as f64));
    assert!(stats.dropped > 0);
    assert_eq!(exposed.sum("hpfeeds_broker_slow_disconnects_total"), Some(1.0));
    let start = r#"hpfeeds_broker_connection_send_buffer_deadline_start_total{ident="dev"}"#;
    let recover = r#"hpfeeds_broker_connection_send_buffer_deadline_recover_total{ident="dev"}"#;
    assert_eq!(exposed.sum(start).unwrap() - exposed.sum(recover).unwrap(), 1.0);
    let expired = r#"hpfeeds_broker_connection_error_total{ident="dev",category="deadline-timer-expired"}"#;
    assert_eq!(exposed.sum(expired), Some(1.0));
    assert!(exposed.sum("hpfeeds_broker_publisher_stall_seconds_total") > Some(0.0));
    assert_eq!(exposed.sum("hpfeeds_broker_stalled_publishers"), Some(0.0));
    assert_eq!(exposed.sum("hpfeeds_broker_queued_bytes"), Some(0.0));
    broker.shutdown().await;
}

#[tokio::test]
async fn unrouted_messages_are_counted_by_channel() {
    let broker = start(exporting(builder())).await;
    let send = async |ident, secret, frames: Vec<Frame>| {
        let mut peer = Peer::login(broker.local_addr(), ident, secret).await;
        peer.send_raw(&bytes(frames)).await;
        peer.confirm().await;
    };
    send("alice", "s3cret", (0..7).map(|_| publish("alice", "a", "x")).collect()).await;
    // By turns, and long.
    send("dev", "dev", (0..6).map(|n| publish("dev", ["a", "b"][n % 2], vec![0; 30_000])).collect()).await;
    let told = async || {
        let exposed = scrape(&broker).await;
        let name = "hpfeeds_broker_unrouted_messages_total";
        [format!("{name}{{chan=\"a\"}}"), format!("{name}{{chan=\"b\"}}"), name.to_owned()].map(|sum| exposed.sum(&sum))
    };
    assert_eq!(told().await, [10.0, 3.0, 13.0].map(Some));
    let subscriber = Peer::subscriber(&broker, &["a"]).await;
    let before = broker.stats();
    assert_eq!((before.unrouted, before.received_messages - before.delivered), (13, 13));
    send("alice", "s3cret", (0..5).map(|_| publish("alice", "a", "y")).collect()).await;
    send("dev", "dev", (0..4).map(|n| publish("dev", ["b", "a"][n % 2], "y")).collect()).await;
    let stats = broker.stats();
    assert_eq!((stats.unrouted, stats.delivered - before.delivered), (15, 7));
    assert_eq!(told().await, [10.0, 5.0, 15.0].map(Some));
    drop(subscriber);
    broker.shutdown().await;
}

#[tokio::test]
async fn bytes_held_by_a_stalled_publisher_are_counted_as_received() {
    // No subscriber is slow for an hour, so publishers wait.
    let broker = start(exporting(builder().low_mark(0).floor_window(Duration::from_secs(3600)))).await;
    let _stuck = Peer::narrow_subscriber(&broker, &["a"]).await;
    let mut publisher = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    let message = bytes([publish("alice", "a", vec![0; 900_000])]);
    // The first is queued, the second waits.
    publisher.send_raw(&message.repeat(2)).await;
    let told = async |name: &str| scrape(&broker).await.sum(&format!("hpfeeds_broker_{name}"));
    let received = (2 * message.len()) as f64;
    within(async {
        while told(r#"connection_receive_buffer_fill_total{ident="alice"}"#).await != Some(received)
            || told("stalled_publishers").await != Some(1.0)
        {}
    })
    .await;
    let left = told(r#"connection_receive_buffer_size{ident="alice"}"#).await;
    assert_eq!(left, Some(message.len() as f64));
    drop(broker);
}

#[tokio::test]
async fn totals_are_those_of_stats() {
    let (broker, _subscriber) = lively().await;
    let (exposed, stats) = (scrape(&broker).await, broker.stats());
    let sum = |name: &str| exposed.sum(&format!("hpfeeds_broker_{name}"));
    assert_eq!(sum("received_messages_total"), Some(stats.received_messages as f64));
    assert_eq!(sum("received_bytes_total"), Some(stats.received_bytes as f64));
    assert_eq!(sum("sent_bytes_total"), Some(stats.sent_bytes as f64));
    let delivered = sum("forwarded_messages_total").unwrap() - sum("withdrawn_messages_total").unwrap();
    assert_eq!(delivered, stats.delivered as f64);
    assert_eq!(sum("discarded_messages_total"), Some(stats.discarded as f64));
    assert_eq!(sum("unrouted_messages_total"), Some(stats.unrouted as f64));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(sum(&format!(r#"build_info{{version="{version}"}}"#)), Some(1.0));
    if cfg!(target_os = "linux") {
        let started = exposed.sum("process_start_time_seconds").unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((started..started + 3600.0).contains(&now), "{started} {now}");
        assert!(exposed.sum("process_open_fds") > Some(5.0));
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn open_metrics_is_for_those_who_ask() {
    let (broker, _subscriber) = lively().await;
    let addr = broker.exporter_addr().unwrap();
    let prometheus = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5\r\n";
    let answer = request(addr, "GET", "/metrics", prometheus).await;
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    assert!(answer.body.ends_with("\n# EOF\n"));
    let open = Exposed::parse(&answer.body);
    for accept in ["", "Accept: text/plain\r\n", "Accept: application/openmetrics-text;q=0\r\n", "Accept: */*\r\n"] {
        let answer = request(addr, "GET", "/metrics", accept).await;
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
        let plain = Exposed::parse(&answer.body);
        let names = |exposed: &Exposed| -> Vec<_> {
            exposed.samples.iter().map(|sample| (sample.name.clone(), sample.labels.clone())).collect()
        };
        assert_eq!(names(&open), names(&plain));
        for (name, kind) in &plain.types {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert_eq!(open.types.get(name.strip_suffix("_total").unwrap_or(name)), Some(kind));
        }
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let broker = start(exporting(builder())).await;
    let addr = broker.exporter_addr().unwrap();
    let health = get(&broker, "/healthz").await;
    assert_eq!((health.status, &*health.body), (200, "{}"));
    assert!(health.head.contains("content-type: application/json"));
    assert_eq!(get(&broker, "/readyz").await.status, 200);
    assert_eq!(get(&broker, "/metrics?x=y").await.status, 200);
    for path in ["/", "/metrics/", "/favicon.ico"] {
        assert_eq!(get(&broker, path).await.status, 404, "{path}");
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        for method in ["POST", "DELETE", "OPTIONS"] {
            let answer = request(addr, method, path, "Content-Length: 0\r\n").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get, head"));
        }
        let head = request(addr, "HEAD", path, "").await;
        assert_eq!((head.status, &*head.body), (200, ""));
    }
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    assert_eq!(request(addr, "GET", "/metrics", &long).await.status, 431);
    assert_eq!(start(builder()).await.exporter_addr(), None);
    broker.shutdown().await;
}

#[tokio::test]
async fn held_connections_do_not_block_the_exporter() {
    let broker = start(exporting(builder())).await;
    let addr = broker.exporter_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = within(TcpStream::connect(addr)).await.unwrap();
        within(stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")).await.unwrap();
        held.push(stream);
    }
    assert!(scrape(&broker).await.sum("hpfeeds_broker_connection_made_total").is_some());
    // The first had to give way.
    let mut rest = Vec::new();
    match within(held[0].read_to_end(&mut rest)).await {
        Ok(_) => assert!(rest.is_empty()),
        Err(cause) => assert_eq!(cause.kind(), ErrorKind::ConnectionReset),
    }
    broker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_has_a_deadline() {
    let broker = start(exporting(builder())).await;
    let mut stream = TcpStream::connect(broker.exporter_addr().unwrap()).await.unwrap();
    stream.write_all(b"GET /met").await.unwrap();
    let asked = tokio::time::Instant::now();
    let mut rest = Vec::new();
    // Time passes as nobody does anything.
    stream.read_to_end(&mut rest).await.unwrap();
    assert!((5..=10).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    drop(broker);
}

#[tokio::test]
async fn it_answers_until_the_broker_has_stopped() {
    let broker = start(exporting(builder().drain_timeout(Duration::from_secs(60)))).await;
    let (addr, exporter) = (broker.local_addr(), broker.exporter_addr().unwrap());
    let stuck = Peer::narrow_subscriber(&broker, &["a"]).await;
    let mut publisher = Peer::dev(&broker).await;
    // More than the system buffers for both.
    within(async {
        while broker.stats().buffered == 0 || broker.stats().received_messages < 200 {
            publisher.send(publish("dev", "a", vec![0; 64 * 1024])).await;
        }
    })
    .await;
    drop(publisher);
    let stopping = tokio::spawn(broker.shutdown());
    within(async { while TcpStream::connect(addr).await.is_ok() {} }).await;
    let answer = request(exporter, "GET", "/readyz", "").await;
    assert_eq!((answer.status, &*answer.body), (503, "shutting down\n"));
    assert_eq!(request(exporter, "GET", "/healthz", "").await.status, 200);
    assert_eq!(request(exporter, "GET", "/metrics", "").await.status, 200);
    drop(stuck);
    within(stopping).await.unwrap();
    assert!(TcpStream::connect(exporter).await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_starts_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = |addr: SocketAddr| Broker::dev_builder().listen(addr).unwrap();
    let failed = endpoint(free).exporter(addr).unwrap().start().await.unwrap_err();
    assert!(matches!(failed, StartError::Listen { addr: named, .. } if named == addr), "{failed}");
    start(endpoint(free)).await.shutdown().await;
    let wrong = Broker::dev_builder().exporter("9431").unwrap_err();
    assert_eq!(wrong.to_string(), r#"endpoint "9431": not of the form ADDR:PORT"#);
}

#[tokio::test]
async fn a_key_for_all_channels_is_bounded() {
    let broker = start(exporting(builder())).await;
    let mut dev = Peer::dev(&broker).await;
    for n in 0..1500 {
        dev.send(publish("dev", &format!("channel-{n}"), "x")).await;
    }
    dev.settle().await;
    let exposed = scrape(&broker).await;
    let channels = exposed.select(r#"hpfeeds_broker_receive_publish_count_total{ident="dev"}"#);
    assert_eq!(channels.len(), 1001);
    assert_eq!(channels.iter().map(|sample| sample.value).sum::<f64>(), 1501.0);
    let other = r#"hpfeeds_broker_receive_publish_count_total{ident="dev",chan="other"}"#;
    assert_eq!(exposed.sum(other), Some(501.0));
    broker.shutdown().await;
}

#[tokio::test]
async fn a_program_can_ask_without_http() {
    let key = Key::new("carol", "x").unwrap().owner("somebody \"else\"").subscribe(["a"]).unwrap();
    let broker = start(builder().user(key)).await;
    let mut carol = Peer::login(broker.local_addr(), "carol", "x").await;
    carol.send(subscribe("carol", "a")).await;
    within(async {
        loop {
            let exposed = Exposed::parse(&broker.metrics(Exposition::Prometheus));
            let subscribed = exposed.sum(r#"hpfeeds_broker_subscriptions{ident="carol",chan="a"}"#);
            if subscribed == Some(1.0) {
                let owner = r#"hpfeeds_client_authenticated_connections{owner="somebody \"else\""}"#;
                assert_eq!(exposed.sum(owner), Some(1.0));
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    broker.shutdown().await;
}
