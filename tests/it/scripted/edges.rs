use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{
    ClientSession, SessionEvent,
    wire::{Frame, Nonce, Secret},
};
use tokio::time::{sleep, timeout};

use crate::script::{Peer, SECRET, Script, events_so_far};

const MINUTE: Duration = Duration::from_secs(60);

/// The frame of INFO as the script sends it.
fn info() -> Vec<u8> {
    b"\0\0\0\x12\x01\x08scripted\x01\x02\x03\x04".to_vec()
}

fn error_frame(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(5 + text.len()).unwrap().to_be_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[tokio::test(start_paused = true)]
async fn frames_in_one_segment_with_info_are_processed() {
    for text in ["too many connections", "Authentication failed for me"] {
        let (mut script, builder) = Script::new();
        let (session, ()) = tokio::join!(builder.connect(), async {
            let mut io = script.accept().await;
            let bytes = [info(), error_frame(text)].concat();
            tokio::io::AsyncWriteExt::write_all(&mut io, &bytes).await.unwrap();
            // Stays open for longer than the grace, then closes.
            sleep(Duration::from_secs(5)).await;
        });
        match session {
            Ok(session) => panic!("accepted although the broker said no: {:?}", events_so_far(&session)),
            Err(error) => assert!(error.to_string().contains(text), "{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_is_not_lost_when_it_closes() {
    let (mut script, builder) = Script::new();
    let (session, ()) = tokio::join!(builder.connect(), async {
        let mut io = script.accept().await;
        let bytes = [info(), error_frame("too many connections")].concat();
        tokio::io::AsyncWriteExt::write_all(&mut io, &bytes).await.unwrap();
    });
    let error = session.unwrap_err();
    assert!(error.to_string().contains("too many connections") && !error.is_rejected(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_receive_queue_of_zero_still_receives() {
    let (mut script, builder) = Script::new();
    let mut session = builder.receive_queue(0).start().unwrap();
    let mut peer = script.login().await;
    peer.publish("a", "1").await;
    let got = timeout(MINUTE, session.next()).await;
    assert!(got.is_ok(), "never read from the socket");
}

#[tokio::test(start_paused = true)]
async fn no_close_deadline_can_be_asked_for() {
    let (mut script, builder) = Script::new();
    let mut session = builder.close_timeout(Duration::MAX).start().unwrap();
    let (closed, ()) = tokio::join!(session.close(), async {
        if let Some(Ok(mut io)) = timeout(MINUTE, script.accept()).await.ok().map(Ok::<_, ()>) {
            drop(tokio::io::AsyncWriteExt::shutdown(&mut io).await);
        }
    });
    drop(closed);
}

#[tokio::test(start_paused = true)]
async fn events_asked_for_after_the_end_are_at_their_end() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.start().unwrap();
    drop(session.events());
    session.close().await.unwrap();
    let mut events = session.events();
    assert!(timeout(MINUTE, events.next()).await.is_ok(), "the stream of events never ends");
}

#[test]
fn a_runtime_that_ends_first_ends_the_session() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut session = runtime.block_on(async { ClientSession::new("localhost", 1, "me", "x").unwrap() });
    // The driver was spawned and never polled.
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let next = other.block_on(async { timeout(Duration::from_secs(1), session.next()).await });
    assert!(next.is_ok(), "next() hangs for ever");
}

#[tokio::test(start_paused = true)]
async fn publishers_of_a_dropped_session_hear_that_it_is_closed() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let publisher = session.publisher();
    session.publish("bad", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=bad").await;
    sleep(Duration::from_secs(1)).await;
    drop(session);
    peer.expect_eof().await;
    let error = publisher.publish("good", "2").await.unwrap_err();
    assert!(error.is_closed(), "{error}");
}

#[tokio::test]
async fn a_reset_right_after_auth_is_a_rejection_too() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let session = ClientSession::builder(("127.0.0.1", port), "me", "x").max_retries(0).start().unwrap();
    session.subscribe("a").unwrap();
    let (mut io, _) = listener.accept().await.unwrap();
    io.write_all(&info()).await.unwrap();
    // AUTH is 5 + 3 + 20 bytes; SUBSCRIBE came with it and is not read: closing now resets the connection.
    let mut auth = [0; 28];
    io.read_exact(&mut auth).await.unwrap();
    let subscribe = timeout(Duration::from_secs(20), io.peek(&mut [0])).await;
    assert_eq!(subscribe.expect("a SUBSCRIBE").unwrap(), 1);
    drop(io);
    let mut events = session.events();
    while let Some(event) = events.next().await {
        if let SessionEvent::Disconnected { cause, .. } = event {
            assert!(cause.is_rejected(), "{cause}");
        }
    }
}

#[test]
fn types_have_the_auto_traits_that_programs_need() {
    fn all<T: Send + Sync + Unpin + 'static>() {}
    all::<ClientSession>();
    all::<hpfeeds::Publisher>();
    all::<hpfeeds::PublishSink>();
    all::<hpfeeds::Events>();
    all::<hpfeeds::Error>();
    all::<hpfeeds::SessionBuilder>();
}

#[tokio::test(start_paused = true)]
async fn a_backlog_does_not_starve_the_task_that_reads_it() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    let mut peer = script.login().await;
    for n in 0..20_000 {
        peer.publish("a", n.to_string()).await;
        // Each becomes a run of its own.
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_secs(1)).await;
    let mut read = 0;
    let drain = async {
        while session.next().await.is_some() {
            read += 1;
        }
    };
    assert!(timeout(Duration::ZERO, drain).await.is_err());
    assert!(read < 5_000, "{read} messages were read before a deadline of zero was looked at");
}

#[tokio::test]
async fn error_before_a_reset_is_reported() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for _ in 0..20 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let session = ClientSession::builder(("127.0.0.1", port), "me", "x").max_retries(0).start().unwrap();
        session.subscribe("a").unwrap();
        let (mut io, _) = listener.accept().await.unwrap();
        io.write_all(&info()).await.unwrap();
        let mut auth = [0; 28];
        io.read_exact(&mut auth).await.unwrap();
        io.write_all(&error_frame("Authentication failed for me")).await.unwrap();
        drop(io);
        let mut events = session.events();
        while let Some(event) = events.next().await {
            if let SessionEvent::Disconnected { cause, .. } = event {
                assert!(cause.is_rejected() && cause.to_string().contains("failed for me"), "{cause}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_connect_drops_its_connection() {
    for when in 0..3 {
        let (mut script, builder) = Script::new();
        let mut connecting = Box::pin(builder.connect());
        assert!((&mut connecting).now_or_never().is_none());
        let mut io = if when == 0 {
            drop(connecting);
            // Perhaps it never dials.
            sleep(MINUTE).await;
            assert!(script.dials() <= 1);
            continue;
        } else {
            script.accept().await
        };
        if when == 2 {
            tokio::io::AsyncWriteExt::write_all(&mut io, &info()).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(connecting);
        let mut rest = Vec::new();
        timeout(MINUTE, tokio::io::AsyncReadExt::read_to_end(&mut io, &mut rest)).await.unwrap().unwrap();
        sleep(MINUTE).await;
        assert_eq!(script.dials(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nonce_may_have_any_length() {
    for len in [0, 4, 16, 100] {
        let (mut script, builder) = Script::new();
        let _session = builder.start().unwrap();
        let nonce = Nonce::new(vec![9; len]);
        let mut peer = Peer::new(script.accept().await);
        peer.send(Frame::Info { name: String::new(), nonce: nonce.clone() }).await;
        match peer.frame().await {
            Frame::Auth { digest, .. } => assert!(Secret::from(SECRET).verify(&nonce, &digest)),
            other => panic!("{other:?}"),
        }
    }
}
