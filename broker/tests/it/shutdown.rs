//! An end of stream confirms what a client has sent: never at shutdown, unless it was acted on.

use std::{num::NonZero, time::Duration};

use hpfeeds::{ClientSession, SessionState, wire::Frame};
use hpfeeds_broker::{AuthStore, Broker, Lookup};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Peer, builder, bytes, number, numbered, publish, start, subscribe, until, within};

const SHUTTING_DOWN: &str = "The broker is shutting down";

/// Never is judged to be slow, so publishers wait for the stuck one and much is not read.
async fn broker_with_a_stuck_subscriber() -> (Broker, Peer) {
    let drain = Duration::from_millis(100);
    let broker = start(builder().floor_window(Duration::MAX).drain_timeout(drain)).await;
    let stuck = Peer::narrow_subscriber(&broker, &["c"]).await;
    (broker, stuck)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_is_cut_off_gets_no_confirmation() {
    let (broker, _stuck) = broker_with_a_stuck_subscriber().await;
    let writer = Peer::dev(&broker).await;
    let sending = tokio::spawn(async move {
        let frames = bytes((0..64).map(|n| publish("dev", "c", numbered(n, 8192))));
        let mut stream = writer.framed.into_inner();
        for _ in 0..100 {
            if stream.write_all(&frames).await.is_err() {
                return "reset".to_owned();
            }
        }
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest).await {
            Ok(_) => String::from_utf8_lossy(&rest).into_owned(),
            Err(_) => "reset".to_owned(),
        }
    });
    until(|| broker.stats().buffered > 1 << 20).await;
    within(broker.shutdown()).await;
    let outcome = within(sending).await.unwrap();
    assert!(outcome == "reset" || outcome.contains(SHUTTING_DOWN), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_closed_without_an_error_when_something_was_not_read() {
    const MESSAGES: u64 = 5_000;
    let (broker, _stuck) = broker_with_a_stuck_subscriber().await;
    let port = broker.local_addr().port();
    let before = broker.stats().received_messages;
    let mut session = ClientSession::builder(("127.0.0.1", port), "dev", "dev").max_retries(0).connect().await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..MESSAGES {
            if session.publish("c", numbered(n, 4096)).await.is_err() {
                break;
            }
        }
        session.close().await
    });
    until(|| broker.stats().buffered > 1 << 20).await;
    assert!(broker.stats().received_messages - before < MESSAGES);
    within(broker.shutdown()).await;
    within(sending).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn publishers_are_told_and_silent_clients_see_the_end() {
    let broker = start(builder()).await;
    let greeted = Peer::connect(broker.local_addr()).await;
    let mut published = Peer::dev(&broker).await;
    published.send_raw(&bytes([publish("dev", "c", "x")])).await;
    let mut silent = Peer::dev(&broker).await;
    until(|| broker.stats().authenticated == 2 && broker.stats().received_messages == 1).await;
    within(broker.shutdown()).await;
    greeted.expect_error(SHUTTING_DOWN).await;
    published.asked_to_end().await;
    published.expect_error(SHUTTING_DOWN).await;
    assert_eq!(silent.next().await, None);
}

/// Knows whom it is asked about, but does not say.
struct Pending;

impl AuthStore for Pending {
    fn lookup<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_publish_behind_auth_is_not_confirmed_when_the_lookup_is_cut_off() {
    let broker = start(builder().auth(Pending)).await;
    let mut peer = Peer::connect(broker.local_addr()).await;
    let auth = peer.auth("bob", "x");
    peer.send_raw(&bytes([auth, publish("bob", "c", "precious")])).await;
    peer.finish().await;
    within(broker.shutdown()).await;
    peer.expect_error(SHUTTING_DOWN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_has_said_everything_is_read_to_its_end() {
    const MESSAGES: u64 = 400;
    let broker = start(builder().floor_window(Duration::MAX).low_mark(10_000)).await;
    let stuck = Peer::narrow_subscriber(&broker, &["c"]).await;
    let mut writer = Peer::dev(&broker).await;
    writer.send_raw(&bytes((0..MESSAGES).map(|n| publish("dev", "c", numbered(n, 1000))))).await;
    writer.finish().await;
    until(|| broker.stats().buffered > 10_000).await;
    // Everything that arrived before this has been seen.
    Peer::dev(&broker).await.settle().await;
    let stopping = tokio::spawn(broker.shutdown());
    // The end and nothing else.
    assert_eq!(writer.next().await, None);
    drop(stuck);
    within(stopping).await.unwrap();
}

/// A stuck subscriber of `c` that has never published, and so much for it that not all of it can be written.
async fn listener_with_too_much(broker: &Broker) -> Peer {
    let mut listener = Peer::narrow(broker).await;
    listener.send(subscribe("dev", "c")).await;
    // Everything that arrived before this has been acted on.
    Peer::dev(broker).await.settle().await;
    let mut writer = Peer::dev(broker).await;
    for n in 0..2000 {
        writer.send(publish("dev", "c", numbered(n, 4096))).await;
    }
    writer.confirm().await;
    listener
}

#[tokio::test]
async fn a_first_publish_during_the_drain_gets_no_confirmation() {
    let broker = start(builder().low_mark(100 << 20).high_mark(100 << 20)).await;
    let mut listener = listener_with_too_much(&broker).await;
    assert!(broker.stats().buffered > 1 << 20);
    let addr = broker.local_addr();
    let stopping = tokio::spawn(broker.shutdown());
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    listener.send(publish("dev", "c", "precious")).await;
    listener.finish().await;
    for _ in 0..2000 {
        assert!(matches!(listener.next().await, Some(Frame::Publish { .. })));
    }
    listener.expect_error(SHUTTING_DOWN).await;
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn a_refused_publish_is_not_confirmed_when_there_is_no_room_for_the_error() {
    let builder = builder().low_mark(100 << 20).high_mark(100 << 20).write_timeout(Duration::from_millis(50));
    let broker = start(builder).await;
    let mut listener = listener_with_too_much(&broker).await;
    listener.send(publish("eve", "c", "precious")).await;
    listener.finish().await;
    until(|| broker.stats().connections == 0).await;
    within(listener.framed.get_mut().read_to_end(&mut Vec::new())).await.unwrap_err();
}

#[tokio::test]
async fn a_first_message_that_waits_for_its_limit_is_not_confirmed_when_the_broker_is_dropped() {
    let broker = start(builder().publish_rate(NonZero::new(8))).await;
    let mut first = Peer::dev(&broker).await;
    first.send_raw(&bytes((0..9).map(|n| publish("dev", "c", numbered(n, 10))))).await;
    until(|| broker.stats().received_messages == 8).await;
    let mut second = Peer::dev(&broker).await;
    second.send(publish("dev", "c", "precious")).await;
    second.finish().await;
    // Everything that arrived before this has been read.
    drop(Peer::connect(broker.local_addr()).await);
    assert_eq!(broker.stats().received_messages, 8);
    drop(broker);
    within(second.framed.get_mut().read_to_end(&mut Vec::new())).await.unwrap_err();
}

#[tokio::test]
async fn a_publisher_that_ends_its_stream_when_it_is_asked_to_is_read_to_its_end() {
    const MESSAGES: u64 = 400;
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["c"]).await;
    let mut writer = Peer::dev(&broker).await;
    writer.send(publish("dev", "c", numbered(0, 1000))).await;
    assert_eq!(number(&subscriber.next().await.unwrap()), 0);
    let stopping = tokio::spawn(broker.shutdown());
    writer.asked_to_end().await;
    // The subscriber stays meanwhile.
    writer.send_raw(&bytes((1..MESSAGES).map(|n| publish("dev", "c", numbered(n, 1000))))).await;
    writer.finish().await;
    // The end and nothing else.
    assert_eq!(writer.next().await, None);
    // It has published itself, to learn that it is subscribed.
    subscriber.asked_to_end().await;
    for n in 1..MESSAGES {
        assert_eq!(number(&subscriber.next().await.unwrap()), n);
    }
    within(stopping).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_loses_nothing_when_its_broker_shuts_down_and_knows_it() {
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["c"]).await;
    let port = broker.local_addr().port();
    let mut session = ClientSession::builder(("127.0.0.1", port), "dev", "dev").connect().await.unwrap();
    let (handle, mut state) = (session.publisher(), session.state());
    let publishing = tokio::spawn(async move {
        let mut sent = 0;
        while handle.publish("c", numbered(sent, 100)).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let reading = tokio::spawn(async move {
        let mut received = 0;
        while let Some(frame) = subscriber.next().await {
            received += u64::from(matches!(frame, Frame::Publish { .. }));
        }
        received
    });
    until(|| broker.stats().received_messages > 1000).await;
    within(broker.shutdown()).await;
    within(state.wait_for(|state| matches!(state, SessionState::Waiting { .. }))).await.unwrap();
    assert_eq!(session.unconfirmed(), 0);
    let unsent = session.close().await.unwrap_err().unsent();
    let (sent, received) = (within(publishing).await.unwrap(), within(reading).await.unwrap());
    assert_eq!(sent, received + unsent);
}
