//! A broker that shuts down, and reads what is sent until the session ends its stream.

use std::time::Duration;

use hpfeeds::{ClientSession, SessionEvent, SessionState, wire::Frame};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};

use crate::script::{Peer, Script, events_so_far, text};

const ASKS: &str = "The broker is shutting down; end your stream";

fn unconfirmed(session: &ClientSession) -> Vec<u64> {
    let count = |event| match event {
        SessionEvent::Disconnected { unconfirmed, .. } => Some(unconfirmed),
        _ => None,
    };
    events_so_far(session).into_iter().filter_map(count).collect()
}

async fn accepted(session: &ClientSession, script: &mut Script) -> Peer {
    let peer = script.login().await;
    session.state().wait_for(|state| *state == SessionState::Connected).await.unwrap();
    peer
}

#[tokio::test(start_paused = true)]
async fn messages_read_up_to_our_end_are_confirmed_and_the_session_goes_on() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = accepted(&session, &mut script).await;
    peer.expect_publish("1").await;
    peer.error(ASKS).await;
    peer.expect_eof().await;
    // For the next connection.
    session.publish("x", "2").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(peer);
    let mut peer = accepted(&session, &mut script).await;
    peer.expect_publish("2").await;
    assert_eq!(unconfirmed(&session), [0]);
    let (closed, ()) = tokio::join!(session.close(), async {
        // It comes while ours is on its way, and asks for nothing more.
        peer.error(ASKS).await;
        peer.expect_eof().await;
        drop(peer);
    });
    closed.unwrap();
    assert_eq!(session.unconfirmed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_has_been_begun_is_finished_and_nothing_comes_twice() {
    const MESSAGES: usize = 40;
    for cut in [1, 100, 104, 105, 106, 210, 211, 1000, 2000] {
        let (mut script, builder) = Script::with_pipe(200);
        let session = builder.start().unwrap();
        for n in 0..MESSAGES {
            session.publish("x", format!("{n:0>95}")).await.unwrap();
        }
        let peer = accepted(&session, &mut script).await;
        let mut io = peer.into_inner();
        let mut first = vec![0; cut];
        io.read_exact(&mut first).await.unwrap();
        let mut peer = Peer::new(io);
        peer.error(ASKS).await;
        let mut io = peer.into_inner();
        io.read_to_end(&mut first).await.unwrap();
        drop(io);
        // Frames of 105 bytes.
        assert!(first.len().is_multiple_of(105) && first.len() <= cut + 405, "{} after {cut}", first.len());
        let mut peer = accepted(&session, &mut script).await;
        for n in first.len() / 105..MESSAGES {
            assert_eq!(text(&peer.frame().await), format!("{n:0>95}"), "{cut}");
        }
        assert_eq!(unconfirmed(&session), [0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_did_not_get_to_the_end_confirms_nothing() {
    for word in ["The broker is shutting down", ""] {
        let (mut script, builder) = Script::new();
        let session = builder.start().unwrap();
        session.publish("x", "1").await.unwrap();
        let mut peer = accepted(&session, &mut script).await;
        peer.expect_publish("1").await;
        peer.error(ASKS).await;
        peer.expect_eof().await;
        if word.is_empty() {
            // It neither closes nor says anything.
            let Frame::Auth { .. } = script_frame(&mut script).await else { panic!("no new connection") };
        } else {
            peer.error(word).await;
            drop(peer);
            drop(script.login().await);
        }
        assert_eq!(unconfirmed(&session)[0], 1, "{word:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn closing_hears_the_end_of_a_broker_that_shuts_down_behind_messages_that_nobody_reads() {
    let (mut script, builder) = Script::new();
    let mut session = builder.receive_queue(1000).start().unwrap();
    session.publish("x", "1").await.unwrap();
    let mut peer = accepted(&session, &mut script).await;
    peer.expect_publish("1").await;
    peer.error(ASKS).await;
    peer.expect_eof().await;
    for _ in 0..10 {
        peer.publish("y", vec![7; 1000]).await;
    }
    // The receive queue is full.
    sleep(Duration::from_millis(100)).await;
    drop(peer);
    let started = Instant::now();
    session.close().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(session.unconfirmed(), 0);
}

/// The first frame of the next connection.
async fn script_frame(script: &mut Script) -> Frame {
    let mut peer = Peer::new(script.accept().await);
    let nonce = hpfeeds::wire::Nonce::new(crate::script::NONCE);
    peer.send(Frame::Info { name: "scripted".to_owned(), nonce }).await;
    peer.frame().await
}
