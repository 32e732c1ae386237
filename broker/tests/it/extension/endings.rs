//! The end of a connection: what is decided by then is acknowledged, and nothing else.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hpfeeds::wire::extension::{ClientHello, Code, Flags};
use hpfeeds_broker::{AuthStore, Broker, Key, Lookup};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    extension_client::{Got, Scripted, ack, confirming, consumed, hello, sub_ack},
    support::{Peer, builder, bytes, numbered, publish, start, within},
};

/// The key of `bob`, which a test takes away.
#[derive(Clone)]
struct Store(Arc<Mutex<Option<Key>>>);

impl AuthStore for Store {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move { Ok(self.0.lock().unwrap().clone().filter(|_| ident == "bob").map(Arc::new)) })
    }
}

fn store() -> Store {
    let key = Key::new("bob", "s").unwrap().publish(["*"]).unwrap().subscribe(["*"]).unwrap();
    Store(Arc::new(Mutex::new(Some(key))))
}

/// A broker whose publishers wait for a subscriber that does not read, and that subscriber.
async fn stuck(drain: Duration, store: &Store) -> (Broker, Peer) {
    let builder = builder().auth(store.clone()).low_mark(64 * 1024).floor_window(Duration::MAX).drain_timeout(drain);
    let broker = start(builder.recheck_keys(Duration::from_secs(3600))).await;
    let slow = Peer::narrow_subscriber(&broker, &["slow"]).await;
    (broker, slow)
}

/// Publishes until the connection waits for the subscriber, and returns how many messages that took
/// and which of them was acknowledged last.
async fn wait_behind(client: &mut Scripted<TcpStream>, ident: &str) -> (u64, u64) {
    let (mut sent, mut acked) = (0, 0);
    loop {
        client.send(&bytes([publish(ident, "slow", numbered(sent + 1, 100_000))])).await;
        sent += 1;
        match timeout(Duration::from_millis(300), client.read_next()).await {
            Ok(got) => acked = if let Got::Ack(number) = got { number } else { panic!("{got:?}") },
            Err(_) => return (sent, acked),
        }
    }
}

