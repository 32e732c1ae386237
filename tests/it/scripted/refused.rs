use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::{SessionEvent, SessionState, wire::Frame};
use tokio::time::{sleep, timeout};

use crate::script::{Peer, Script, events_so_far};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_refused_message_does_not_cost_a_subscription_that_works() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    for _ in 0..3 {
        peer.publish("a", "works").await;
        assert_eq!(session.next().await.unwrap().1, "a");
        sleep(MINUTE).await;
    }
    session.publish("x", "not allowed").await.unwrap();
    peer.expect_publish("not allowed").await;
    // The text that may mean either.
    peer.error("accessfail.").await;
    drop(peer);
    let mut peer = script.login().await;
    let next = peer.frame_within(MINUTE).await;
    assert!(
        matches!(&next, Some(Frame::Subscribe { channel, .. }) if channel == "a"),
        "the subscription is gone: {next:?}, {:?}",
        events_so_far(&session)
    );
}

#[tokio::test(start_paused = true)]
async fn a_right_taken_away_later_is_found_and_the_others_flow() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    for channel in ["a", "bad", "c"] {
        session.subscribe(channel).unwrap();
    }
    let mut peer = script.login().await;
    peer.error("Subscribe not authorized").await;
    drop(peer);
    // One at a time: "a" is good, "bad" is not, "c" is.
    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    peer.expect_subscribe("bad").await;
    peer.error("Subscribe not authorized").await;
    peer.expect_subscribe("c").await;
    sleep(MINUTE).await;
    drop(peer);
    // The operator takes "a" away as well. This broker closes after a denial.
    let dials = script.dials();
    let found = timeout(10 * MINUTE, async {
        loop {
            let mut peer = script.login().await;
            if until_denied(&mut peer, "a").await {
                peer.error("Subscribe not authorized").await;
                drop(peer);
            } else {
                break;
            }
        }
    })
    .await;
    let dials = script.dials() - dials;
    assert!(dials < 120, "{dials} attempts in ten minutes");
    found.expect("the denied channel was never found");
}

/// Whether the session asks for the channel; false when it has not within a while.
async fn until_denied(peer: &mut Peer, denied: &str) -> bool {
    while let Ok(Some(frame)) = timeout(Duration::from_secs(5), peer.next()).await {
        if matches!(&frame, Frame::Subscribe { channel, .. } if channel == denied) {
            return true;
        }
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_denial_that_changes_nothing_is_no_repair() {
    for text in [
        "Authkey not allowed to sub here. ident=me, chan=unknown",
        "Authkey not allowed to pub here. ident=me, chan=unknown",
        "Subscribe not authorized",
    ] {
        let (mut script, builder) = Script::new();
        let _session = builder.start().unwrap();
        let deny = async {
            loop {
                script.login().await.error(text).await;
            }
        };
        assert!(timeout(10 * MINUTE, deny).await.is_err());
        let dials = script.dials();
        assert!(dials < 120, "{text}: {dials} attempts in ten minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_asking_one_at_a_time_costs_no_subscription() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    for channel in ["a", "b"] {
        session.subscribe(channel).unwrap();
    }
    let mut peer = script.login().await;
    peer.error("accessfail.").await;
    drop(peer);
    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    // The operator restarts the broker, to load the corrected key. "a" was never refused.
    drop(peer);
    let mut peer = script.login().await;
    let mut asked = Vec::new();
    while let Ok(Some(Frame::Subscribe { channel, .. })) = timeout(MINUTE, peer.next()).await {
        asked.push(channel.to_string());
    }
    assert_eq!(asked, ["a", "b"], "{:?}", events_so_far(&session));
}

#[tokio::test(start_paused = true)]
async fn an_old_complaint_is_not_why_a_connection_ends_hours_later() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    session.subscribe("bad").unwrap();
    let mut peer = script.login().await;
    peer.error("Authkey not allowed to sub here. ident=me, chan=bad").await;
    sleep(60 * MINUTE).await;
    script.set_down(true);
    drop(peer);
    sleep(Duration::from_secs(1)).await;
    let cause = events_so_far(&session).into_iter().find_map(|event| match event {
        SessionEvent::Disconnected { cause, .. } => Some(cause),
        _ => None,
    });
    let cause = cause.unwrap();
    assert!(cause.is_network(), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn discarded_messages_are_counted_for_their_own_channel() {
    let (mut script, builder) = Script::with_pipe(200);
    let session = builder.start().unwrap();
    for n in 0..30 {
        session.publish("one", n.to_string()).await.unwrap();
    }
    for n in 0..30 {
        session.publish("two", n.to_string()).await.unwrap();
    }
    let mut peer = script.login().await;
    peer.expect_publish("0").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=one").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=two").await;
    sleep(Duration::from_secs(1)).await;
    drop(peer);
    script.login().await;
    let mut discarded = std::collections::BTreeMap::new();
    for event in events_so_far(&session) {
        if let SessionEvent::PublishDenied { channel: Some(channel), discarded: n, .. } = event {
            *discarded.entry(channel.to_string()).or_insert(0) += n;
        }
    }
    assert!(discarded["one"] <= 30 && discarded["two"] <= 30 && discarded["one"] > 0, "{discarded:?}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_while_ages_ago_is_not_why_the_session_gave_up() {
    let (mut script, builder) = Script::new();
    let mut session = builder.max_retries(2).start().unwrap();
    session.publish("bad", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=bad").await;
    sleep(60 * MINUTE).await;
    script.set_down(true);
    drop(peer);
    assert_eq!(session.next().await, None);
    let error = session.publish("good", "2").await.unwrap_err();
    assert!(error.is_network(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn error_text_is_not_kept_by_the_megabyte() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let mut peer = script.login().await;
    session.state().wait_for(|state| *state == SessionState::Connected).await.unwrap();
    for _ in 0..64 {
        peer.error(&"x".repeat(1 << 20)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let kept: usize = events_so_far(&session)
        .into_iter()
        .map(|event| if let SessionEvent::BrokerError { message } = event { message.len() } else { 0 })
        .sum();
    assert!(kept < 1 << 20, "{kept} bytes of errors are held for somebody who may never ask");
}

#[tokio::test(start_paused = true)]
async fn accessfail_again_and_again_for_a_publish_costs_every_subscription() {
    // As f04, with several: they go into quarantine of careful mode for a refused message.
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    for n in 0..8 {
        session.subscribe(format!("c{n}")).unwrap();
    }
    let mut peer = script.login().await;
    peer.publish("c0", "works").await;
    session.next().await.unwrap();
    sleep(MINUTE).await;
    session.publish("x", "not allowed").await.unwrap();
    while !matches!(peer.frame().await, Frame::Publish { .. }) {}
    peer.error("accessfail.").await;
    drop(peer);
    let started = tokio::time::Instant::now();
    let _peer = script.login().await;
    session.state().wait_for(|state| *state == SessionState::Connected).await.unwrap();
    session.state().wait_for(|state| *state == SessionState::Connected).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let denied =
        events_so_far(&session).into_iter().filter(|event| matches!(event, SessionEvent::PublishDenied { .. })).count();
    println!("back after {:?}", started.elapsed());
    assert_eq!(denied, 1, "the refused message was never reported");
}
