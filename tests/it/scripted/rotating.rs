//! Sessions that end their connections to have messages confirmed by a broker that acknowledges
//! nothing.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{ClientSession, SessionEvent, SessionState};
use tokio::time::{Instant, sleep};

use crate::script::{Peer, Script, events_so_far};

const AFTER: Duration = Duration::from_secs(30);

fn rotating() -> (Script, ClientSession) {
    let (script, builder) = Script::at_own_address(64 * 1024);
    (script, builder.rotation(AFTER).start().unwrap())
}

/// Reads to the end of the session's stream, and ends the broker's.
async fn end(mut peer: Peer) {
    peer.expect_eof().await;
}

fn told(events: &[SessionEvent]) -> Vec<u64> {
    let assumed = |event: &SessionEvent| match event {
        SessionEvent::DeliveryAssumed { messages } => Some(*messages),
        _ => None,
    };
    events.iter().filter_map(assumed).collect()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_confirms_what_was_unconfirmed_for_long() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    let started = Instant::now();
    let serve = async {
        peer.expect_publish("1").await;
        end(peer).await;
        let mut peer = script.login().await;
        peer.expect_publish("2").await;
        peer
    };
    let publish = async {
        let receipt = session.publish_confirmed("x", "1").await.unwrap();
        assert_eq!(receipt.position().number, 1);
        let waited = started.elapsed();
        assert!((AFTER..AFTER + Duration::from_secs(1)).contains(&waited), "{waited:?}");
        session.publish("x", "2").await.unwrap();
    };
    let (_peer, ()) = tokio::join!(serve, publish);
    // One connection takes the place of the other, without a word.
    let events = events_so_far(&session);
    assert!(matches!(&events[..], [SessionEvent::Connected { .. }]), "{events:?}");
    let stats = session.stats();
    assert_eq!((stats.confirmed, stats.unconfirmed, stats.resent, stats.lost), (1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_with_nothing_unconfirmed_stays_connected() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    assert_eq!(peer.frame_within(Duration::from_secs(3600)).await, None);
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    end(peer).await;
    let mut peer = script.login().await;
    assert_eq!(peer.frame_within(Duration::from_secs(3600)).await, None);
    assert_eq!(script.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_meanwhile_go_to_the_next_connection() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    for n in 1..=50 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    for n in 1..=50 {
        peer.expect_publish(&n.to_string()).await;
    }
    sleep(AFTER).await;
    for n in 51..=60 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    let mut read = 50;
    while let Some(frame) = peer.next().await {
        read += 1;
        assert_eq!(crate::script::text(&frame), read.to_string());
    }
    drop(peer);
    let mut peer = script.login().await;
    for n in read + 1..=60 {
        peer.expect_publish(&n.to_string()).await;
    }
    assert_eq!(session.stats().confirmed, read);
}

#[tokio::test(start_paused = true)]
async fn half_a_queue_is_confirmed_at_once() {
    let (mut script, builder) = Script::at_own_address(64 * 1024);
    let session = builder.rotation(AFTER).send_queue(1).start().unwrap();
    let mut peer = script.login().await;
    let started = Instant::now();
    let publish = async {
        for _ in 0..4 {
            session.publish("x", vec![7; 400_000]).await.unwrap();
        }
    };
    let serve = async {
        for _ in 0..2 {
            while peer.next().await.is_some() {}
            drop(peer);
            peer = script.login().await;
        }
        peer
    };
    let ((), _peer) = tokio::join!(publish, serve);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_broken_connection_had_not_confirmed_is_sent_again_once() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    drop(peer);
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    session.publish("x", "2").await.unwrap();
    peer.expect_publish("2").await;
    assert_eq!(session.unconfirmed(), 0);
    drop(peer);
    // Not a third time.
    let mut peer = script.login().await;
    peer.expect_publish("2").await;
    end(peer).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&events_so_far(&session)), [1]);
    let stats = session.stats();
    assert_eq!((stats.resent, stats.confirmed, stats.lost, stats.unconfirmed), (2, 1, 1, 0));
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.unconfirmed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn two_ends_that_confirm_nothing_end_it_for_an_hour() {
    let (mut script, session) = rotating();
    for n in 0..2 {
        let mut peer = script.login().await;
        session.publish("x", n.to_string()).await.unwrap();
        peer.expect_publish("0").await;
        if n == 1 {
            peer.expect_publish("1").await;
        }
        // It does not end its stream after ours.
        peer.expect_eof().await;
        sleep(Duration::from_secs(20)).await;
    }
    let mut peer = script.login().await;
    // The message that was sent once is sent once more, and then done with.
    peer.expect_publish("1").await;
    assert_eq!(told(&events_so_far(&session)), [0, 1]);
    assert_eq!(peer.frame_within(Duration::from_secs(3500)).await, None);
    let error = session.publish_confirmed("x", "2").await.unwrap_err();
    assert!(error.is_not_confirmable(), "{error}");
    // An hour later it is tried again.
    sleep(Duration::from_secs(200)).await;
    drop(peer);
    let mut peer = script.login().await;
    session.publish("x", "3").await.unwrap();
    peer.expect_publish("3").await;
    end(peer).await;
    script.login().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(session.stats().confirmed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_receives_does_not_rotate() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    session.subscribe("a").unwrap();
    peer.expect_subscribe("a").await;
    assert_eq!(peer.frame_within(Duration::from_secs(100)).await, None);
    assert_eq!(session.stats().unconfirmed, 0);
    drop(peer);
    let mut state = session.state();
    state.wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
    assert_eq!(session.unconfirmed(), 1);
    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    session.publish("x", "2").await.unwrap();
    peer.expect_publish("2").await;
    assert_eq!(peer.frame_within(Duration::from_secs(100)).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_end_confirms_nothing() {
    let (mut script, session) = rotating();
    let mut peer = script.login().await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    peer.expect_eof().await;
    peer.error("Invalid authkey in message, ident=me").await;
    drop(peer);
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    assert_eq!(session.stats().confirmed, 0);
}

#[tokio::test(start_paused = true)]
async fn closing_during_a_rotation_sends_the_rest_and_waits_for_its_end() {
    let (mut script, mut session) = rotating();
    let mut peer = script.login().await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    peer.expect_eof().await;
    session.publish("x", "2").await.unwrap();
    let mut events = session.events();
    let mut closing = Box::pin(session.close());
    assert!((&mut closing).now_or_never().is_none());
    drop(peer);
    let serve = async {
        let mut peer = script.login().await;
        peer.expect_publish("2").await;
        end(peer).await;
    };
    let (closed, ()) = tokio::join!(closing, serve);
    closed.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, SessionEvent::DeliveryAssumed { .. }), "{event:?}");
    }
    assert_eq!(session.stats().confirmed, 2);
}
