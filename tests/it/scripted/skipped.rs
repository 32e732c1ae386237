use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionEvent, wire::Limits};
use tokio::time::{Instant, sleep};

use crate::script::{Script, events_so_far};

const MINUTE: Duration = Duration::from_secs(60);

/// The events about messages that the session passed over: how many, and why the last.
fn told(session: &ClientSession) -> Vec<(u64, String)> {
    let skipped = |event| match event {
        SessionEvent::Skipped { messages, cause } => Some((messages, cause.to_string())),
        _ => None,
    };
    events_so_far(session).into_iter().filter_map(skipped).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_passed_over_counted_and_told() {
    for (body, why) in [
        (&b"\x01\xff\x01cx"[..], "ident in PUBLISH frame is not UTF-8"),
        (b"\x01i\x01\xffx", "channel in PUBLISH frame is not UTF-8"),
        (b"\0\x01cx", "ident in PUBLISH frame is empty"),
        (b"\x09i", "PUBLISH frame ends inside the ident"),
    ] {
        let (mut script, builder) = Script::new();
        let mut session = builder.start().unwrap();
        let mut peer = script.login().await;
        let mut bad = u32::try_from(5 + body.len()).unwrap().to_be_bytes().to_vec();
        bad.push(3);
        bad.extend_from_slice(body);
        let run = [b"\0\0\0\x0a\x03\x01i\x01c1", &bad[..], b"\0\0\0\x0a\x03\x01i\x01c2", &bad[..]].concat();
        peer.raw(&run).await;
        assert_eq!(session.next().await.unwrap().2, "1");
        assert_eq!(session.next().await.unwrap().2, "2");
        peer.publish("a", "3").await;
        assert_eq!(session.next().await.unwrap().2, "3");
        assert_eq!(session.skipped(), 2);
        let told = told(&session);
        assert!(matches!(&told[..], [(1, cause)] if cause.ends_with(why) && cause.contains("broker.test")), "{told:?}");
        sleep(MINUTE).await;
        assert_eq!(script.dials(), 1, "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_is_passed_over_and_says_what_to_raise() {
    let (mut script, builder) = Script::new();
    let mut session = builder.limits(Limits::new(100)).start().unwrap();
    let mut peer = script.login().await;
    for payload in [96, 100, 1000, 1_000_000] {
        peer.publish("a", "before").await;
        let (next, ()) = tokio::join!(session.next(), async {
            peer.publish("a", vec![7; payload]).await;
            peer.publish("b", "after").await;
        });
        assert_eq!(next.unwrap().2, "before");
        assert_eq!(session.next().await.unwrap().2, "after");
        sleep(MINUTE).await;
    }
    assert_eq!((session.skipped(), script.dials()), (4, 1));
    let told = told(&session);
    assert_eq!(told.iter().map(|(messages, _)| *messages).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (_, cause) in &told {
        assert!(cause.contains("raise --max-message (SessionBuilder::limits)"), "{cause}");
        assert!(cause.contains("the limit is 105 bytes") && !cause.contains("does not speak"), "{cause}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_limit_may_come_first_and_in_any_pieces() {
    let (mut script, builder) = Script::new();
    let (session, peer) = tokio::join!(builder.limits(Limits::new(100)).auth_grace(MINUTE).connect(), async {
        let mut peer = script.login().await;
        let started = Instant::now();
        for piece in [&b"\0\0\x01"[..], b"\0\x03\x04them", b"\x01a", &[7; 238], b"777777"] {
            peer.raw(piece).await;
            sleep(Duration::from_millis(1)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(1));
        peer.publish("a", "next").await;
        peer
    });
    // It proves that the key is good, as any message does.
    let mut session = session.unwrap();
    assert_eq!(session.next().await.unwrap().2, "next");
    assert_eq!(session.skipped(), 1);
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_nothing_but_noise_does_not_push_other_events_out() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    let mut peer = script.login().await;
    for _ in 0..10_000 {
        peer.raw(b"\0\0\0\x0a\x03\x01\xff\x01c1").await;
    }
    peer.publish("a", "1").await;
    assert_eq!(session.next().await.unwrap().2, "1");
    assert_eq!(session.skipped(), 10_000);
    let events = events_so_far(&session);
    assert!(events.len() < 4, "{} events", events.len());
}
