use std::time::Duration;

use futures::StreamExt as _;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep, timeout},
};

use crate::script::Script;

#[tokio::test(start_paused = true)]
async fn close_sends_the_queue_and_is_confirmed_by_the_brokers_eof() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    for n in 0..100 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    let serve = async {
        let mut peer = script.login().await;
        peer.expect_subscribe("a").await;
        for n in 0..100 {
            peer.expect_publish(&n.to_string()).await;
        }
        peer.expect_unsubscribe("a").await;
        peer.expect_eof().await;
        peer.publish("a", "late").await;
    };
    let (closed, ()) = tokio::join!(session.close(), serve);
    closed.unwrap();
    assert_eq!(session.next().await.unwrap().2, "late", "what arrived before the EOF can still be read");
    assert_eq!(session.next().await, None);
    assert!(session.publish("x", "y").await.unwrap_err().is_closed());
    session.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_eof_is_what_close_reports() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let serve = async {
        let mut peer = script.login().await;
        peer.expect_publish("1").await;
        peer.expect_eof().await;
        peer.error("Authkey not allowed to pub here. ident=me, chan=x").await;
    };
    let (closed, ()) = tokio::join!(session.close(), serve);
    let error = closed.unwrap_err();
    assert!(error.is_denied() && error.denied_channel().is_some_and(|channel| channel == "x"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_before_close_is_not_forgotten() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    peer.error("Publish not authorized").await;
    let (closed, ()) = tokio::join!(session.close(), peer.expect_eof());
    assert!(closed.unwrap_err().is_denied());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_while_closing_is_reported_with_what_was_lost() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let serve = async {
        let mut peer = script.login().await;
        peer.error("Authentication failed for me").await;
    };
    let (closed, ()) = tokio::join!(session.close(), serve);
    let error = closed.unwrap_err();
    assert!(error.is_rejected() && error.is_incomplete(), "{error}");
    assert!(error.to_string().starts_with("1 message (11 bytes) was not sent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_closes_leaves_the_messages_unconfirmed() {
    let (mut script, builder) = Script::new();
    let mut session = builder.close_timeout(Duration::from_secs(3)).start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    let started = Instant::now();
    let error = session.close().await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    assert!(error.is_incomplete(), "{error}");
    assert_eq!(error.to_string(), "1 message was written, but the broker did not confirm that it read it");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_reads_nothing_leaves_them_unsent() {
    let (mut script, builder) = Script::with_pipe(1000);
    let mut session = builder.start().unwrap();
    for _ in 0..10 {
        session.publish("x", vec![7; 500]).await.unwrap();
    }
    let _peer = script.login().await;
    let started = Instant::now();
    let error = session.close().await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(error.is_incomplete() && error.to_string().contains("messages (4"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn closing_while_the_broker_is_away_tries_until_the_deadline() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let started = Instant::now();
    let error = session.close().await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(error.to_string().starts_with("1 message (11 bytes) was not sent"), "{error}");

    let (mut script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        script.set_down(false);
        let mut peer = script.login().await;
        peer.expect_publish("1").await;
        peer.expect_eof().await;
    };
    let (closed, ()) = tokio::join!(session.close(), back);
    closed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_with_nothing_to_send_does_not_wait_for_a_broker() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    let started = Instant::now();
    session.close().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_while_closing_leaves_its_messages_unconfirmed() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    // The broker vanishes before it can have seen the half-close.
    let (closed, ()) = tokio::join!(session.close(), async {
        script.set_down(true);
        drop(peer);
    });
    let error = closed.unwrap_err();
    assert!(error.is_incomplete() && error.is_network(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_close_goes_on() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    assert!(timeout(Duration::from_millis(1), session.close()).await.is_err());
    peer.expect_publish("1").await;
    peer.expect_eof().await;
    drop(peer);
    session.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_takes_as_long_as_the_broker_reads() {
    let (mut script, builder) = Script::with_pipe(1000);
    let silence = Duration::from_secs(5);
    let mut session = builder.close_timeout(Duration::MAX).close_stall_timeout(silence).start().unwrap();
    // One message is one piece of the queue: room comes back when the last byte is written.
    session.publish("x", vec![7; 100_000]).await.unwrap();
    let publisher = session.publisher();
    let started = Instant::now();
    let serve = async {
        let mut io = script.login().await.into_inner();
        let (mut read, mut last) = (0, 0);
        let mut bytes = [0; 1000];
        loop {
            let n = io.read(&mut bytes).await.unwrap();
            read += n;
            if n == 0 {
                break;
            }
            sleep(Duration::from_secs(4)).await;
            assert!(publisher.bytes_sent() > last || read > 99_000, "after {read} bytes");
            last = publisher.bytes_sent();
        }
        read
    };
    let (closed, read) = tokio::join!(session.close(), serve);
    closed.unwrap();
    assert!(read > 100_000 && started.elapsed() > 60 * silence, "{read}");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_when_the_broker_reads_nothing_more() {
    let (mut script, builder) = Script::with_pipe(1000);
    let silence = Duration::from_secs(5);
    let mut session = builder.close_timeout(Duration::MAX).close_stall_timeout(silence).start().unwrap();
    session.publish("x", vec![7; 100_000]).await.unwrap();
    let mut peer = script.login().await.into_inner();
    let started = Instant::now();
    let (closed, ()) = tokio::join!(session.close(), async {
        peer.read_exact(&mut [0; 5000]).await.unwrap();
    });
    assert!(closed.unwrap_err().is_incomplete());
    assert!(started.elapsed() >= silence && started.elapsed() < 3 * silence, "{:?}", started.elapsed());

    // It has read everything, and does not say so.
    let (mut script, builder) = Script::new();
    let mut session = builder.close_timeout(Duration::MAX).close_stall_timeout(silence).start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    let started = Instant::now();
    assert_eq!(session.close().await.unwrap_err().unconfirmed(), 1);
    assert!(started.elapsed() >= silence && started.elapsed() < 3 * silence, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_before_closing_is_not_held_against_the_broker() {
    let (mut script, builder) = Script::with_pipe(1000);
    let silence = Duration::from_secs(5);
    let mut session = builder.close_timeout(Duration::MAX).close_stall_timeout(silence).start().unwrap();
    session.publish("x", vec![7; 100_000]).await.unwrap();
    let peer = script.login().await.into_inner();
    // Its window is closed all the time.
    sleep(20 * silence).await;
    let started = Instant::now();
    assert!(session.close().await.unwrap_err().is_incomplete());
    assert!(started.elapsed() >= silence && started.elapsed() < 2 * silence, "{:?}", started.elapsed());
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn no_limit_of_its_own_leaves_silence_to_the_system() {
    let (mut script, builder) = Script::new();
    let session = builder.unacknowledged_timeout(Duration::ZERO).start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(script.dials(), 1);
}
