//! Starting, limits and stopping.

use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::wire::{Codec, Frame};
use hpfeeds_broker::{Broker, Endpoint, StartError};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use crate::support::{Peer, builder, bytes, number, numbered, publish, start, until, within};

#[tokio::test]
async fn a_dev_broker_takes_one_line() {
    let broker = Broker::dev().await.unwrap();
    assert!(broker.local_addr().ip().is_loopback());
    Peer::dev(&broker).await.settle().await;
    within(broker.shutdown()).await;
}

#[tokio::test]
async fn several_endpoints_are_one_broker() {
    let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = builder().listen("localhost:0").unwrap().endpoint("tcp:interface=[::1]:port=0".parse().unwrap());
    let broker = start(broker.listener(given)).await;
    assert_eq!(broker.local_addrs().len(), 4);
    let mut readers = Vec::new();
    for addr in broker.local_addrs() {
        let mut peer = Peer::login(*addr, "dev", "dev").await;
        peer.send(crate::support::subscribe("dev", "c")).await;
        peer.settle().await;
        readers.push(peer);
    }
    Peer::dev(&broker).await.send(publish("dev", "c", "x")).await;
    for mut reader in readers {
        assert_eq!(reader.next().await, Some(publish("dev", "c", "x")));
    }
}

#[tokio::test]
async fn a_failed_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let error = builder().listen(addr).unwrap().start().await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {addr}: Address already in use")), "{error}");
    let cases = [
        (Broker::dev_builder(), "no endpoint to listen on"),
        (Broker::builder().endpoint(Endpoint::tcp("127.0.0.1", 0)), "no keys: nobody could authenticate"),
        (builder().name("x".repeat(256)), "the broker name is 256 bytes long: at most 255 fit"),
        (builder().name("a hpx/1"), "the broker name \"a hpx/1\" ends in the token of the extension: leave that out"),
        (builder().max_connections(0), "the maximum of connections is 0: nobody could connect"),
        (builder().max_message(0), "the maximum message is 0 bytes: nothing could be published"),
        (builder().floor_rate(0), "the floor rate is 0: a subscriber that never reads would stop its publishers"),
        (builder().floor_window(Duration::ZERO), "the floor window is 0: no rate can be measured"),
        (builder().low_mark(2).high_mark(1), "the high mark (1 bytes) is below the low mark (2 bytes)"),
    ];
    for (builder, expected) in cases {
        assert_eq!(builder.start().await.unwrap_err().to_string(), expected);
    }
    let device = "tcp:port=0:device=nonexistent".parse().unwrap();
    let error = builder().endpoint(device).start().await.unwrap_err();
    assert!(matches!(error, StartError::Device { .. }));
    assert!(error.to_string().starts_with("cannot bind to device \"nonexistent\": "), "{error}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let broker = start(builder().max_connections(2)).await;
    let one = Peer::dev(&broker).await;
    let _two = Peer::dev(&broker).await;
    until(|| broker.stats().authenticated == 2).await;
    let stream = TcpStream::connect(broker.local_addr()).await.unwrap();
    let mut three = Framed::new(stream, Codec::default());
    let frame = within(three.next()).await.unwrap().unwrap();
    assert_eq!(frame, Frame::Error { message: "Too many connections".into() });
    assert!(within(three.next()).await.is_none());
    assert_eq!(broker.stats().rejected, 1);
    drop(one);
    until(|| broker.stats().connections == 1).await;
    Peer::dev(&broker).await.settle().await;
}

#[tokio::test]
async fn churn_leaves_nothing_behind() {
    let broker = start(builder()).await;
    for n in 0..200 {
        let mut peer = Peer::connect(broker.local_addr()).await;
        match n % 4 {
            0 => {}
            1 => peer.send_raw(&[0, 0]).await,
            2 => peer = Peer::dev(&broker).await,
            _ => peer = Peer::subscriber(&broker, &["a", "b"]).await,
        }
        drop(peer);
    }
    until(|| broker.stats().connections == 0 && broker.stats().buffered == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_delivers_what_is_queued() {
    const MESSAGES: u64 = 500;
    let broker = start(builder().low_mark(64 << 20).high_mark(64 << 20)).await;
    let mut reader = Peer::narrow_subscriber(&broker, &["c"]).await;
    let mut writer = Peer::dev(&broker).await;
    writer.send_raw(&bytes((0..MESSAGES).map(|n| publish("dev", "c", numbered(n, 50_000))))).await;
    writer.confirm().await;
    assert!(broker.stats().buffered > 0);
    let addr = broker.local_addr();
    let stopping = tokio::spawn(broker.shutdown());
    for n in 0..MESSAGES {
        assert_eq!(number(&reader.next().await.unwrap()), n);
    }
    // It has published itself, to learn that it is subscribed.
    reader.asked_to_end().await;
    reader.expect_error("The broker is shutting down").await;
    within(stopping).await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_ever() {
    let broker = start(builder().drain_timeout(Duration::from_millis(50))).await;
    let _silent = Peer::connect(broker.local_addr()).await;
    let _idle = Peer::dev(&broker).await;
    let _stuck = Peer::subscriber(&broker, &["c"]).await;
    let mut writer = Peer::dev(&broker).await;
    let flood = bytes((0..100).map(|n| publish("dev", "c", numbered(n, 500_000))));
    let flooding = tokio::spawn(async move {
        // It is cut off in the middle.
        let _ = tokio::io::AsyncWriteExt::write_all(writer.framed.get_mut(), &flood).await;
    });
    until(|| broker.stats().buffered > 0).await;
    within(broker.shutdown()).await;
    within(flooding).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_durations_mean_never() {
    let ever = Duration::MAX;
    let options = builder().handshake_timeout(ever).auth_timeout(ever).write_timeout(ever).drain_timeout(ever);
    let options = options.auth_failure_delay(ever).slow_deadline(ever).high_mark(1 << 20);
    let broker = start(options.floor_window(Duration::from_millis(100))).await;
    let stuck = Peer::narrow_subscriber(&broker, &["c"]).await;
    let mut writer = Peer::dev(&broker).await;
    writer.send_raw(&bytes((0..2000).map(|n| publish("dev", "c", numbered(n, 8192))))).await;
    writer.confirm().await;
    assert!(broker.stats().dropped > 0);
    drop(stuck);
    let mut wrong = Peer::login(broker.local_addr(), "dev", "wrong").await;
    assert!(matches!(wrong.next().await, Some(Frame::Error { .. })));
    until(|| broker.stats().connections <= 1).await;
    within(broker.shutdown()).await;
}

#[tokio::test]
async fn a_dropped_broker_stops() {
    let broker = start(builder()).await;
    let addr = broker.local_addr();
    let mut reader = Peer::dev(&broker).await;
    reader.send(crate::support::subscribe("dev", "c")).await;
    let mut publisher = Peer::subscriber(&broker, &["c"]).await;
    drop(broker);
    // No end of stream: it would confirm what is on its way.
    let cause = within(publisher.framed.next()).await.unwrap().unwrap_err();
    assert!(cause.to_string().contains("reset"), "{cause}");
    assert_eq!(reader.next().await, None);
    within(async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
