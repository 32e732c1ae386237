use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{
    SessionEvent,
    wire::extension::{BrokerFrame, BrokerHello, Flags, Level},
};
use tokio::time::{Instant, sleep, timeout};

use super::peer::{Heard, Peer, grants, script};

/// The length of a message's frame on channel a from them.
fn length(payload: usize) -> u64 {
    5 + 5 + 2 + payload as u64
}

/// The bytes that are said to be taken within a moment, if any are.
async fn consumed(peer: &mut Peer, limit: Duration) -> Option<u64> {
    match peer.heard_within(limit).await? {
        Heard::Consumed(bytes) => Some(bytes),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_opens_as_messages_are_taken() {
    let (mut script, builder) = script();
    let mut session = builder.receive_queue(40_000).start().unwrap();
    let (mut peer, hello) = script.confirm(0).await;
    assert_eq!(hello.window, Some(40_000));
    for _ in 0..4 {
        peer.publish("a", vec![7; 9000]).await;
    }
    // Nothing is taken, so nothing is said.
    assert_eq!(consumed(&mut peer, Duration::from_secs(5)).await, None);
    // One read of the socket brought several: taken together, they are told at once.
    session.next().await.unwrap();
    let taken = consumed(&mut peer, Duration::from_millis(1)).await.unwrap();
    assert_eq!(taken % length(9000), 0);
    while session.next().now_or_never().is_some() {}
    // All of it at the latest a second later.
    let mut last = taken;
    while last < 4 * length(9000) {
        last = consumed(&mut peer, Duration::from_millis(1001)).await.unwrap();
    }
    assert_eq!(last, 4 * length(9000));
    peer.publish("a", "x").await;
    session.next().await.unwrap();
    assert_eq!(consumed(&mut peer, Duration::from_millis(1001)).await, Some(4 * length(9000) + length(1)));
    // Nothing new.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(consumed(&mut peer, Duration::from_secs(3)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_not_behind_messages_that_nobody_takes() {
    let (mut script, builder) = script();
    let mut session = builder.receive_queue(1000).start().unwrap();
    let (mut peer, hello) = script.confirm(0).await;
    // All of the window, and one message more than a queue without a window would take.
    let mut sent = 0;
    while sent + length(300) <= hello.window.unwrap().into() {
        peer.publish("a", vec![7; 300]).await;
        sent += length(300);
    }
    let answer = async {
        let mut answered = 0;
        while answered < 3 {
            match peer.heard().await {
                Heard::Frame(_) => {
                    answered += 1;
                    peer.ack(answered).await;
                }
                Heard::Consumed(_) => peer.publish("a", vec![7; 300]).await,
                other => panic!("{other:?}"),
            }
        }
    };
    let forward = async {
        for _ in 0..3 {
            let (_, _, payload) = session.next().await.unwrap();
            session.publish_confirmed("b", payload).await.unwrap();
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(answer, forward) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ignores_its_window_is_left() {
    let (mut script, builder) = script();
    let session = builder.receive_queue(10_000).start().unwrap();
    let mut events = session.events();
    let (mut peer, _) = script.confirm(0).await;
    // More than a message of the largest size.
    for _ in 0..105 {
        peer.publish("a", vec![7; 10_000]).await;
    }
    peer.expect_eof().await;
    let told = |event: &SessionEvent| matches!(event, SessionEvent::Disconnected { cause, .. } if cause.to_string().contains("window of 10000 bytes"));
    while !told(&timeout(Duration::from_secs(1), events.next()).await.unwrap().unwrap()) {}
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_passed_over_open_the_window_too() {
    let (mut script, builder) = script();
    let session = builder.limits(hpfeeds::Limits::new(1000)).start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    peer.publish("a", vec![7; 5000]).await;
    assert_eq!(consumed(&mut peer, Duration::from_secs(2)).await, Some(length(5000)));
    assert_eq!(session.skipped(), 1);
}

#[tokio::test(start_paused = true)]
async fn earlier_connections_leave_less_of_a_window() {
    let (mut script, builder) = script();
    let mut session = builder.receive_queue(40_000).start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    for _ in 0..3 {
        peer.publish("a", vec![7; 9000]).await;
    }
    sleep(Duration::from_millis(10)).await;
    drop(peer);
    let (mut peer, hello) = script.confirm(0).await;
    assert_eq!(u64::from(hello.window.unwrap()), 40_000 - 3 * length(9000));
    // Taking those does not open this window.
    for _ in 0..3 {
        session.next().await.unwrap();
    }
    assert_eq!(consumed(&mut peer, Duration::from_secs(3)).await, None);
    peer.publish("a", vec![7; 9000]).await;
    session.next().await.unwrap();
    assert_eq!(consumed(&mut peer, Duration::from_secs(3)).await, Some(length(9000)));
}

#[tokio::test(start_paused = true)]
async fn silence_for_thirty_seconds_is_death() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, hello) = script.confirm(0).await;
    assert_eq!(hello.heartbeat, 10);
    for _ in 0..20 {
        sleep(Duration::from_secs(25)).await;
        peer.say(BrokerFrame::Heartbeat).await;
    }
    // A large frame that comes byte by byte is a sign of life.
    for byte in b"\0\0\x10\0\x03\x04them\x01a" {
        sleep(Duration::from_secs(20)).await;
        peer.raw(&[*byte]).await;
    }
    assert_eq!(script.dials(), 1);
    let started = Instant::now();
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    peer.expect_eof().await;
    let silence = started.elapsed();
    assert!((29..=31).contains(&silence.as_secs()), "{silence:?}");
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_publish("1").await;
}

#[tokio::test(start_paused = true)]
async fn silence_means_nothing_where_heartbeats_are_not_granted() {
    let (mut script, builder) = script();
    let _session = builder.start().unwrap();
    let (mut peer, hello) = script.greet().await;
    peer.answer(BrokerHello { flags: Flags::CONFIRM, ..grants(&hello, Level::ROUTED) }).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(script.dials(), 1);
    assert_eq!(peer.heard_within(Duration::from_secs(100)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_wants_to_hear_something_does() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, hello) = script.greet().await;
    peer.answer(BrokerHello { heartbeat: 7, ..grants(&hello, Level::ROUTED) }).await;
    for round in 0..10 {
        // A message is a sign of life as well.
        if round % 3 == 1 {
            session.publish("x", "1").await.unwrap();
            peer.expect_publish("1").await;
        }
        assert_eq!(peer.heard_within(Duration::from_secs(7)).await, Some(Heard::Heartbeat));
        peer.say(BrokerFrame::Heartbeat).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_keeps_nothing_else_from_being_heard() {
    let (mut script, builder) = script();
    let limits = hpfeeds::Limits::new(1000);
    let session = builder.receive_queue(10_000).limits(limits).start().unwrap();
    let mut sent = 0;
    // Each connection fills what it is given, and breaks; the program takes nothing.
    for round in 0..200 {
        let (mut peer, hello) = script.confirm(round).await;
        assert!(hello.window.unwrap() >= 1);
        let mut outstanding = 0;
        while outstanding == 0 || outstanding + length(500) <= hello.window.unwrap().into() {
            peer.publish("a", vec![7; 500]).await;
            outstanding += length(500);
            sent += 1;
        }
        let (receipt, ()) = tokio::join!(session.publish_confirmed("b", "x"), async {
            while matches!(peer.heard().await, Heard::Consumed(_)) {}
            peer.ack(round + 1).await;
        });
        assert_eq!(receipt.unwrap().position().number, round + 1);
        sleep(Duration::from_secs(20)).await;
    }
    // The messages kept have a bound, and the rest is counted.
    let mut session = session;
    let mut kept = 0;
    while session.next().now_or_never().is_some() {
        kept += 1;
    }
    let most = (2 * 10_000 + 1005) / length(500) + 1;
    assert!((10_000 / length(500)..=most).contains(&kept), "{kept} of {sent}");
    assert_eq!(kept + session.skipped(), sent);
    let mut events = session.events();
    let told = |event: &SessionEvent| matches!(event, SessionEvent::Skipped { cause, .. } if cause.to_string().contains("receive queue"));
    while !told(&timeout(Duration::from_secs(1), events.next()).await.unwrap().unwrap()) {}
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_messages_are_sent_again_is_reset() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    // HELLO is not answered.
    let (mut peer, _) = script.greet().await;
    peer.expect_eof().await;
    assert_eq!(script.aborts(), 1);
    // Nothing is heard.
    let (mut peer, _) = script.confirm(0).await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    peer.expect_eof().await;
    assert_eq!(script.aborts(), 2);
    // Nonsense is heard.
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_publish("1").await;
    peer.ack(9).await;
    peer.expect_eof().await;
    assert_eq!(script.aborts(), 3);
    // Closing in good order is no reset.
    let (mut peer, _) = script.confirm(0).await;
    let mut session = session;
    let (closed, ()) = tokio::join!(session.close(), async {
        peer.expect_publish("1").await;
        peer.ack(1).await;
        peer.expect_eof().await;
        drop(peer);
    });
    closed.unwrap();
    assert_eq!(script.aborts(), 3);
}
