use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::{
    Confirm, SessionEvent, SessionState,
    wire::{
        Frame,
        extension::{BrokerFrame, BrokerHello, Flags, Level},
    },
};
use tokio::time::{Instant, sleep};

use super::peer::{Heard, grants, script};
use crate::script::events_so_far;

#[tokio::test(start_paused = true)]
async fn connect_returns_when_hello_is_answered_and_the_token_is_not_shown() {
    let (mut script, builder) = script();
    let started = Instant::now();
    let (session, (_peer, hello)) = tokio::join!(builder.connect(), script.confirm(0));
    let session = session.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(hello.next, 1);
    assert!(hello.flags.contains(Flags::CONFIRM | Flags::REPLIES));
    let events = events_so_far(&session);
    assert!(matches!(&events[..], [SessionEvent::Connected { broker }] if broker == "scripted"), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn no_message_comes_before_the_brokers_hello() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    session.publish("x", "1").await.unwrap();
    let (mut peer, hello) = script.greet().await;
    peer.expect_subscribe("a").await;
    assert_eq!(peer.heard_within(Duration::from_secs(5)).await, None);
    peer.answer(grants(&hello, Level::ROUTED)).await;
    peer.expect_publish("1").await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_hello_is_given_up() {
    let (mut script, builder) = script();
    let (session, (_peer, _)) = tokio::join!(builder.connect(), script.greet());
    let error = session.unwrap_err();
    assert!(error.is_network() && error.to_string().contains("HELLO"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_told_as_ever() {
    let (mut script, builder) = script();
    let (session, ()) = tokio::join!(builder.connect(), async {
        let (mut peer, _) = script.greet().await;
        peer.error("Authentication failed for me").await;
    });
    assert!(session.unwrap_err().is_rejected());
}

#[tokio::test(start_paused = true)]
async fn what_is_required_is_refused_below_its_level() {
    for (level, granted) in [(Level::ROUTED, Flags::default()), (Level::ROUTED, Flags::CONFIRM)] {
        let (mut script, builder) = script();
        let (session, _peer) = tokio::join!(builder.confirm(Confirm::Required(Level::STORED)).connect(), async {
            let (mut peer, hello) = script.greet().await;
            peer.answer(BrokerHello { flags: hello.flags & granted, level, ..BrokerHello::default() }).await;
            peer
        });
        let error = session.unwrap_err();
        assert!(error.to_string().contains("level 1 is required"), "{error}");
    }
    // A broker that knows nothing of it.
    let (mut script, builder) = script();
    let (session, _peer) =
        tokio::join!(builder.confirm(Confirm::Required(Level::ROUTED)).connect(), script.info_alone());
    assert!(session.unwrap_err().to_string().contains("confirms no messages"));
    let (mut script, builder) = super::peer::script();
    let (session, _peer) = tokio::join!(builder.confirm(Confirm::Required(Level::STORED)).connect(), async {
        let (mut peer, hello) = script.greet().await;
        peer.answer(grants(&hello, Level::STORED)).await;
        peer
    });
    session.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hello_is_left_out_once_two_connections_ended_without_a_word() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    for _ in 0..2 {
        drop(script.greet().await);
    }
    // Now AUTH alone.
    let mut peer = script.offer().await;
    assert!(matches!(peer.heard().await, Heard::Frame(Frame::Auth { .. })));
    session.state().wait_for(|state| *state == SessionState::Connected).await.unwrap();
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    let events = events_so_far(&session);
    let left_out = |event: &SessionEvent| matches!(event, SessionEvent::ExtensionLeftOut { retry_in } if *retry_in == Duration::from_secs(600));
    assert_eq!(events.iter().filter(|event| left_out(event)).count(), 1, "{events:?}");
    // Remembered for ten minutes.
    drop(peer);
    let mut peer = script.offer().await;
    assert!(matches!(peer.heard().await, Heard::Frame(Frame::Auth { .. })));
    assert_eq!(peer.heard_within(Duration::from_secs(1)).await, None);
    sleep(Duration::from_secs(600)).await;
    drop(peer);
    script.confirm(0).await;
}

#[tokio::test(start_paused = true)]
async fn hello_is_left_out_for_nothing_else_than_two_clean_ends_in_a_row() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    drop(script.greet().await);
    // An ERROR.
    let (mut peer, _) = script.greet().await;
    peer.error("I am restarting").await;
    drop(peer);
    drop(script.greet().await);
    // It works once: from now on whatever ends a connection, it is not HELLO.
    drop(script.confirm(0).await);
    for _ in 0..4 {
        drop(script.greet().await);
    }
    drop(session);
    // Nor where confirmation is required.
    let (mut script, builder) = super::peer::script();
    let _session = builder.confirm(Confirm::Required(Level::ROUTED)).start().unwrap();
    for _ in 0..4 {
        drop(script.greet().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_ours_is_left_for_a_new_one() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let (mut peer, hello) = script.greet().await;
    peer.answer(BrokerHello { decided: 7, ..grants(&hello, Level::ROUTED) }).await;
    let Heard::Hello(again) = peer.heard().await else { panic!("not HELLO") };
    assert!(again.stream != hello.stream && again.next == 1);
    peer.answer(grants(&again, Level::ROUTED)).await;
    peer.expect_publish("1").await;
    // One that knows each is no broker.
    drop(peer);
    let (mut peer, mut hello) = script.greet().await;
    for _ in 0..3 {
        peer.answer(BrokerHello { decided: 7, ..grants(&hello, Level::ROUTED) }).await;
        let Heard::Hello(again) = peer.heard().await else { panic!("not HELLO") };
        assert_ne!(again.stream, hello.stream);
        hello = again;
    }
    peer.answer(BrokerHello { decided: 7, ..grants(&hello, Level::ROUTED) }).await;
    peer.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn without_confirmation_nothing_is_numbered_and_nothing_is_sent_again() {
    let (mut script, builder) = script();
    let session = builder.confirm(Confirm::Off).start().unwrap();
    let (mut peer, hello) = script.confirm(0).await;
    assert!(!hello.flags.contains(Flags::CONFIRM) && hello.flags.contains(Flags::REPLIES));
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    peer.refuse(0, 1, "x").await;
    let error = session.publish_confirmed("x", "2").await.unwrap_err();
    assert!(error.is_not_confirmable() && !error.may_have_arrived(), "{error}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(session.stats().refused, 1);
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    assert_eq!(peer.heard_within(Duration::from_secs(1)).await, None);
    assert_eq!(session.unconfirmed(), 1);
}

#[tokio::test(start_paused = true)]
async fn frames_that_make_no_sense_end_the_connection_with_a_reason() {
    let ack_early = async |peer: &mut super::peer::Peer| peer.ack(1).await;
    let (mut script, builder) = script();
    let (session, ()) = tokio::join!(builder.connect(), async {
        let (mut peer, _) = script.greet().await;
        ack_early(&mut peer).await;
        peer.expect_eof().await;
    });
    assert!(session.unwrap_err().to_string().contains("ACK before HELLO"));
    let (mut script, builder) = super::peer::script();
    let session = builder.start().unwrap();
    let mut events = session.events();
    for (frame, text) in [
        (BrokerFrame::Ack { number: 1 }, "message 1, which was not sent"),
        (BrokerFrame::Hello(BrokerHello::default()), "HELLO once more"),
    ] {
        let (mut peer, _) = script.confirm(0).await;
        peer.say(frame).await;
        peer.expect_eof().await;
        let told = |event: &SessionEvent| matches!(event, SessionEvent::Disconnected { cause, .. } if cause.to_string().contains(text));
        while !told(&events.next().await.unwrap()) {}
    }
    let (mut peer, _) = script.confirm(0).await;
    peer.refuse(1, 1, "x").await;
    peer.expect_eof().await;
    // It would take no message at all.
    for largest in [0, 1, 255] {
        let (mut peer, hello) = script.greet().await;
        peer.answer(BrokerHello { largest_message: Some(largest), ..grants(&hello, Level::ROUTED) }).await;
        peer.expect_eof().await;
        let text = format!("no message longer than {largest} bytes");
        let told = |event: &SessionEvent| matches!(event, SessionEvent::Disconnected { cause, .. } if cause.to_string().contains(&text));
        while !told(&events.next().await.unwrap()) {}
    }
    // Malformed, too long, from the wrong side.
    for bytes in [&b"\0\0\0\x05\x81"[..], b"\0\0\x10\x01\x81", b"\0\0\0\x05\x85", b"\0\0\0\x05\x99"] {
        let (mut peer, _) = script.confirm(0).await;
        peer.raw(bytes).await;
        peer.expect_eof().await;
    }
}
