//! How many connections there may be, and how much they may publish and receive.
//!
//! Where time is measured it is paused: it passes only while everybody waits.

use std::{
    net::SocketAddr,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::wire::{Codec, Frame};
use hpfeeds_broker::{AuthStore, Broker, BrokerBuilder, Key, Lookup, SlowPolicy};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    sync::Notify,
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tokio_util::codec::Framed;

use crate::{
    pki::{Pki, TlsPeer},
    support::{Peer, builder, bytes, number, numbered, publish, start, subscribe, until, within},
};

/// `carol` may do what `dev` may.
fn with_carol() -> BrokerBuilder {
    builder().user(Key::new("carol", "s").unwrap().publish(["*"]).unwrap().subscribe(["*"]).unwrap())
}

async fn carol(broker: &Broker) -> Peer {
    Peer::login(broker.local_addr(), "carol", "s").await
}

/// `carol` subscribed to `c`, which nothing has been delivered to yet.
async fn reader(broker: &Broker) -> Peer {
    let mut peer = carol(broker).await;
    let before = broker.stats().received_messages;
    peer.send(subscribe("carol", "c")).await;
    peer.send(publish("carol", "seen", "")).await;
    until(|| broker.stats().received_messages > before).await;
    peer
}

/// The first frame that a client gets that connects from an address of the loopback network.
async fn first_frame(broker: &Broker, from: [u8; 4]) -> (Option<Frame>, Framed<TcpStream, Codec>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut framed = Framed::new(within(socket.connect(broker.local_addr())).await.unwrap(), Codec::default());
    let frame = within(framed.next()).await.map(Result::unwrap);
    (frame, framed)
}

#[tokio::test]
async fn a_pending_connection_is_evicted() {
    let broker = start(builder().max_connections(3)).await;
    let mut member = Peer::dev(&broker).await;
    member.settle().await;
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.push(Peer::connect(broker.local_addr()).await);
        // The latest connections stay.
        if strangers.len() > 2 {
            strangers.remove(0).expect_error("Too many connections").await;
        }
    }
    until(|| broker.stats().connections == 3).await;
    assert_eq!(broker.stats().rejected, 8);
    // One of them turns out to be a friend, and then nobody is left for two more.
    let mut friend = strangers.pop().unwrap().authenticate("dev", "dev").await;
    friend.settle().await;
    Peer::dev(&broker).await.settle().await;
    strangers.pop().unwrap().expect_error("Too many connections").await;
    until(|| broker.stats().connections == 2).await;
    let mut last = Peer::dev(&broker).await;
    last.settle().await;
    assert_eq!(Peer::try_connect(broker.local_addr()).await.err().as_deref(), Some("Too many connections"));
    for peer in [&mut member, &mut friend, &mut last] {
        peer.settle().await;
    }
    assert_eq!((broker.stats().connections, broker.stats().rejected), (3, 10));
    drop((member, friend, last));
    until(|| broker.stats().connections == 0).await;
}

#[tokio::test]
async fn evicted_after_refusal_gets_no_second_error() {
    let broker = start(builder().max_connections(1)).await;
    let refused = Peer::login(broker.local_addr(), "dev", "wrong").await;
    // It does not close, and for a while nor does the broker.
    let mut refused = refused.framed;
    let message = "Authentication failed for dev".into();
    assert_eq!(within(refused.next()).await.unwrap().unwrap(), Frame::Error { message });
    let (greeting, _next) = first_frame(&broker, [127, 0, 0, 2]).await;
    assert!(matches!(greeting, Some(Frame::Info { .. })));
    assert!(within(refused.next()).await.is_none_or(|end| end.is_err()));
    until(|| broker.stats().connections == 1).await;
    let stats = broker.stats();
    assert_eq!((stats.accepted, stats.auth_failures, stats.rejected), (2, 1, 0));
}

/// Answers when it is told to.
#[derive(Clone, Default)]
struct Slow(Arc<(AtomicUsize, Notify)>);

impl AuthStore for Slow {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            self.0.0.fetch_add(1, Relaxed);
            self.0.1.notified().await;
            let key = Key::new(ident, "s").and_then(|key| key.publish(["*"])).and_then(|key| key.subscribe(["*"]));
            Ok(Some(Arc::new(key.unwrap())))
        })
    }
}

#[tokio::test]
async fn a_connection_is_not_evicted_during_its_lookup() {
    let store = Slow::default();
    let broker = start(builder().auth(store.clone()).max_connections(1)).await;
    let mut eve = Peer::login(broker.local_addr(), "eve", "s").await;
    until(|| store.0.0.load(Relaxed) == 1).await;
    assert_eq!(Peer::try_connect(broker.local_addr()).await.err().as_deref(), Some("Too many connections"));
    store.0.1.notify_one();
    eve.settle().await;
}

