use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _, stream};
use hpfeeds::{Channel, ClientSession, Error, wire::Limits};
use tokio::time::timeout;

use crate::script::{Script, text};

#[tokio::test(start_paused = true)]
async fn a_full_queue_gives_the_payload_back_and_makes_publish_wait() {
    let (mut script, builder) = Script::new();
    // 100 bytes at most per message, so the queue can be as small as that.
    let session = builder.limits(Limits::new(100)).send_queue(200).start().unwrap();
    let payload = Bytes::from(vec![7; 60]);
    for _ in 0..2 {
        session.try_publish("x", payload.clone()).unwrap();
    }
    let refused = session.try_publish("x", payload.clone()).unwrap_err();
    assert!(refused.is_full() && refused.into_payload() == payload);
    let mut waiting = Box::pin(session.publish("x", "waited"));
    let mut second = Box::pin(session.publish("x", payload.clone()));
    assert!((&mut second).now_or_never().is_none());
    assert!((&mut waiting).now_or_never().is_none(), "there is room, but somebody waits already");
    drop(second);

    let mut peer = script.login().await;
    waiting.await.unwrap();
    for _ in 0..2 {
        assert_eq!(text(&peer.frame().await).len(), 60);
    }
    peer.expect_publish("waited").await;
}

#[tokio::test(start_paused = true)]
async fn illegal_message_is_refused_before_it_is_queued() {
    let (_script, builder) = Script::new();
    let session = builder.limits(Limits::new(100)).start().unwrap();
    let free = session.publisher().free();
    let error = session.publish("x", vec![0; 96]).await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("106 bytes is too long: the limit is 105"), "{error}");
    assert!(session.publish("", "x").await.unwrap_err().is_usage());
    assert!(session.subscribe("c".repeat(256)).unwrap_err().is_usage());
    assert!(session.try_publish("x", vec![0; 96]).unwrap_err().cause().unwrap().is_usage());
    assert_eq!(session.publisher().free(), free);
    session.publish("x", vec![0; 95]).await.unwrap();
}

/// As a function would that returns the library's error.
fn offer(session: &ClientSession, channel: &str, payload: Vec<u8>) -> Result<(), Error> {
    let channel = Channel::new(channel)?;
    session.try_publish(&channel, payload)?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn faulty_names_and_full_queues_convert_to_the_error_of_the_library() {
    let (_script, builder) = Script::new();
    let session = builder.limits(Limits::new(100)).send_queue(100).start().unwrap();
    let error = offer(&session, "", vec![]).unwrap_err();
    assert!(error.is_usage() && !error.is_full(), "{error}");
    assert_eq!(error.to_string(), "the name is empty");
    // An error of the session itself stays as it is.
    let error = offer(&session, "x", vec![0; 96]).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("the limit is 105"), "{error}");
    offer(&session, "x", vec![0; 60]).unwrap();
    let error = offer(&session, "x", vec![0; 60]).unwrap_err();
    assert!(error.is_full() && !error.is_usage() && !error.is_network() && !error.is_closed(), "{error}");
    assert_eq!(error.to_string(), session.try_publish("x", vec![0; 60]).unwrap_err().to_string());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_read_stops_reading() {
    let (mut script, builder) = Script::with_pipe(1024);
    let mut session = builder.receive_queue(4096).start().unwrap();
    let mut peer = script.login().await;
    let mut sent = 0;
    while timeout(Duration::from_secs(1), peer.publish("a", vec![7; 500])).await.is_ok() {
        sent += 1;
        assert!(sent < 1000, "the session swallows everything");
    }
    for _ in 0..sent {
        assert_eq!(session.next().await.unwrap().2.len(), 500);
    }
    // The message whose sending was cut short comes whole once there is room, and the session reads on.
    let rest = async {
        peer.publish("a", "end").await;
    };
    let (message, ()) = tokio::join!(session.next(), rest);
    assert_eq!(message.unwrap().2.len(), 500);
    assert_eq!(session.read().await.unwrap().2, "end");
}

#[tokio::test(start_paused = true)]
async fn a_hostile_broker_is_left_at_once() {
    for bytes in [
        &b"\0\0\0\x04\x03"[..],
        b"\xff\xff\xff\xff\x03",
        // One byte more than what is passed over.
        b"\x04\0\0\x01\x03",
        b"\0\0\0\x05\x06",
        b"\0\0\0\x08\x04\x01ic",
    ] {
        let (mut script, builder) = Script::new();
        let _session = builder.start().unwrap();
        let mut peer = script.login().await;
        peer.raw(bytes).await;
        peer.expect_eof().await;
        script.login().await;
    }
}

#[tokio::test(start_paused = true)]
async fn streams_and_sinks_publish_in_order() {
    let (mut script, builder) = Script::with_pipe(100);
    let session = builder.limits(Limits::new(100)).send_queue(150).start().unwrap();
    let texts = |from: i32| stream::iter((from..from + 50).map(|n| n.to_string()));
    let send = async {
        session.publish_stream("x", texts(0)).await.unwrap();
        texts(50).map(Ok).forward(session.sink("x").unwrap()).await.unwrap();
        let mut sink = session.publisher().sink("x").unwrap();
        sink.send("last").await.unwrap();
        let error = sink.send(vec![0; 200]).await.unwrap_err();
        assert!(error.is_usage(), "{error}");
    };
    let receive = async {
        let mut peer = script.login().await;
        for n in 0..100 {
            peer.expect_publish(&n.to_string()).await;
        }
        peer.expect_publish("last").await;
    };
    tokio::join!(send, receive);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_that_cancel_out_are_never_sent() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let mut peer = script.login().await;
    session.subscribe("a").unwrap();
    session.unsubscribe("a").unwrap();
    session.unsubscribe("never").unwrap();
    session.subscribe("b").unwrap();
    session.subscribe("b").unwrap();
    peer.expect_subscribe("b").await;
    assert_eq!(peer.frame_within(Duration::from_secs(60)).await, None);
}

#[tokio::test(start_paused = true)]
async fn fragments_and_batches_come_out_as_the_same_messages() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    let mut peer = script.login().await;
    let frames = b"\0\0\0\x0a\x03\x01i\x01c1\0\0\0\x09\x03\x01i\x01d\0\0\0\x0a\x03\x01j\x01c3";
    for size in 1..=frames.len() {
        for piece in frames.chunks(size) {
            peer.raw(piece).await;
            tokio::task::yield_now().await;
        }
        let mut got = Vec::new();
        for _ in 0..3 {
            let (ident, channel, payload) = session.next().await.unwrap();
            got.push(format!("{ident} {channel} {}", payload.escape_ascii()));
        }
        assert_eq!(got, ["i c 1", "i d ", "j c 3"]);
    }
}
