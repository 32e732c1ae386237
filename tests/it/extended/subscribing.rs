use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{SessionEvent, wire::extension::Code};
use tokio::time::{Instant, sleep};

use super::peer::script;
use crate::script::{Script, events_so_far};

#[tokio::test(start_paused = true)]
async fn a_denied_channel_does_not_cost_the_connection() {
    let (mut script, builder) = script();
    let mut session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    session.subscribe("bad").unwrap();
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_subscribe("a").await;
    peer.expect_subscribe("bad").await;
    peer.suback(Code::DONE, "a").await;
    peer.suback(Code::NOT_ALLOWED, "bad").await;
    peer.publish("a", "still here").await;
    assert_eq!(session.next().await.unwrap().2, "still here");
    let events = events_so_far(&session);
    let denied = |event: &SessionEvent| matches!(event, SessionEvent::SubscribeDenied { channel: Some(channel), .. } if channel == "bad");
    assert_eq!(events.iter().filter(|event| denied(event)).count(), 1, "{events:?}");
    assert_eq!(script.dials(), 1);
    // Asked again on purpose, it is tried again; after a reconnect it is not.
    session.subscribe("bad").unwrap();
    peer.expect_subscribe("bad").await;
    peer.suback(Code::NOT_ALLOWED, "bad").await;
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_subscribe("a").await;
    assert_eq!(peer.heard_within(Duration::from_secs(1)).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_subscription_waits_for_the_brokers_word() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        peer.expect_subscribe("a").await;
        sleep(Duration::from_secs(7)).await;
        peer.suback(Code::DONE, "a").await;
        peer.expect_subscribe("bad").await;
        peer.suback(Code::NOT_ALLOWED, "bad").await;
    };
    let ask = async {
        let started = Instant::now();
        session.subscribe_confirmed("a").await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(7));
        // Known already.
        session.subscribe_confirmed("a").now_or_never().unwrap().unwrap();
        let error = session.subscribe_confirmed("bad").await.unwrap_err();
        assert!(error.is_denied() && error.to_string().contains("not yours"), "{error}");
        assert_eq!(error.denied_channel().unwrap(), "bad");
    };
    tokio::join!(serve, ask);
    // It outlives the connection.
    drop(peer);
    let waiting = session.subscribe_confirmed("a");
    let serve = async {
        let (mut peer, _) = script.confirm(0).await;
        peer.expect_subscribe("a").await;
        peer.suback(Code::DONE, "a").await;
        peer
    };
    let (subscribed, _peer) = tokio::join!(waiting, serve);
    subscribed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_says_nothing_about_a_channel_that_was_asked_for_again() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    session.subscribe("a").unwrap();
    peer.expect_subscribe("a").await;
    session.unsubscribe("a").unwrap();
    peer.heard().await;
    let waiting = session.subscribe_confirmed("a");
    let serve = async {
        peer.expect_subscribe("a").await;
        peer.suback(Code::NOT_ALLOWED, "a").await;
        peer.suback(Code::DONE, "a").await;
        peer.suback(Code::DONE, "a").await;
    };
    tokio::join!(waiting, serve).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_wanted_again_before_anything_was_sent_is_granted() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    session.subscribe("a").unwrap();
    peer.expect_subscribe("a").await;
    // Its answer is on its way, or known.
    for known in [false, true] {
        session.unsubscribe("a").unwrap();
        let waiting = session.subscribe_confirmed("a");
        sleep(Duration::from_millis(1)).await;
        if !known {
            peer.suback(Code::DONE, "a").await;
        }
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
    // What takes the place of a subscription is not forgotten when it is taken back at once.
    drop(session.subscribe_from("a", hpfeeds::SubscribeFrom::live()));
    session.unsubscribe("a").unwrap();
    assert!(matches!(peer.heard().await, super::peer::Heard::Frame(hpfeeds::wire::Frame::Unsubscribe { .. })));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_channel_ends_with_unsubscribing_and_with_the_session() {
    let (mut script, builder) = script();
    let mut session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    {
        let mut waiting = Box::pin(session.subscribe_confirmed("a"));
        assert!((&mut waiting).now_or_never().is_none());
        peer.expect_subscribe("a").await;
        session.unsubscribe("a").unwrap();
        assert!(waiting.await.unwrap_err().to_string().contains("unsubscribed"));
    }
    let shared = session.publisher();
    let (closed, ()) = tokio::join!(session.close(), async {
        while peer.next().await.is_some() {}
        drop(peer);
    });
    closed.unwrap();
    assert!(session.subscribe_confirmed("a").await.unwrap_err().is_closed());
    assert!(shared.flush().await.unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn without_the_extension_a_subscription_counts_when_the_grace_has_passed() {
    let (mut script, builder) = Script::new();
    let session = builder.auth_grace(Duration::from_secs(3)).start().unwrap();
    let started = Instant::now();
    let (subscribed, mut peer) = tokio::join!(session.subscribe_confirmed("a"), script.login());
    subscribed.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    peer.expect_subscribe("a").await;
    let (subscribed, ()) = tokio::join!(session.subscribe_confirmed("b"), peer.expect_subscribe("b"));
    subscribed.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(6));
    let (subscribed, ()) = tokio::join!(session.subscribe_confirmed("bad"), async {
        peer.expect_subscribe("bad").await;
        peer.error("Authkey not allowed to sub here. ident=me, chan=bad").await;
    });
    assert!(subscribed.unwrap_err().is_denied());
}