#[tokio::test]
async fn evicted_before_tls_hears_nothing_and_after_it_why() {
    let pki = Pki::new();
    let broker = start(Broker::dev_builder().endpoint(pki.endpoint()).max_connections(1)).await;
    let (addr, config) = (broker.local_addr(), pki.client(None));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    until(|| broker.stats().connections == 1).await;
    let connector = TlsConnector::from(config.clone());
    let tls = connector.connect("localhost".try_into().unwrap(), TcpStream::connect(addr).await.unwrap());
    let mut greeted = Framed::new(within(tls).await.unwrap(), Codec::default());
    assert!(matches!(within(greeted.next()).await, Some(Ok(Frame::Info { .. }))));
    // A reset.
    assert!(within(silent.read_u8()).await.is_err());
    TlsPeer::dev(addr, &config).await.settle().await;
    let message = "Too many connections".into();
    assert_eq!(within(greeted.next()).await.unwrap().unwrap(), Frame::Error { message });
    assert!(within(greeted.next()).await.is_none());
    assert_eq!(broker.stats().rejected, 2);
}

#[tokio::test]
async fn an_address_at_its_limit_evicts_no_other() {
    let broker = start(builder().max_connections(2).max_connections_per_address(NonZero::new(1))).await;
    let (_, mut here) = first_frame(&broker, [127, 0, 0, 2]).await;
    let (_, _there) = first_frame(&broker, [127, 0, 0, 3]).await;
    let (refused, _) = first_frame(&broker, [127, 0, 0, 3]).await;
    assert_eq!(refused, Some(Frame::Error { message: "Too many connections from your address".into() }));
    assert!(here.next().now_or_never().is_none());
    let (greeting, _another) = first_frame(&broker, [127, 0, 0, 4]).await;
    assert!(matches!(greeting, Some(Frame::Info { .. })));
    assert_eq!(within(here.next()).await.unwrap().unwrap(), Frame::Error { message: "Too many connections".into() });
    // Its address has given back what it had.
    until(|| broker.stats().connections == 2).await;
    assert!(matches!(first_frame(&broker, [127, 0, 0, 2]).await.0, Some(Frame::Info { .. })));
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    const HERE: [u8; 4] = [127, 0, 0, 1];
    let broker = start(builder().max_connections_per_address(NonZero::new(2))).await;
    // Authenticated or not.
    let mut one = Peer::dev(&broker).await;
    let (_, two) = first_frame(&broker, HERE).await;
    for _ in 0..2 {
        let (frame, mut refused) = first_frame(&broker, HERE).await;
        assert_eq!(frame, Some(Frame::Error { message: "Too many connections from your address".into() }));
        assert!(within(refused.next()).await.is_none());
    }
    let (frame, _other) = first_frame(&broker, [127, 0, 0, 2]).await;
    assert!(matches!(frame, Some(Frame::Info { .. })));
    assert_eq!((broker.stats().rejected, broker.stats().connections), (2, 3));
    one.settle().await;
    drop(two);
    until(|| broker.stats().connections == 2).await;
    Peer::dev(&broker).await.settle().await;
}

#[tokio::test]
async fn an_ident_has_so_many_connections() {
    let broker =
        start(with_carol().max_connections_per_ident(NonZero::new(2)).auth_failure_delay(Duration::ZERO)).await;
    let mut peers = [Peer::dev(&broker).await, Peer::dev(&broker).await];
    for peer in &mut peers {
        peer.settle().await;
    }
    Peer::dev(&broker).await.expect_error("Too many connections for dev").await;
    carol(&broker).await.settle().await;
    let stats = broker.stats();
    assert_eq!((stats.rejected, stats.authenticated, stats.auth_failures, stats.handshake_failures), (1, 3, 0, 0));
    let [one, _two] = peers;
    one.confirm().await;
    until(|| broker.stats().connections == 1).await;
    Peer::dev(&broker).await.settle().await;
}

/// Numbered messages of a length on the wire, to the channel `c`.
fn messages(ident: &str, count: u64, len: usize) -> Vec<u8> {
    let names = 5 + 1 + ident.len() + 1 + 1;
    bytes((0..count).map(|n| publish(ident, "c", numbered(n, len - names))))
}

async fn send_and_confirm(mut peer: Peer, sent: Vec<u8>) {
    peer.send_raw(&sent).await;
    peer.confirm().await;
}

