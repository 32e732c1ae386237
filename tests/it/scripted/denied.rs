use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{ClientSession, SessionEvent, wire::Frame};
use tokio::time::{Instant, sleep};

use crate::script::{Peer, Script};

/// The events so far that are not about connections coming and going.
fn denials(session: &ClientSession) -> Vec<(&'static str, Option<String>)> {
    let mut events = session.events();
    std::iter::from_fn(|| events.next().now_or_never().flatten())
        .filter_map(|event| match event {
            SessionEvent::SubscribeDenied { channel, .. } => Some(("sub", channel.map(String::from))),
            SessionEvent::PublishDenied { channel, .. } => Some(("pub", channel.map(String::from))),
            _ => None,
        })
        .collect()
}

async fn delivers(peer: &mut Peer, session: &mut ClientSession, channel: &str) {
    peer.publish(channel, "still here").await;
    assert_eq!(session.next().await.unwrap().1, channel);
}

#[tokio::test(start_paused = true)]
async fn a_named_subscription_is_taken_out_and_the_others_flow() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    for channel in ["a", "bad", "c"] {
        session.subscribe(channel).unwrap();
    }
    let mut peer = script.login().await;
    for channel in ["a", "bad", "c"] {
        peer.expect_subscribe(channel).await;
    }
    peer.error("Authkey not allowed to sub here. ident=me, chan=bad").await;
    drop(peer);

    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    peer.expect_subscribe("c").await;
    delivers(&mut peer, &mut session, "c").await;
    assert_eq!(denials(&session), [("sub", Some("bad".to_owned()))]);

    // Asked again on purpose, it is tried again.
    session.subscribe("bad").unwrap();
    peer.expect_subscribe("bad").await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_open_after_a_denial_keeps_the_connection() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.subscribe("bad").unwrap();
    session.subscribe("a").unwrap();
    let mut peer = script.login().await;
    peer.error("Authkey not allowed to sub here. ident=me, chan=bad").await;
    delivers(&mut peer, &mut session, "a").await;
    assert_eq!(script.dials(), 1);
    assert_eq!(denials(&session), [("sub", Some("bad".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn the_only_subscription_is_the_one_that_an_unnamed_denial_means() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    session.subscribe("bad").unwrap();
    let mut peer = script.login().await;
    peer.expect_subscribe("bad").await;
    peer.error("Subscribe not authorized").await;
    assert_eq!(peer.frame_within(Duration::from_secs(60)).await, None);
    assert_eq!(denials(&session), [("sub", Some("bad".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn an_unnamed_denial_after_the_grace_means_the_subscription_of_a_session_that_never_published() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    let mut peer = script.login().await;
    // Accepted; what is written from now on may be messages.
    assert_eq!(peer.frame_within(Duration::from_secs(60)).await, None);
    session.subscribe("bad").unwrap();
    peer.expect_subscribe("bad").await;
    sleep(Duration::from_millis(400)).await;
    peer.error("accessfail.").await;
    assert_eq!(peer.frame_within(Duration::from_secs(60)).await, None);
    assert_eq!(denials(&session), [("sub", Some("bad".to_owned()))]);
    let (closed, ()) = tokio::join!(session.close(), peer.expect_eof());
    drop(peer);
    closed.unwrap();
}

/// Plays a broker that refuses `bad` without naming it, in one of the ways that brokers have.
async fn find_the_culprit(refusal: Option<&str>) {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    for channel in ["a", "bad", "c"] {
        session.subscribe(channel).unwrap();
    }
    session.publish("x", "held").await.unwrap();
    let mut peer = script.login().await;
    for channel in ["a", "bad", "c"] {
        peer.expect_subscribe(channel).await;
    }
    peer.error("accessfail.").await;

    // One at a time now, and no message in between. A close without a word may be a restart; the second time it is
    // an answer.
    for _ in 0..if refusal.is_some() { 1 } else { 2 } {
        let mut peer = script.login().await;
        peer.expect_subscribe("a").await;
        peer.expect_subscribe("bad").await;
        if let Some(text) = refusal {
            peer.error(text).await;
        }
    }

    let mut peer = script.login().await;
    peer.expect_subscribe("a").await;
    peer.expect_subscribe("c").await;
    peer.expect_publish("held").await;
    delivers(&mut peer, &mut session, "c").await;
    assert_eq!(denials(&session), [("sub", Some("bad".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn an_unnamed_denial_among_several_is_found_by_asking_one_at_a_time() {
    find_the_culprit(Some("accessfail.")).await;
    find_the_culprit(Some("Subscribe not authorized")).await;
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_word_after_one_subscription_means_that_one() {
    find_the_culprit(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_message_quarantines_its_channel_for_a_minute() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    session.publish("bad", "1").await.unwrap();
    let mut peer = script.login().await;
    peer.expect_publish("1").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=bad").await;
    drop(peer);
    let mut peer = script.login().await;

    let error = session.publish("bad", "2").await.unwrap_err();
    assert!(error.is_denied() && error.denied_channel().is_some_and(|channel| channel == "bad"), "{error}");
    assert!(session.try_publish("bad", "2").unwrap_err().cause().unwrap().is_denied());
    session.publish("good", "3").await.unwrap();
    peer.expect_publish("3").await;

    sleep(Duration::from_secs(61)).await;
    session.publish("bad", "4").await.unwrap();
    peer.expect_publish("4").await;
    assert_eq!(denials(&session), [("pub", Some("bad".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn queued_messages_to_a_denied_channel_are_discarded_and_counted() {
    // The pipe is shorter than the queue: some messages are still with the session when the denial arrives.
    let (mut script, builder) = Script::with_pipe(200);
    let session = builder.start().unwrap();
    let free = session.publisher().free();
    for n in 0..50 {
        session.publish("bad", format!("bad {n}")).await.unwrap();
        session.publish("good", format!("good {n}")).await.unwrap();
    }
    let mut peer = script.login().await;
    peer.expect_publish("bad 0").await;
    peer.error("Authkey not allowed to pub here. ident=me, chan=bad").await;
    sleep(Duration::from_secs(1)).await;
    drop(peer);

    let mut peer = script.login().await;
    let mut got = Vec::new();
    while got.last().is_none_or(|last: &String| last != "good 49") {
        got.push(crate::script::text(&peer.frame().await));
    }
    let first = 50 - got.len() as u64;
    assert_eq!(got, (first..50).map(|n| format!("good {n}")).collect::<Vec<_>>());
    let mut events = session.events();
    let discarded: u64 = std::iter::from_fn(|| events.next().now_or_never().flatten())
        .map(|event| if let SessionEvent::PublishDenied { discarded, .. } = event { discarded } else { 0 })
        .sum();
    // Where the connection broke, "bad n" may or may not have been written before "good n".
    assert!(discarded > 10 && (discarded == 50 - first || discarded == 49 - first), "{discarded}, {first}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(session.publisher().free(), free, "the discarded messages still take up room");
}

#[tokio::test(start_paused = true)]
async fn messages_wait_while_the_broker_may_be_about_to_close() {
    for refusal in [
        "Authkey not allowed to pub here. ident=me, chan=bad",
        "Authkey not allowed to sub here. ident=me, chan=bad",
        "busy",
    ] {
        let (mut script, builder) = Script::new();
        let session = builder.start().unwrap();
        session.publish("bad", "1").await.unwrap();
        let mut peer = script.login().await;
        peer.expect_publish("1").await;
        peer.error(refusal).await;
        sleep(Duration::from_millis(50)).await;
        session.publish("good", "precious").await.unwrap();
        sleep(Duration::from_millis(50)).await;
        drop(peer);
        script.login().await.expect_publish("precious").await;

        // A broker that stays open gets it a little later.
        let (mut script, builder) = Script::new();
        let mut session = builder.start().unwrap();
        session.publish("bad", "1").await.unwrap();
        let mut peer = script.login().await;
        peer.expect_publish("1").await;
        peer.error(refusal).await;
        session.publish("good", "precious").await.unwrap();
        let (closed, ()) = tokio::join!(session.close(), async {
            peer.expect_publish("precious").await;
            peer.expect_eof().await;
            drop(peer);
        });
        assert_eq!(closed.is_ok(), refusal.contains("sub"), "{refusal}");
        assert_eq!(script.dials(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn many_denied_subscriptions_do_not_starve_the_allowed_one() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    for n in 1..=200 {
        session.subscribe(format!("d{n:03}")).unwrap();
    }
    session.subscribe("ok").unwrap();
    let started = Instant::now();
    loop {
        let mut peer = script.login().await;
        match peer.frame().await {
            Frame::Subscribe { channel, .. } if channel == "ok" => {
                delivers(&mut peer, &mut session, "ok").await;
                break;
            }
            Frame::Subscribe { channel, .. } => {
                peer.error(&format!("Authkey not allowed to sub here. ident=me, chan={channel}")).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(script.dials(), 201);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_program_that_asks_again_for_what_is_denied_does_not_hammer_the_broker() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let deny = async {
        loop {
            session.subscribe("bad").unwrap();
            let mut peer = script.login().await;
            peer.expect_subscribe("bad").await;
            peer.error("Authkey not allowed to sub here. ident=me, chan=bad").await;
            drop(peer);
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(600), deny).await.is_err());
    let dials = script.dials();
    assert!(dials < 120, "{dials} attempts in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn unnamed_denials_among_a_thousand_subscriptions_are_found_in_seconds() {
    for (text, stays_open, denied) in [
        ("accessfail.", false, &["c777"][..]),
        ("accessfail.", true, &["c000"]),
        ("Subscribe not authorized", false, &["c000", "c500", "c501", "c999"]),
    ] {
        let (mut script, builder) = Script::new();
        let mut session = builder.start().unwrap();
        for n in 0..1000 {
            session.subscribe(format!("c{n:03}")).unwrap();
        }
        let started = Instant::now();
        // The broker, until it has nothing to refuse for a while.
        let mut asked = std::collections::BTreeSet::new();
        let mut peer = 'refused: loop {
            let mut peer = script.login().await;
            asked.clear();
            while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), peer.next()).await {
                let channel = match next {
                    Some(Frame::Subscribe { channel, .. }) => channel.to_string(),
                    None => continue 'refused,
                    other => panic!("{other:?}"),
                };
                if denied.contains(&channel.as_str()) {
                    peer.error(text).await;
                    if !stays_open {
                        continue 'refused;
                    }
                } else {
                    asked.insert(channel);
                }
            }
            break peer;
        };
        let steps = u32::try_from(denied.len()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(2) + steps * Duration::from_secs(8), "{:?}", started.elapsed());
        assert_eq!(asked.len(), 1000 - denied.len());
        assert!(script.dials() <= 2 + 12 * denied.len(), "{} dials", script.dials());
        delivers(&mut peer, &mut session, "c998").await;
        let found: Vec<_> = denials(&session).into_iter().filter_map(|(_, channel)| channel).collect();
        assert_eq!(found, denied, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_refuses_later_than_the_grace_does_not_have_the_allowed_ones_taken_out() {
    for late in [300, 400, 600, 2000].map(Duration::from_millis) {
        for channels in [2, 3, 9] {
            let (mut script, builder) = Script::new();
            let session = builder.start().unwrap();
            for n in 0..channels {
                session.subscribe(format!("c{n}")).unwrap();
            }
            let serve = async {
                loop {
                    let mut peer = script.login().await;
                    while let Some(Frame::Subscribe { channel, .. }) = peer.next().await {
                        if channel == "c0" {
                            sleep(late).await;
                            peer.error("Subscribe not authorized").await;
                            break;
                        }
                    }
                }
            };
            let over = tokio::time::timeout(Duration::from_secs(120), serve).await;
            assert!(over.is_err());
            assert_eq!(denials(&session), [("sub", Some("c0".to_owned()))], "{channels} channels, {late:?}");
        }
    }
}
