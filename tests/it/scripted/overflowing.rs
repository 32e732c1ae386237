//! The policy of a full send queue, with a broker that is away or reads nothing.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _};
use hpfeeds::{ClientSession, SessionBuilder, SessionEvent, WhenFull, wire::Limits};

use crate::script::{Script, events_so_far, text};

/// Room for 100 messages of 100 bytes: 90 of a payload, and the head.
fn small(builder: SessionBuilder, policy: WhenFull) -> ClientSession {
    builder.limits(Limits::new(1000)).send_queue(10_000).on_full(policy).start().unwrap()
}

fn payload(number: usize) -> String {
    format!("{number:090}")
}

#[tokio::test(start_paused = true)]
async fn the_oldest_make_room_while_the_broker_is_away() {
    let (mut script, builder) = Script::new();
    script.set_down(true);
    let mut session = small(builder, WhenFull::DropOldest);
    for number in 0..1000 {
        session.publish("x", payload(number)).await.unwrap();
    }
    let stats = session.stats();
    assert_eq!(stats.queued + stats.lost, 1000, "{stats:?}");
    assert!((1..=100).contains(&stats.queued), "{stats:?}");
    assert_eq!(stats.turned_away, 0);
    let told = events_so_far(&session);
    let told = told
        .iter()
        .find_map(|event| if let SessionEvent::Dropped { messages } = event { Some(*messages) } else { None });
    assert!((1..=stats.lost).contains(&told.unwrap()), "{told:?}");

    script.set_down(false);
    let mut peer = script.login().await;
    for number in usize::try_from(stats.lost).unwrap()..1000 {
        assert_eq!(text(&peer.frame().await), payload(number));
    }
    let closing = tokio::spawn(async move { (session.close().await, session) });
    peer.expect_eof().await;
    drop(peer);
    let (closed, session) = closing.await.unwrap();
    closed.unwrap();
    assert_eq!(session.stats().lost, stats.lost);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_make_room_while_the_broker_reads_nothing() {
    // The pipe holds a few messages; the first of the others is partly written.
    let (mut script, builder) = Script::with_pipe(250);
    let session = small(builder, WhenFull::DropOldest);
    let mut peer = script.login().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 0..5 {
        session.publish("x", payload(number)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 5..1000 {
        session.publish("x", payload(number)).await.unwrap();
    }
    let lost = session.stats().lost;
    assert!(lost >= 890, "{lost}");
    // What was written comes first, and then the newest; nothing is cut in two.
    let mut numbers = Vec::new();
    while numbers.last() != Some(&999) {
        numbers.push(text(&peer.frame().await).parse::<usize>().unwrap());
    }
    assert!(numbers.is_sorted() && numbers.starts_with(&[0, 1, 2]), "{numbers:?}");
    assert_eq!(numbers.len() as u64 + session.stats().lost, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_message_as_long_as_the_queue_finds_room_too() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let session = small(builder, WhenFull::DropOldest);
    let mut sink = session.sink("x").unwrap();
    for _ in 0..3 {
        for number in 0..100 {
            session.publish("x", payload(number)).await.unwrap();
        }
        sink.send(Bytes::from(vec![7; 990])).await.unwrap();
        session.publish("x", vec![7; 990]).await.unwrap();
    }
    // One that does not wait makes room for the next.
    while session.try_publish("x", vec![7; 990]).is_ok() {}
    tokio::time::sleep(Duration::from_millis(1)).await;
    session.try_publish("x", vec![7; 990]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flush_counts_what_was_dropped_and_a_receipt_fails() {
    let (mut script, builder) = Script::new();
    script.set_down(true);
    let session = small(builder, WhenFull::DropOldest);
    let mut receipt = Box::pin(session.publish_confirmed("x", payload(0)));
    assert!((&mut receipt).now_or_never().is_none());
    for number in 1..500 {
        session.publish("x", payload(number)).await.unwrap();
    }
    let error = receipt.await.unwrap_err();
    assert!(error.is_full() && !error.may_have_arrived(), "{error}");
    let mut flush = Box::pin(session.flush());
    assert!((&mut flush).now_or_never().is_none());
    script.set_down(false);
    let mut peer = script.login().await;
    let reader = tokio::spawn(async move { while peer.next().await.is_some() {} });
    let flushed = flush.await.unwrap();
    assert_eq!(flushed.lost, session.stats().lost);
    assert_eq!(flushed.unconfirmed + flushed.lost, 500, "{flushed:?}");
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_says_so_at_once_and_counts_it() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let session = small(builder, WhenFull::Refuse);
    for number in 0..100 {
        session.publish("x", payload(number)).await.unwrap();
    }
    assert!(session.publish("x", "more").await.unwrap_err().is_full());
    assert!(session.publish_confirmed("x", "more").await.unwrap_err().is_full());
    assert!(session.try_publish("x", "more").unwrap_err().is_full());
    let mut sink = session.sink("x").unwrap();
    assert!(sink.send(Bytes::from_static(b"more")).await.unwrap_err().is_full());
    let stats = session.stats();
    assert_eq!((stats.queued, stats.turned_away, stats.lost), (100, 4, 0));
}
