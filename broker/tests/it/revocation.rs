//! Keys that change while their connections live.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hpfeeds::wire::Frame;
use hpfeeds_broker::{AuthError, AuthStore, Broker, BrokerBuilder, Key, Lookup};

use crate::support::{Peer, builder, bytes, numbered, publish, start, subscribe, unsubscribe, until};

/// Nothing happens by itself.
const LONG: Duration = Duration::from_secs(3600);

/// Keys that a test changes.
#[derive(Clone, Default)]
struct Store {
    keys: Arc<Mutex<HashMap<String, Key>>>,
    broken: Arc<Mutex<Option<bool>>>,
    lookups: Arc<AtomicUsize>,
}

impl Store {
    fn with(secret: &str, pubchans: &[&str], subchans: &[&str]) -> Self {
        let store = Self::default();
        store.set(secret, pubchans, subchans);
        store
    }

    fn set(&self, secret: &str, pubchans: &[&str], subchans: &[&str]) {
        let key = Key::new("bob", secret).unwrap().publish(pubchans).unwrap().subscribe(subchans).unwrap();
        self.keys.lock().unwrap().insert("bob".to_owned(), key);
    }

    fn remove(&self) {
        self.keys.lock().unwrap().clear();
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Relaxed)
    }
}

impl AuthStore for Store {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let broken = *self.broken.lock().unwrap();
            self.lookups.fetch_add(1, Relaxed);
            match broken {
                Some(true) => Err(AuthError::new("the database is down")),
                Some(false) => std::future::pending().await,
                None => Ok(self.keys.lock().unwrap().get(ident).cloned().map(Arc::new)),
            }
        })
    }
}

fn with(store: &Store) -> BrokerBuilder {
    builder().auth(store.clone()).recheck_keys(LONG).auth_failure_delay(Duration::ZERO)
}

async fn bob(broker: &Broker, secret: &str) -> Peer {
    Peer::login(broker.local_addr(), "bob", secret).await
}

/// Looks keys up again, and returns once the store has been asked.
async fn recheck(broker: &Broker, store: &Store) {
    let before = store.lookups();
    broker.recheck_now();
    until(|| store.lookups() > before).await;
}

#[tokio::test]
async fn a_removed_key_ends_its_connections() {
    let store = Store::with("s", &["*"], &["*"]);
    let broker = start(with(&store)).await;
    let mut peers = [bob(&broker, "s").await, bob(&broker, "s").await];
    for peer in &mut peers {
        peer.settle().await;
    }
    let mut dev = Peer::dev(&broker).await;
    dev.settle().await;
    store.remove();
    broker.recheck_now();
    for peer in peers {
        peer.expect_error("Authentication failed for bob").await;
    }
    bob(&broker, "s").await.expect_error("Authentication failed for bob").await;
    until(|| broker.stats().revoked == 2).await;
    assert_eq!(broker.stats().auth_failures, 1);
    dev.settle().await;
}

#[tokio::test]
async fn another_secret_ends_connections_with_the_old_one_only() {
    let store = Store::with("old", &["*"], &["*"]);
    let broker = start(with(&store)).await;
    let mut old = bob(&broker, "old").await;
    old.settle().await;
    store.set("new", &["*"], &["*"]);
    let mut new = bob(&broker, "new").await;
    new.settle().await;
    broker.recheck_now();
    old.expect_error("Authentication failed for bob").await;
    until(|| broker.stats().revoked == 1).await;
    recheck(&broker, &store).await;
    new.settle().await;
    assert_eq!(broker.stats().revoked, 1);
}

#[tokio::test]
async fn it_happens_by_itself_within_the_interval() {
    let store = Store::with("s", &["*"], &["*"]);
    let broker = start(with(&store).recheck_keys(Duration::from_millis(20))).await;
    let mut peer = bob(&broker, "s").await;
    peer.settle().await;
    // Also one that neither reads nor writes anything.
    store.remove();
    peer.expect_error("Authentication failed for bob").await;
}

#[tokio::test]
async fn live_connections_can_be_left_alone() {
    let store = Store::with("s", &["*"], &["*"]);
    let broker = start(with(&store).recheck_keys(Duration::ZERO)).await;
    let mut peer = bob(&broker, "s").await;
    peer.settle().await;
    store.remove();
    broker.recheck_now();
    bob(&broker, "s").await.expect_error("Authentication failed for bob").await;
    peer.settle().await;
    assert_eq!((store.lookups(), broker.stats().revoked), (2, 0));
}

#[tokio::test]
async fn a_store_that_fails_or_hangs_changes_nothing() {
    let store = Store::with("s", &["*"], &["*"]);
    let broker = start(with(&store).auth_timeout(Duration::from_millis(20))).await;
    let mut peer = bob(&broker, "s").await;
    peer.settle().await;
    store.remove();
    for hangs in [false, true] {
        *store.broken.lock().unwrap() = Some(!hangs);
        recheck(&broker, &store).await;
        // The second round begins when the first has had its answer, or none in time.
        recheck(&broker, &store).await;
        peer.settle().await;
    }
    *store.broken.lock().unwrap() = None;
    broker.recheck_now();
    peer.expect_error("Authentication failed for bob").await;
}

