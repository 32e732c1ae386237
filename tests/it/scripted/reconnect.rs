use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{Backoff, SessionEvent, SessionState, wire::Frame};
use tokio::time::{Instant, sleep, timeout};

use crate::script::{Script, text};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn connect_returns_once_the_broker_let_the_grace_pass() {
    let (mut script, builder) = Script::new();
    let started = Instant::now();
    let (session, _peer) = tokio::join!(builder.auth_grace(Duration::from_millis(700)).connect(), script.login());
    assert_eq!(started.elapsed(), Duration::from_millis(700));
    assert_eq!(*session.unwrap().state().borrow(), SessionState::Connected);
}

#[tokio::test(start_paused = true)]
async fn connect_returns_sooner_when_something_arrives() {
    let (mut script, builder) = Script::new();
    let started = Instant::now();
    let (session, _peer) = tokio::join!(builder.auth_grace(MINUTE).connect(), async {
        let mut peer = script.login().await;
        peer.publish("a", "1").await;
        peer
    });
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(session.unwrap().next().await.unwrap().2, "1");
}

#[tokio::test(start_paused = true)]
async fn connect_says_why_it_failed() {
    for text in ["Authentication failed for me", "Authentication failed", "authfail."] {
        let (mut script, builder) = Script::new();
        let (session, ()) = tokio::join!(builder.connect(), async { script.login().await.error(text).await });
        let error = session.unwrap_err();
        assert!(error.is_rejected(), "{error}");
        assert!(error.to_string().contains(text) && error.to_string().contains("broker.test:20000"), "{error}");
        assert!(!error.to_string().contains(crate::script::SECRET));
        assert_eq!(script.dials(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn connect_takes_a_silent_close_after_auth_for_a_rejection() {
    let (mut script, builder) = Script::new();
    let (session, ()) = tokio::join!(builder.connect(), async { drop(script.login().await) });
    let error = session.unwrap_err();
    assert!(error.is_rejected(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn connect_reports_an_unreachable_broker() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let error = builder.connect().await.unwrap_err();
    assert!(error.is_network(), "{error}");
    assert!(error.to_string().starts_with("cannot connect to broker.test:20000"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn connect_does_not_wait_for_a_silent_broker_forever() {
    let (mut script, builder) = Script::new();
    let started = Instant::now();
    let (session, _silent) = tokio::join!(builder.connect(), script.accept());
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    assert!(session.unwrap_err().is_network());
}

#[tokio::test(start_paused = true)]
async fn connect_recognises_what_is_not_hpfeeds() {
    let cases: [(&[u8], &str); 4] = [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it speaks SSH"),
        (b"\0\0\0\0\0", "too short"),
        (b"\0\0\0\x08\x04\x01ic", "not INFO"),
        (b"\0\0\0\x09\x00busy", "busy"),
    ];
    for (bytes, expected) in cases {
        let (mut script, builder) = Script::new();
        let (session, _io) = tokio::join!(builder.connect(), async {
            let mut io = script.accept().await;
            tokio::io::AsyncWriteExt::write_all(&mut io, bytes).await.unwrap();
            io
        });
        let error = session.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn connect_says_that_the_peer_closed_before_info() {
    let (mut script, builder) = Script::new();
    let (session, ()) = tokio::join!(builder.connect(), async { drop(script.accept().await) });
    let error = session.unwrap_err();
    assert!(error.is_network(), "{error}");
    let expected = "closed before the broker said anything: perhaps it expects TLS (--tls or --tlscert FILE";
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test(start_paused = true)]
async fn bad_arguments_are_the_callers_fault() {
    let error = hpfeeds::ClientSession::connect("localhost", "me", "x").await.unwrap_err();
    assert!(error.is_usage(), "{error}");
    let error = hpfeeds::ClientSession::new("localhost", 1, "", "x").unwrap_err();
    assert!(error.is_usage() && error.to_string() == r#"ident "" is empty"#, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_key_is_not_retried_in_a_hot_loop() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let mut events = session.events();
    let reject = async {
        loop {
            script.login().await.error("Authentication failed for me").await;
        }
    };
    // In ten minutes the delays grow to 30 s at most, 15 s on average: about 45 attempts. A thousand lucky dice in a
    // row could not make it 120.
    assert!(timeout(10 * MINUTE, reject).await.is_err());
    let dials = script.dials();
    assert!((20..120).contains(&dials), "{dials} attempts in ten minutes");
    let event = std::iter::from_fn(|| events.next().now_or_never().flatten())
        .find(|event| matches!(event, SessionEvent::AuthRejected { .. }));
    assert!(matches!(event, Some(SessionEvent::AuthRejected { cause }) if cause.is_rejected()));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_accepts_and_drops_does_not_reset_the_delays() {
    let (mut script, builder) = Script::new();
    let _session = builder.start().unwrap();
    let flap = async {
        loop {
            let peer = script.login().await;
            sleep(Duration::from_secs(1)).await;
            drop(peer);
        }
    };
    assert!(timeout(10 * MINUTE, flap).await.is_err());
    let dials = script.dials();
    assert!((20..120).contains(&dials), "{dials} attempts in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_delivers_one_message_and_drops_us_is_not_dialled_in_a_loop() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    let flap = async {
        loop {
            script.login().await.publish("a", "one").await;
            assert_eq!(session.next().await.unwrap().2, "one");
        }
    };
    assert!(timeout(10 * MINUTE, flap).await.is_err());
    let dials = script.dials();
    assert!((20..120).contains(&dials), "{dials} attempts in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lasted_resets_the_delays() {
    let (mut script, builder) = Script::new();
    let _session = builder.backoff(Backoff::new(Duration::from_millis(100), 60 * MINUTE)).start().unwrap();
    let started = Instant::now();
    for _ in 0..30 {
        let peer = script.login().await;
        sleep(Duration::from_secs(11)).await;
        drop(peer);
    }
    // Growing delays would have reached hours.
    assert!(started.elapsed() < 6 * MINUTE, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn subscriptions_come_back_and_the_queue_follows_in_order() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    session.subscribe("b").unwrap();
    session.subscribe("a").unwrap();
    session.publish("x", "1").await.unwrap();

    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    peer.expect_subscribe("b").await;
    peer.expect_publish("1").await;
    session.unsubscribe("a").unwrap();
    session.subscribe("b").unwrap();
    peer.expect_unsubscribe("a").await;
    drop(peer);

    for n in 2..50 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    let mut peer = script.login().await;
    peer.expect_subscribe("b").await;
    for n in 2..50 {
        peer.expect_publish(&n.to_string()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_stay_queued_until_the_key_is_accepted() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    session.publish("x", "precious").await.unwrap();
    for _ in 0..3 {
        let mut peer = script.login().await;
        assert_eq!(peer.frame_within(Duration::from_millis(249)).await, None, "sent before the grace had passed");
        peer.error("Authentication failed for me").await;
    }
    script.login().await.expect_publish("precious").await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_cut_in_two_is_sent_again_whole_and_nothing_else_is() {
    // A frame is 26 bytes long and the pipe holds 100: the connection breaks at every possible place inside one.
    for cut in 0..60 {
        let (mut script, builder) = Script::with_pipe(100);
        let session = builder.start().unwrap();
        let payloads: Vec<_> = (0..20).map(|n| format!("payload number {n:02}")).collect();
        for payload in &payloads {
            session.publish("x", payload.clone()).await.unwrap();
        }
        let first = script.login().await.read_then_drop(cut).await;
        let whole = first.len() / 27;

        let mut peer = script.login().await;
        let mut got = vec![text(&peer.frame().await)];
        while got.last() != payloads.last() {
            got.push(text(&peer.frame().await));
        }
        let from = payloads.iter().position(|payload| *payload == got[0]).unwrap();
        assert_eq!(got, payloads[from..], "cut at {cut}");
        // The bytes that the broken pipe had taken (100 beyond those that were read) are gone with it; no more than that.
        assert!((whole..=whole + 1 + 100 / 27).contains(&from), "cut at {cut}: went on with {from}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_payload_cut_in_two_is_sent_again_whole() {
    let (mut script, builder) = Script::with_pipe(1000);
    let session = builder.start().unwrap();
    let payload: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    session.publish("x", payload.clone()).await.unwrap();
    session.publish("x", "after").await.unwrap();
    script.login().await.read_then_drop(150_000).await;
    let mut peer = script.login().await;
    assert!(matches!(peer.frame().await, Frame::Publish { payload: p, .. } if p == payload));
    peer.expect_publish("after").await;
}

#[tokio::test(start_paused = true)]
async fn state_and_events_tell_what_happens() {
    let (mut script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.start().unwrap();
    let mut state = session.state();
    state.wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
    script.set_down(false);
    let peer = script.login().await;
    state.wait_for(|state| *state == SessionState::Connected).await.unwrap();
    drop(peer);
    let mut peer = script.login().await;
    state.wait_for(|state| *state == SessionState::Connected).await.unwrap();
    peer.error("the disk is full").await;
    let close = async {
        peer.expect_eof().await;
        drop(peer);
    };
    let (closed, ()) = tokio::join!(session.close(), close);
    closed.unwrap();
    assert_eq!(*state.borrow(), SessionState::Closed);

    let mut told: Vec<String> = Vec::new();
    let mut events = session.events();
    while let Some(event) = events.next().await {
        told.push(match event {
            SessionEvent::Connected { broker } => format!("connected {broker}"),
            SessionEvent::Disconnected { cause, unconfirmed } => format!("disconnected {unconfirmed}: {cause}"),
            SessionEvent::BrokerError { message } => message,
            other => format!("{other:?}"),
        });
    }
    // However often the first dial failed before the broker was up:
    told.dedup_by(|a, b| a == b && a.contains("cannot connect"));
    assert_eq!(
        told,
        [
            "disconnected 0: cannot connect to broker.test:20000: connection refused",
            "connected scripted",
            "disconnected 0: broker.test:20000 closed the connection",
            "connected scripted",
            "the disk is full",
            "Closed { cause: None }",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn giving_up_ends_the_stream_and_close_says_why() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.max_retries(3).start().unwrap();
    assert_eq!(session.next().await, None);
    assert_eq!(script.dials(), 4);
    assert!(session.close().await.unwrap_err().is_network());
    assert!(session.subscribe("a").unwrap_err().is_network());
    assert!(session.publish("a", "x").await.unwrap_err().is_network());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_session_ends_its_connection_and_its_publishers() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let publisher = session.publisher();
    let mut events = session.events();
    let mut peer = script.login().await;
    drop(session);
    peer.expect_eof().await;
    while events.next().await.is_some() {}
    assert!(publisher.publish("a", "x").await.unwrap_err().is_closed());
}
