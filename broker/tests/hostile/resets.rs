//! Connections that break, or end on one side, at every moment of their life.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    pki::TlsPeer,
    support::{bytes, publish, subscribe, within},
    target::{ATTACKER, Bound, MIB, Target, dial, login, reset, rest},
    tls::client_hello,
};

#[derive(Debug, Clone, Copy)]
enum State {
    Throttled,
    BeforeInfo,
    AfterInfo,
    InAuth,
    Authenticated,
    Subscribed,
    InPublish,
    AfterPublish,
    SentTo,
    Refused,
    BeforeTls,
    InTls,
    InTlsPublish,
}

const STATES: [State; 13] = [
    State::Throttled,
    State::BeforeInfo,
    State::AfterInfo,
    State::InAuth,
    State::Authenticated,
    State::Subscribed,
    State::InPublish,
    State::AfterPublish,
    State::SentTo,
    State::Refused,
    State::BeforeTls,
    State::InTls,
    State::InTlsPublish,
];

/// For what belongs to one connection alone.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A connection that has come so far.
async fn reach(state: State, target: &Target) -> TcpStream {
    let hello = client_hello(&target.pki);
    match state {
        State::Throttled => {
            // Otherwise everybody else would wait, too.
            let [.., a, b] = NUMBER.fetch_add(1, Relaxed).to_be_bytes();
            let failed = login([127, 2, a, b], target.plain, "mallory", "guess").await;
            failed.expect_error("Authentication failed for mallory").await;
            dial([127, 2, a, b], target.plain).await
        }
        State::BeforeInfo => dial(ATTACKER, target.plain).await,
        State::AfterInfo => crate::support::Peer::greeted(dial(ATTACKER, target.plain).await).await.framed.into_inner(),
        State::InAuth => {
            let mut stream = dial(ATTACKER, target.plain).await;
            stream.write_all(b"\0\0\0\x20\x02\x07mal").await.unwrap();
            stream
        }
        State::BeforeTls => dial(ATTACKER, target.tls).await,
        State::InTls => {
            let mut stream = dial(ATTACKER, target.tls).await;
            stream.write_all(&hello).await.unwrap();
            stream
        }
        State::InTlsPublish => {
            let mut tls = TlsPeer::dev(target.tls, &target.pki.client(None)).await.framed.into_inner();
            let long = bytes([publish("dev", "a", vec![b'x'; MIB / 2])]);
            within(tls.write_all(&long[..long.len() / 2])).await.unwrap();
            within(tls.flush()).await.unwrap();
            tls.into_inner().0
        }
        _ => {
            let mut peer = login(ATTACKER, target.plain, "mallory", "stolen").await;
            // Of its own: nobody waits for those that were left before.
            let channel = format!("a.{}", NUMBER.fetch_add(1, Relaxed));
            let long = bytes([publish("mallory", &channel, vec![b'x'; MIB / 2])]);
            match state {
                State::Subscribed => peer.send(subscribe("mallory", &channel)).await,
                State::InPublish => peer.send_raw(&long[..long.len() / 2]).await,
                State::AfterPublish => peer.send_raw(&long).await,
                State::SentTo => {
                    peer.send(subscribe("mallory", &channel)).await;
                    peer.settle().await;
                    let mut publisher = login(ATTACKER, target.plain, "mallory", "stolen").await;
                    for _ in 0..8 {
                        publisher.send_raw(&long).await;
                    }
                    publisher.confirm().await;
                }
                State::Refused => peer.send(publish("somebody", "a", "")).await,
                _ => peer.settle().await,
            }
            peer.framed.into_inner()
        }
    }
}

#[tokio::test]
async fn resets_in_every_state() {
    const ROUNDS: usize = 20;
    let mut target = Target::start(&["--write-timeout=1"]).await;
    for round in 0..ROUNDS {
        for state in STATES {
            let mut stream = reach(state, &target).await;
            if round % 2 == 1 {
                tokio::task::yield_now().await;
            }
            if round % 4 >= 2 {
                // After our own half-close.
                stream.shutdown().await.unwrap();
            }
            reset(stream);
        }
        target.exchange().await;
    }
    assert!(target.metric("hpfeeds_broker_throttled_connections_total").await > 0);
    let idle = ROUNDS * STATES.len();
    let bound = Bound { active: 30, idle, handshakes: ROUNDS, queued: 10 * MIB, ..Bound::default() };
    target.survives(&format!("{} resets", ROUNDS * STATES.len()), bound).await;
    target.stops().await;
}

/// Nothing is read from them, or noticed of them, until it is their turn.
#[tokio::test]
async fn resets_of_publishers_that_are_held_back() {
    const COUNT: usize = 20;
    const EACH: usize = 300;
    // A second's worth of them passes at once, and all of them in five seconds more.
    let mut target = Target::start(&["--publish-rate=1000"]).await;
    let messages = bytes((0..EACH).map(|_| publish("weak", "a", "")));
    let mut streams = Vec::new();
    for _ in 0..COUNT {
        let mut peer = login(ATTACKER, target.plain, "weak", "stolen").await;
        peer.send_raw(&messages).await;
        streams.push(peer.framed.into_inner());
    }
    let received = "hpfeeds_broker_received_messages_total";
    target.reaches(received, 1000).await;
    let passed = target.metric(received).await;
    assert!(passed < COUNT * EACH, "{passed} have passed");
    for (n, mut stream) in streams.into_iter().enumerate() {
        if n % 2 == 1 {
            stream.shutdown().await.unwrap();
        }
        reset(stream);
    }
    let bound = Bound { active: COUNT, ..Bound::default() };
    target.survives(&format!("{COUNT} resets of publishers that are held back"), bound).await;
    target.stops().await;
}

#[tokio::test]
async fn half_closes_in_every_state() {
    const ROUNDS: usize = 3;
    let mut target = Target::start(&["--write-timeout=1", "--handshake-timeout=2"]).await;
    for _ in 0..ROUNDS {
        for state in STATES {
            let mut stream = reach(state, &target).await;
            stream.shutdown().await.unwrap();
            // The broker ends it as well, without waiting for a deadline of its own.
            let said = rest(&mut stream).await;
            match state {
                State::SentTo => assert!(said.len() > 4 * MIB, "what was queued is delivered: {}", said.len()),
                State::InAuth => assert!(said.ends_with(b"inside AUTH"), "{said:?}"),
                State::InPublish => assert!(String::from_utf8_lossy(&said).contains("missing"), "{said:?}"),
                State::AfterPublish | State::Authenticated => assert!(said.is_empty(), "{said:?}"),
                _ => {}
            }
        }
        target.exchange().await;
    }
    // And those that never read what is left for them.
    let mut deaf = Vec::new();
    for _ in 0..5 {
        let mut stream = reach(State::SentTo, &target).await;
        stream.shutdown().await.unwrap();
        deaf.push(stream);
    }
    let bound = Bound { active: 30, idle: 100, queued: 30 * MIB, ..Bound::default() };
    target.survives("half-closes in every state", bound).await;
    drop(deaf);
    target.stops().await;
}

/// Everything breaks while the broker ends: it ends all the same.
#[tokio::test]
async fn resets_during_shutdown() {
    let target = Target::start(&["--write-timeout=2"]).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        for state in STATES {
            streams.push(reach(state, &target).await);
        }
    }
    target.terminate();
    for (n, stream) in streams.into_iter().enumerate() {
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reset(stream);
    }
    target.ended().await;
}