#[tokio::test]
async fn publish_rights_change_in_place() {
    let store = Store::with("s", &["a", "b"], &["private", "seen"]);
    let broker = start(with(&store)).await;
    let mut reader = Peer::subscriber(&broker, &["a", "b", "c"]).await;
    let mut peer = bob(&broker, "s").await;
    peer.send_raw(&bytes([publish("bob", "a", "1"), publish("bob", "b", "2")])).await;
    for (channel, payload) in [("a", "1"), ("b", "2")] {
        assert_eq!(reader.next().await, Some(publish("bob", channel, payload)));
    }
    store.set("s", &["b", "c"], &["seen"]);
    recheck(&broker, &store).await;
    // The same connection, on which both are known already.
    peer.send_raw(&bytes([publish("bob", "c", "3"), publish("bob", "b", "4"), publish("bob", "a", "5")])).await;
    for (channel, payload) in [("c", "3"), ("b", "4")] {
        assert_eq!(reader.next().await, Some(publish("bob", channel, payload)));
    }
    peer.expect_error("Authkey not allowed to pub here. ident=bob, chan=a").await;
}

#[tokio::test]
async fn a_subscription_that_is_no_longer_allowed_ends() {
    let store = Store::with("s", &[], &["a", "b"]);
    let broker = start(with(&store)).await;
    for wanted in ["a", "a.*"] {
        store.set("s", &["private"], &[wanted, "private", "b"]);
        let mut peer = bob(&broker, "s").await;
        peer.send(subscribe("bob", "b")).await;
        peer.send(subscribe("bob", wanted)).await;
        peer.settle().await;
        store.set("s", &["private"], &["b", "a.", "private"]);
        broker.recheck_now();
        peer.expect_error(format!("Authkey not allowed to sub here. ident=bob, chan={wanted}")).await;
    }
    until(|| broker.stats().connections == 0).await;
    assert_eq!((broker.stats().refused, broker.stats().revoked), (2, 0));
}

#[tokio::test]
async fn patterns_follow_the_lists_and_new_channels_work() {
    let store = Store::with("s", &["private"], &["a.*", "private"]);
    let broker = start(with(&store)).await;
    let mut peer = bob(&broker, "s").await;
    peer.send(subscribe("bob", "*")).await;
    peer.settle().await;
    let mut dev = Peer::dev(&broker).await;
    for (subchans, expected) in [
        (&["a.*", "private"][..], &["a.x", "a.y"][..]),
        (&["a.x", "b", "private"], &["a.x", "b"]),
        (&["*"], &["a.x", "a.y", "b", "c"]),
        (&["c", "private"], &["c"]),
    ] {
        store.set("s", &["private"], subchans);
        recheck(&broker, &store).await;
        // The answer of the lookup has been acted on once this has come through.
        peer.send(publish("bob", "private", "now")).await;
        assert_eq!(peer.next().await, Some(publish("bob", "private", "now")));
        dev.send_raw(&bytes(["a.x", "a.y", "b", "c"].map(|channel| publish("dev", channel, "")))).await;
        for channel in expected {
            assert_eq!(peer.next().await, Some(publish("dev", channel, "")));
        }
    }
    peer.send(subscribe("bob", "d")).await;
    peer.expect_error("Authkey not allowed to sub here. ident=bob, chan=d").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_waits_for_a_subscriber_is_ended_too() {
    let store = Store::with("s", &["*"], &["*"]);
    let broker = start(with(&store).floor_window(LONG)).await;
    let _stuck = Peer::subscriber(&broker, &["c"]).await;
    let peer = bob(&broker, "s").await;
    let (mut read, mut write) = peer.framed.into_inner().into_split();
    let flooding = tokio::spawn(async move {
        let frames = bytes((0..100).map(|n| publish("bob", "c", numbered(n, 10_000))));
        while tokio::io::AsyncWriteExt::write_all(&mut write, &frames).await.is_ok() {}
    });
    until(|| broker.stats().buffered > 1 << 20).await;
    store.remove();
    broker.recheck_now();
    until(|| broker.stats().revoked == 1).await;
    let mut end = Vec::new();
    // A reset may follow the ERROR, as it never stops sending.
    let _ = crate::support::within(tokio::io::AsyncReadExt::read_to_end(&mut read, &mut end)).await;
    let error = bytes([Frame::Error { message: "Authentication failed for bob".into() }]);
    assert!(end.is_empty() || end == error, "{end:?}");
    crate::support::within(flooding).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_queued_for_a_removed_key_are_not_delivered() {
    const MESSAGES: u64 = 3_000;
    let store = Store::with("s", &["private"], &["*"]);
    let broker = start(with(&store).low_mark(64 << 20).high_mark(64 << 20)).await;
    let mut peer = bob(&broker, "s").await;
    peer.send(subscribe("bob", "c")).await;
    peer.settle().await;
    let mut dev = Peer::dev(&broker).await;
    dev.send_raw(&bytes((0..MESSAGES).map(|n| publish("dev", "c", numbered(n, 10_000))))).await;
    dev.confirm().await;
    until(|| broker.stats().buffered > 1 << 20).await;
    store.remove();
    broker.recheck_now();
    until(|| broker.stats().buffered < 1 << 20).await;
    let mut received = 0;
    loop {
        match peer.next().await {
            Some(Frame::Publish { .. }) => received += 1,
            Some(Frame::Error { message }) => {
                assert_eq!(message, "Authentication failed for bob");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    until(|| broker.stats().revoked == 1).await;
    let stats = broker.stats();
    assert!(received < MESSAGES);
    assert_eq!(stats.discarded, MESSAGES - received);
}

#[tokio::test]
async fn unsubscribing_keeps_a_connection_whose_lists_shrink() {
    let store = Store::with("s", &["private"], &["a", "private"]);
    let broker = start(with(&store)).await;
    let mut peer = bob(&broker, "s").await;
    peer.send(subscribe("bob", "a")).await;
    peer.send(unsubscribe("bob", "a")).await;
    peer.settle().await;
    store.set("s", &["private"], &["private"]);
    recheck(&broker, &store).await;
    peer.settle().await;
}