/// Asserts that so long has passed, give or take one portion and the steps of the clock.
fn assert_took(start: Instant, seconds: f64) {
    let elapsed = start.elapsed().as_secs_f64();
    assert!(elapsed >= seconds - 0.001 && elapsed < seconds + 0.2, "{elapsed} s, not {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn publishing_is_delayed_and_nothing_is_lost() {
    // 40 messages of 100 bytes: the first second's worth passes at once.
    for (builder, seconds) in [
        (with_carol().publish_rate(NonZero::new(10)), 3.0),
        (with_carol().publish_bytes(NonZero::new(1000)), 3.0),
        (with_carol().publish_rate(NonZero::new(20)).publish_bytes(NonZero::new(800)), 4.0),
        (with_carol().publish_rate(NonZero::new(1_000_000)), 0.0),
    ] {
        let broker = start(builder).await;
        let mut reader = reader(&broker).await;
        let peer = Peer::dev(&broker).await;
        let start = Instant::now();
        send_and_confirm(peer, messages("dev", 40, 100)).await;
        assert_took(start, seconds);
        for n in 0..40 {
            assert_eq!(number(&reader.next().await.unwrap()), n);
        }
        assert_eq!(broker.stats().received_messages, 41);
    }
}

/// Long runs, of which some are taken out of the receive buffer without a copy, between short ones that nobody gets.
#[tokio::test(start_paused = true)]
async fn publishing_to_channels_by_turns_is_delayed_and_nothing_is_lost() {
    let broker = start(with_carol().publish_bytes(NonZero::new(200_000))).await;
    let mut reader = reader(&broker).await;
    let channel = |n: u64| if n % 20 < 3 { "nobody" } else { "c" };
    let sent = bytes((0..800).map(|n| publish("dev", channel(n), numbered(n, 1000 - channel(n).len() - 10))));
    assert_eq!(sent.len(), 800_000);
    let peer = Peer::dev(&broker).await;
    let start = Instant::now();
    send_and_confirm(peer, sent).await;
    assert_took(start, 3.0);
    for n in (0..800).filter(|n| channel(*n) == "c") {
        assert_eq!(number(&reader.next().await.unwrap()), n);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_ident_share_its_limit_and_others_have_their_own() {
    let broker = start(with_carol().publish_rate(NonZero::new(10))).await;
    let (one, two) = (Peer::dev(&broker).await, Peer::dev(&broker).await);
    let other = carol(&broker).await;
    let start = Instant::now();
    send_and_confirm(other, messages("carol", 10, 100)).await;
    assert_took(start, 0.0);
    let both = [send_and_confirm(one, messages("dev", 20, 100)), send_and_confirm(two, messages("dev", 20, 100))];
    futures::future::join_all(both).await;
    assert_took(start, 3.0);
}

#[tokio::test(start_paused = true)]
async fn coming_back_is_no_way_around_a_limit() {
    let broker = start(with_carol().publish_rate(NonZero::new(10))).await;
    let start = Instant::now();
    for _ in 0..4 {
        send_and_confirm(Peer::dev(&broker).await, messages("dev", 10, 100)).await;
    }
    assert_took(start, 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_message_longer_than_the_limit_passes() {
    let broker = start(with_carol().publish_bytes(NonZero::new(1000)).deliver_bytes(NonZero::new(1000))).await;
    let mut reader = reader(&broker).await;
    let start = Instant::now();
    send_and_confirm(Peer::dev(&broker).await, messages("dev", 2, 5000)).await;
    for n in 0..2 {
        assert_eq!(number(&reader.next().await.unwrap()), n);
    }
    // The first finds a full bucket, the second waits until it is full again.
    assert_took(start, 5.0);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_held_back_learns_of_a_shutdown() {
    let broker = start(builder().publish_rate(NonZero::new(1))).await;
    let mut peer = Peer::dev(&broker).await;
    peer.send_raw(&messages("dev", 1000, 100)).await;
    until(|| broker.stats().received_messages > 1).await;
    let start = Instant::now();
    let stopping = tokio::spawn(broker.shutdown());
    peer.asked_to_end().await;
    assert_took(start, 0.0);
    peer.expect_error("The broker is shutting down").await;
    assert_took(start, 0.5);
    stopping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn delivering_is_delayed_for_the_one_who_is_limited() {
    for (builder, seconds) in [
        (with_carol().deliver_rate(NonZero::new(10)), 3.0),
        (with_carol().deliver_bytes(NonZero::new(1000)), 3.0),
        (with_carol().deliver_rate(NonZero::new(20)).deliver_bytes(NonZero::new(800)), 4.0),
    ] {
        let broker = start(builder).await;
        let mut reader = reader(&broker).await;
        let start = Instant::now();
        // No other client waits for that.
        send_and_confirm(Peer::dev(&broker).await, messages("dev", 40, 100)).await;
        assert_took(start, 0.0);
        for n in 0..40 {
            assert_eq!(number(&reader.next().await.unwrap()), n);
        }
        assert_took(start, seconds);
        assert_eq!((broker.stats().dropped, broker.stats().discarded), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_ident_share_what_is_delivered() {
    let broker = start(with_carol().deliver_rate(NonZero::new(10))).await;
    let mut readers = [reader(&broker).await, reader(&broker).await];
    let start = Instant::now();
    send_and_confirm(Peer::dev(&broker).await, messages("dev", 20, 100)).await;
    for reader in &mut readers {
        for n in 0..20 {
            assert_eq!(number(&reader.next().await.unwrap()), n);
        }
    }
    assert_took(start, 3.0);
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_limited_subscriber_stops_nobody_and_is_not_slow() {
    const COUNT: u64 = 1000;
    const HIGH_MARK: usize = 400_000;
    for policy in [SlowPolicy::Disconnect, SlowPolicy::DropOldest] {
        let builder = with_carol().deliver_bytes(NonZero::new(20_000)).low_mark(10_000).high_mark(HIGH_MARK);
        let broker = start(builder.slow_policy(policy).slow_deadline(Duration::from_secs(1)).floor_window(LONG)).await;
        let mut reader = reader(&broker).await;
        let start = Instant::now();
        // A megabyte: more than its mark. If somebody waited for it, it would be for an hour.
        send_and_confirm(Peer::dev(&broker).await, messages("dev", COUNT, 1000)).await;
        assert_took(start, 0.0);
        let stats = broker.stats();
        assert!(stats.dropped > 0 && stats.buffered <= HIGH_MARK as u64, "{stats:?}");
        let kept = COUNT - stats.dropped;
        let mut numbers = Vec::new();
        for _ in 0..kept {
            numbers.push(number(&reader.next().await.unwrap()));
        }
        assert!(numbers.is_sorted_by(|a, b| a < b));
        // The new ones are dropped once it is full, which it is not after so few; or the oldest.
        match policy {
            SlowPolicy::DropOldest => assert_eq!(numbers.last(), Some(&(COUNT - 1))),
            _ => assert_eq!(numbers[99], 99),
        }
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let seconds = (kept * 1000 - 20_000) as f64 / 20_000.0;
        assert_took(start, seconds);
        // Much longer than the deadline later, it is still there.
        reader.send(publish("carol", "c", Bytes::from(vec![0; 8]))).await;
        assert_eq!(number(&reader.next().await.unwrap()), 0);
        assert_eq!((broker.stats().slow_disconnects, broker.stats().dropped), (0, COUNT - kept));
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_take_what_it_may_is_slow() {
    let builder = with_carol().deliver_bytes(NonZero::new(1 << 30)).low_mark(100_000).high_mark(200_000);
    let broker = start(builder.slow_deadline(Duration::from_secs(5)).max_connections_per_ident(NonZero::new(3))).await;
    let mut stuck = reader(&broker).await;
    let sent = messages("dev", 20, 500_000);
    send_and_confirm(Peer::dev(&broker).await, sent).await;
    until(|| broker.stats().slow_disconnects == 1).await;
    let mut last = None;
    while let Some(frame) = stuck.next().await {
        last = Some(frame);
    }
    assert_eq!(last, Some(Frame::Error { message: "Backpressure deadline timer expired".into() }));
}

#[tokio::test(start_paused = true)]
async fn an_error_does_not_wait_for_the_limit() {
    let broker = start(with_carol().deliver_rate(NonZero::new(1))).await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    alice.send(subscribe("alice", "b")).await;
    alice.send(publish("alice", "a", "")).await;
    until(|| broker.stats().received_messages == 1).await;
    let mut dev = Peer::dev(&broker).await;
    dev.send_raw(&bytes((0..50).map(|n| publish("dev", "b", numbered(n, 10))))).await;
    dev.confirm().await;
    let start = Instant::now();
    assert_eq!(number(&alice.next().await.unwrap()), 0);
    alice.send(subscribe("alice", "x")).await;
    alice.expect_error("Authkey not allowed to sub here. ident=alice, chan=x").await;
    assert_took(start, 0.0);
    let stats = broker.stats();
    assert_eq!((stats.discarded, stats.dropped), (49, 0));
}