/// The last number that is acknowledged until the end, and the ERROR.
async fn last_words(client: &mut Scripted<TcpStream>) -> (u64, Option<String>) {
    let (mut acked, mut error) = (0, None);
    loop {
        match client.next().await {
            Got::Ack(number) => acked = number,
            Got::Error(text) => error = Some(text),
            Got::End => return (acked, error),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_shutdown_acknowledges_what_is_decided_before_its_error() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    client.publish("c", 1..=100).await;
    let ending = tokio::spawn(broker.shutdown());
    let mut got = Vec::new();
    loop {
        match client.next().await {
            Got::End => break,
            one => got.push(one),
        }
    }
    let shutting_down = |text: &str| Got::Error(text.to_owned());
    let expected =
        [shutting_down("The broker is shutting down; end your stream"), shutting_down("The broker is shutting down")];
    let (acks, errors): (Vec<_>, Vec<_>) = got.into_iter().partition(|got| matches!(got, Got::Ack(_)));
    assert_eq!((acks.last(), &errors[errors.len() - 1..]), (Some(&ack(100)), &expected[1..]));
    assert_eq!(within(ending).await.unwrap().received_messages, 100);
}

#[tokio::test]
async fn a_shutdown_never_acknowledges_a_batch_that_still_waits() {
    let (broker, _slow) = stuck(Duration::from_millis(100), &store()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let (sent, acked) = wait_behind(&mut client, "dev").await;
    client.publish("free", 1..=10).await;
    let ending = tokio::spawn(broker.shutdown());
    let (last, _) = last_words(&mut client).await;
    assert!(last <= acked && acked < sent, "{last} {acked} {sent}");
    within(ending).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_removed_acknowledges_what_is_decided_and_not_what_waits() {
    let store = store();
    let (broker, _slow) = stuck(Duration::from_secs(5), &store).await;
    let login =
        async |stream| Scripted::connect(broker.local_addr()).await.login("bob", "s", confirming(stream, 1)).await.0;
    let (mut free, mut waiting) = (login(1).await, login(2).await);
    free.publish("c", 1..=5).await;
    assert_eq!(free.until_ack(5).await, []);
    let (sent, acked) = wait_behind(&mut waiting, "bob").await;
    *store.0.lock().unwrap() = None;
    broker.recheck_now();
    let revoked = Some("Authentication failed for bob".to_owned());
    assert_eq!(last_words(&mut free).await, (0, revoked.clone()));
    let (last, error) = last_words(&mut waiting).await;
    assert_eq!((last, error), (0, revoked));
    assert_eq!(acked + 1, sent);
    assert_eq!(broker.stats().discarded, 1, "the batch that waited");
}

/// Its own messages are decided all the same.
#[tokio::test]
async fn a_subscriber_that_is_ended_for_being_slow_gets_its_last_ack_first() {
    let window = Duration::from_millis(50);
    let base = builder().low_mark(1000).high_mark(2000).floor_window(window).slow_deadline(window);
    let broker = start(base).await;
    let flags = Flags::CONFIRM | Flags::REPLIES | Flags::WINDOW;
    let closed = ClientHello { window: Some(0), ..hello(flags, 1, 1) };
    let (mut client, _) = Scripted::dev(broker.local_addr(), closed).await;
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "c"));
    let mut publisher = Peer::dev(&broker).await;
    for n in 0..100 {
        publisher.send(publish("dev", "c", numbered(n, 500))).await;
    }
    client.publish("d", 1..=3).await;
    let (mut acked, mut received) = (0, 0);
    let error = loop {
        match client.next().await {
            Got::Ack(number) => acked = number,
            Got::Publish(..) => received += 1,
            other => break other,
        }
    };
    assert_eq!((acked, received), (3, 1));
    assert_eq!(error, Got::Error("Backpressure deadline timer expired".to_owned()));
}

/// Each is answered: without a bound, the answers would take the memory that the client wants.
#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read() {
    let broker = start(builder()).await;
    let mut client = Scripted::narrow(broker.local_addr()).await.login("dev", "dev", confirming(1, 1)).await.0;
    let channel = "c".repeat(255);
    let [subscribe, unsubscribe] =
        [crate::support::subscribe("dev", &channel), crate::support::unsubscribe("dev", &channel)];
    let pair = bytes([subscribe, unsubscribe]).repeat(100);
    let mut sent = 0;
    while timeout(Duration::from_secs(3), tokio::io::AsyncWriteExt::write_all(&mut client.stream, &pair)).await.is_ok()
    {
        sent += 200;
        // The buffers of two sockets hold some, and 64 KiB of answers.
        assert!(sent < 100_000, "it is read for ever");
    }
    assert!(sent > 0);
    let metrics = broker.metrics(hpfeeds_broker::Exposition::Prometheus);
    assert!(metrics.contains("hpfeeds_broker_extension_connections 1"), "{metrics}");
    // Once it reads, all are answered, in order.
    for n in 0..sent {
        assert_eq!(client.next().await, sub_ack(Code::DONE, &channel), "{n}");
    }
}

#[tokio::test]
async fn figures_tell_of_the_extension() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    client.publish("x", 1..=7).await;
    client.until_ack(7).await;
    let (mut second, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    client.expect_error("The stream is used by another connection").await;
    second.publish("a", [1]).await;
    assert_eq!(second.next().await, ack(8));
    crate::support::until(|| broker.stats().connections == 1).await;
    for channel in ["x", "y"] {
        second.subscribe(channel).await;
        assert_eq!(second.next().await, sub_ack(Code::NOT_ALLOWED, channel));
    }
    let metrics = broker.metrics(hpfeeds_broker::Exposition::Prometheus);
    for line in [
        "hpfeeds_broker_connection_error_total{ident=\"alice\",category=\"no-sub-permission\"} 2",
        "hpfeeds_broker_extension_connections 1",
        "hpfeeds_broker_streams 1",
        "hpfeeds_broker_refused_messages_total{reason=\"not-allowed\"} 7",
        "hpfeeds_broker_fenced_connections_total 1",
        "hpfeeds_broker_silent_disconnects_total 0",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
    // A run of messages is one: they may have been read in pieces.
    let denied = "hpfeeds_broker_connection_error_total{ident=\"alice\",category=\"no-pub-permission\"} ";
    let runs = metrics.lines().find_map(|line| line.strip_prefix(denied)).map(str::parse::<u64>);
    assert!(matches!(runs, Some(Ok(1..=7))), "{metrics}");
    let stats = broker.stats();
    assert_eq!((stats.refused_messages, stats.fenced, stats.silent, stats.refused), (7, 1, 0, 0));
}

/// Otherwise those that have it would get it again.
#[tokio::test]
async fn a_key_that_loses_a_subscription_ends_its_connection_after_the_batch_that_waits() {
    let store = store();
    let (broker, mut slow) = stuck(Duration::from_secs(5), &store).await;
    let (mut client, _) = Scripted::connect(broker.local_addr()).await.login("bob", "s", confirming(1, 1)).await;
    client.subscribe("secret").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "secret"));
    let (sent, acked) = wait_behind(&mut client, "bob").await;
    assert_eq!(acked + 1, sent);
    *store.0.lock().unwrap() = Some(Key::new("bob", "s").unwrap().publish(["*"]).unwrap());
    broker.recheck_now();
    assert!(timeout(Duration::from_millis(200), client.read_next()).await.is_err(), "its batch waits");
    for n in 1..=sent {
        assert_eq!(slow.next().await.as_ref().map(crate::support::number), Some(n));
    }
    let error = "Authkey not allowed to sub here. ident=bob, chan=secret";
    assert_eq!(last_words(&mut client).await, (sent, Some(error.to_owned())));
}

/// It has all that it takes, and a publisher is asked all the same.
#[tokio::test]
async fn a_closed_window_does_not_keep_a_publisher_from_hearing_of_a_shutdown() {
    let broker = start(builder().drain_timeout(Duration::from_secs(3600))).await;
    let flags = Flags::CONFIRM | Flags::REPLIES | Flags::WINDOW;
    let closed = ClientHello { window: Some(1), ..hello(flags, 1, 1) };
    let (mut client, _) = Scripted::dev(broker.local_addr(), closed).await;
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "c"));
    client.publish("c", [1, 2]).await;
    let before = client.until_ack(2).await;
    assert!(before.len() <= 1, "{before:?}");
    let ending = tokio::spawn(broker.shutdown());
    let mut next = client.next().await;
    if before.is_empty() {
        assert!(matches!(next, Got::Publish(..)), "{next:?}");
        next = client.next().await;
    }
    assert_eq!(next, Got::Error("The broker is shutting down; end your stream".to_owned()));
    // Its bytes are none of the window's: the next message comes when the first is consumed.
    let len = 5 + 4 + 2 + 8;
    client.send(&consumed(len)).await;
    assert!(matches!(client.next().await, Got::Publish(..)));
    client.finish().await;
    assert_eq!(client.next().await, Got::End);
    within(ending).await.unwrap();
}
