//! Sessions that receive from mailboxes.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{
    ClientSession, SessionBuilder, SessionEvent, SubscribeFrom, merge,
    wire::Frame,
    wire::extension::{BrokerFrame, Code, Flags, GapReason, Mode, Position, StreamId, StreamPosition},
};
use tokio::time::{sleep, timeout};

use super::peer::{Heard, Peer, script};
use crate::script::{Script, events_so_far};

/// A session that is attached to a mailbox with all channels, its script and the connection.
async fn attached(builder: SessionBuilder, script: &mut Script, mailbox: &str) -> (ClientSession, Peer) {
    let session = builder.start().unwrap();
    let granted = session.subscribe_from("*", SubscribeFrom::mailbox(mailbox));
    let (mut peer, hello) = script.confirm(0).await;
    assert!(hello.flags.contains(Flags::ORIGIN | Flags::WINDOW));
    let (granted, ()) = tokio::join!(granted, peer.expect_from(Mode::CURSOR, 0, mailbox, "*"));
    granted.unwrap();
    (session, peer)
}

async fn payload(session: &mut ClientSession) -> String {
    let message = timeout(Duration::from_secs(60), session.next()).await.expect("nothing came");
    String::from_utf8(message.unwrap().2.to_vec()).unwrap()
}

fn number(session: &ClientSession) -> Option<u64> {
    session.origin().map(|origin| origin.position.number)
}

#[tokio::test(start_paused = true)]
async fn a_message_is_processed_when_the_next_one_is_asked_for() {
    let (mut script, builder) = script();
    let (mut session, mut peer) = attached(builder, &mut script, "elastic").await;
    peer.deliver("elastic", 10, "a", &["0", "1", "2"]).await;
    assert_eq!(session.origin(), None);
    for expected in ["0", "1"] {
        assert_eq!(payload(&mut session).await, expected);
    }
    assert_eq!(number(&session), Some(11));
    // A program that takes its time with one message keeps nobody from hearing of those before it.
    assert_eq!(peer.processed().await, ("elastic".to_owned(), 10));
    assert_eq!(payload(&mut session).await, "2");
    assert_eq!(peer.processed().await, ("elastic".to_owned(), 11));
    // It waits for more: it is done with the last one.
    assert!(session.next().now_or_never().is_none());
    assert_eq!(peer.processed().await, ("elastic".to_owned(), 12));
    peer.processed_nothing().await;
    assert_eq!(number(&session), Some(12));
    // Set back by its operator, the mailbox delivers the same once more, and hears of it once more.
    peer.deliver("elastic", 12, "a", &["2"]).await;
    assert_eq!(payload(&mut session).await, "2");
    assert!(session.next().now_or_never().is_none());
    assert_eq!(peer.processed().await, ("elastic".to_owned(), 12));
}

#[tokio::test(start_paused = true)]
async fn with_manual_commit_a_message_is_processed_when_the_program_says_so() {
    let (mut script, builder) = script();
    let (mut session, mut peer) = attached(builder.manual_commit(true), &mut script, "").await;
    peer.deliver("", 10, "a", &["0", "1", "2"]).await;
    peer.deliver("", 20, "b", &["3"]).await;
    for expected in ["0", "1", "2", "3"] {
        assert_eq!(payload(&mut session).await, expected);
    }
    assert!(session.next().now_or_never().is_none());
    peer.processed_nothing().await;
    // At once, not with the next sweep.
    sleep(Duration::from_millis(300)).await;
    session.commit();
    let told = timeout(Duration::from_millis(1), peer.processed()).await.unwrap();
    assert_eq!(told, (String::new(), 20));
    session.commit();
    peer.processed_nothing().await;
    // What was processed as the last thing is told before the end of the stream.
    peer.deliver("", 30, "b", &["4", "5"]).await;
    assert_eq!(payload(&mut session).await, "4");
    session.commit();
    let (closed, ()) = tokio::join!(session.close(), async {
        assert_eq!(peer.processed().await, (String::new(), 30));
        while peer.next().await.is_some() {}
        drop(peer);
    });
    closed.unwrap();
    assert_eq!(session.next().await, None, "the other one comes again, in the next program");
}

#[tokio::test(start_paused = true)]
async fn closing_tells_what_is_processed_before_the_end() {
    let (mut script, builder) = script();
    let (mut session, mut peer) = attached(builder, &mut script, "m").await;
    peer.deliver("m", 1, "a", &["0", "1"]).await;
    payload(&mut session).await;
    payload(&mut session).await;
    let (closed, ()) = tokio::join!(session.close(), async {
        assert_eq!(peer.processed().await, ("m".to_owned(), 1), "the last one was not finished");
        while peer.next().await.is_some() {}
        drop(peer);
    });
    closed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_goes_on_from_the_cursor_and_lets_go_what_comes_again() {
    for manual in [false, true] {
        let (mut script, builder) = script();
        let (mut session, mut peer) = attached(builder.manual_commit(manual), &mut script, "m").await;
        peer.deliver("m", 10, "a", &["0", "1", "2"]).await;
        peer.publish("live", "live").await;
        peer.deliver("m", 13, "a", &["3"]).await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(payload(&mut session).await, "0");
        assert_eq!(payload(&mut session).await, "1");
        drop(peer);
        let (mut peer, hello) = script.confirm(0).await;
        // All of the queue but the live message is free again.
        assert_eq!(hello.window, Some((4 << 20) - (5 + 5 + 5 + 4)));
        peer.expect_from(Mode::CURSOR, 0, "m", "*").await;
        // Positions of the connection before are not told on this one.
        session.commit();
        peer.processed_nothing().await;
        peer.deliver("m", 11, "a", &["1", "2"]).await;
        peer.deliver("m", 13, "a", &["3"]).await;
        for expected in ["live", "1", "2", "3"] {
            assert_eq!(payload(&mut session).await, expected, "{manual}");
            assert_eq!(session.origin().is_none(), expected == "live");
        }
        session.commit();
        assert_eq!(peer.processed().await, ("m".to_owned(), 13));
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_is_asked_for_until_it_is_granted_and_then_the_cursor() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let granted = session.subscribe_from("a", SubscribeFrom::mailbox("m").first(Position::new(7, 500)));
    let expected = Heard::SubscribeFrom(Mode::CURSOR, Position::new(7, 500), "m".to_owned(), "a".to_owned());
    let (mut peer, _) = script.confirm(0).await;
    assert_eq!(peer.heard().await, expected);
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_from(Mode::CURSOR, 500, "m", "a").await;
    granted.await.unwrap();
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_from(Mode::CURSOR, 0, "m", "a").await;
    // Asked once more on the same connection, it begins there once more.
    let granted = session.subscribe_from("a", SubscribeFrom::mailbox("m").first(Position::new(7, 9)));
    let (granted, ()) = tokio::join!(granted, peer.expect_from(Mode::CURSOR, 9, "m", "a"));
    granted.unwrap();
    // One channel has one subscription.
    let granted = session.subscribe_from("a", SubscribeFrom::live());
    assert!(matches!(peer.heard().await, Heard::Frame(Frame::Unsubscribe { .. })));
    peer.suback(Code::DONE, "a").await;
    let (granted, ()) = tokio::join!(granted, peer.expect_from(Mode::LIVE, 0, "", "a"));
    granted.unwrap();
    session.subscribe("a").unwrap();
    session.unsubscribe("a").unwrap();
    assert!(matches!(peer.heard().await, Heard::Frame(Frame::Unsubscribe { .. })));
    session.subscribe("a").unwrap();
    peer.expect_subscribe("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_wanted_without_its_mailbox_leaves_that() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let unsubscribed = |heard| matches!(heard, Heard::Frame(Frame::Unsubscribe { channel, .. }) if channel == "a");
    let granted = session.subscribe_from("a", SubscribeFrom::mailbox("m"));
    peer.expect_from(Mode::CURSOR, 0, "m", "a").await;
    granted.await.unwrap();
    // Both between two looks of the driver.
    session.unsubscribe("a").unwrap();
    let granted = session.subscribe_confirmed("a");
    assert!(unsubscribed(peer.heard().await));
    peer.expect_subscribe("a").await;
    peer.suback(Code::DONE, "a").await;
    sleep(Duration::from_millis(1)).await;
    assert!(granted.now_or_never().is_none(), "that was about the mailbox");
    let granted = session.subscribe_confirmed("a");
    peer.suback(Code::DONE, "a").await;
    granted.await.unwrap();
    // Another mailbox takes its place, and a position in the same one does not leave it.
    for (mailbox, number, leaves) in [("m", 0, false), ("n", 0, true), ("n", 5, false)] {
        let position = if number == 0 { Position::NONE } else { Position::new(7, number) };
        let granted = session.subscribe_from("a", SubscribeFrom::mailbox(mailbox).first(position));
        if leaves {
            assert!(unsubscribed(peer.heard().await));
            peer.suback(Code::DONE, "a").await;
        }
        peer.expect_from(Mode::CURSOR, number, mailbox, "a").await;
        granted.await.unwrap();
    }
    // A new connection asks for what is wanted, and for nothing to be left.
    session.unsubscribe("a").unwrap();
    session.subscribe("a").unwrap();
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_subscribe("a").await;
    assert_eq!(peer.heard_within(Duration::from_secs(1)).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_earlier_subscription_grants_no_mailbox() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    session.subscribe("a").unwrap();
    peer.expect_subscribe("a").await;
    let granted = session.subscribe_from("a", SubscribeFrom::mailbox("m"));
    peer.suback(Code::DONE, "a").await;
    assert!(matches!(peer.heard().await, Heard::SubscribeFrom(..)));
    peer.say(BrokerFrame::SubAck { code: Code::NO_MAILBOX, channel: "a", text: "me/m is not declared" }).await;
    let error = granted.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the broker has no mailbox \"m\" of this ident: \"me/m is not declared\"; it needs --data-dir and --mailbox \
         'IDENT/NAME=CHANNELS'"
    );
    assert!(error.is_no_mailbox() && !error.is_denied());
    let events = events_so_far(&session);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, SessionEvent::SubscribeDenied { cause, .. } if cause.is_no_mailbox())),
        "{events:?}"
    );
    // It is not asked for again.
    drop(peer);
    let (mut peer, _) = script.confirm(0).await;
    assert_eq!(peer.heard_within(Duration::from_secs(1)).await, None);
    let granted = session.subscribe_from("a", SubscribeFrom::last_value());
    let serve = async {
        assert_eq!(
            peer.heard().await,
            Heard::SubscribeFrom(Mode::LAST_VALUE, Position::NONE, String::new(), "a".to_owned())
        );
        peer.suback(Code::NO_MAILBOX, "a").await;
    };
    let (granted, ()) = tokio::join!(granted, serve);
    assert!(granted.unwrap_err().to_string().contains("--last-value"));
    let long = session.subscribe_from("a", SubscribeFrom::mailbox(&"x".repeat(256))).now_or_never().unwrap();
    assert!(long.unwrap_err().is_usage());
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_the_extension_has_no_mailboxes_and_live_channels() {
    let (mut script, builder) = Script::new();
    let session = builder.start().unwrap();
    let mailbox = session.subscribe_from("a", SubscribeFrom::mailbox("m"));
    let live = session.subscribe_from("b", SubscribeFrom::live());
    let mut peer = script.login().await;
    peer.expect_subscribe("b").await;
    let error = mailbox.await.unwrap_err();
    assert!(error.is_no_mailbox() && error.to_string().contains("does not know the extension hpx/1"), "{error}");
    live.await.unwrap();
    // Connected, it is the same.
    let error = session.subscribe_from("a", SubscribeFrom::last_value()).await.unwrap_err();
    assert!(error.is_no_mailbox(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn runs_end_where_they_were_said_to_end_however_they_come() {
    let (mut script, builder) = script();
    let (mut session, mut peer) = attached(builder.limits(hpfeeds::Limits::new(100)), &mut script, "m").await;
    let stream = StreamId::new([9; 16]);
    let source = Some(StreamPosition { stream, number: 70 });
    peer.say(BrokerFrame::Origin { position: Position::new(7, 10), count: 4, source, mailbox: "m" }).await;
    peer.publish("a", "10").await;
    sleep(Duration::from_millis(1)).await;
    // One is too long for this session, and one is no message: they are passed over with the others.
    peer.publish("a", vec![7; 200]).await;
    peer.raw(b"\0\0\0\x0b\x03\x02me\x01\xffx").await;
    peer.publish("a", "13").await;
    peer.publish("a", "live").await;
    peer.deliver("m", 15, "a", &["15"]).await;
    peer.deliver("", 16, "a", &["16"]).await;
    let mut seen = Vec::new();
    while let Ok(Some((_, _, payload))) = timeout(Duration::from_secs(1), session.next()).await {
        let number = session.origin().map(|origin| {
            let source = origin.source.map(|source| source.number);
            (origin.mailbox.to_string(), origin.position.number, source)
        });
        seen.push((String::from_utf8(payload.to_vec()).unwrap(), number));
    }
    let at = |mailbox: &str, number, source| Some((mailbox.to_owned(), number, source));
    let expected = [
        ("10", at("m", 10, Some(70))),
        ("13", at("m", 13, Some(73))),
        ("live", None),
        ("15", at("m", 15, None)),
        ("16", at("", 16, None)),
    ];
    assert_eq!(seen, expected.map(|(payload, number)| (payload.to_owned(), number)));
    assert_eq!(session.skipped(), 2);
    // The last message of a run may be one that is passed over.
    peer.deliver("m", 20, "a", &["20"]).await;
    payload(&mut session).await;
    peer.say(BrokerFrame::Origin { position: Position::new(7, 21), count: 1, source: None, mailbox: "m" }).await;
    peer.publish("a", vec![7; 200]).await;
    assert!(timeout(Duration::from_secs(3), session.next()).await.is_err());
    let mut last = peer.processed().await;
    while last.1 < 21 {
        last = peer.processed().await;
    }
    assert_eq!(last, ("m".to_owned(), 21));
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_told_and_counted() {
    let (mut script, builder) = script();
    let (session, mut peer) = attached(builder, &mut script, "m").await;
    let gap = |messages, reason| BrokerFrame::Gap { messages, reason, mailbox: "m", text: "cowrie.sessions: 3" };
    peer.say(gap(3, GapReason::RETENTION)).await;
    sleep(Duration::from_secs(2)).await;
    for _ in 0..100 {
        peer.say(gap(1, GapReason::DAMAGE)).await;
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(session.stats().missed, 103);
    let events = events_so_far(&session);
    let gaps: Vec<_> = events.iter().filter(|event| matches!(event, SessionEvent::Gap { .. })).collect();
    assert_eq!(gaps[0].to_string(), "the mailbox \"m\" has lost 3 messages (retention): \"cowrie.sessions: 3\"");
    assert_eq!(gaps.len(), 1 + 16, "of very many, some are told");
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_mailbox_that_was_not_asked_for_end_the_connection() {
    let (mut script, builder) = script();
    let (_session, mut peer) = attached(builder, &mut script, "m").await;
    peer.deliver("other", 1, "a", &["0"]).await;
    peer.expect_eof().await;
}

#[tokio::test(start_paused = true)]
async fn an_ident_s_own_mailbox_delivers_to_every_subscription() {
    let (mut script, builder) = script();
    let mut session = builder.start().unwrap();
    session.subscribe("a").unwrap();
    let (mut peer, _) = script.confirm(0).await;
    peer.expect_subscribe("a").await;
    peer.suback(Code::DONE, "a").await;
    peer.deliver("", 1, "a", &["0", "1"]).await;
    payload(&mut session).await;
    payload(&mut session).await;
    assert_eq!(peer.processed().await, (String::new(), 1));
}

#[tokio::test(start_paused = true)]
async fn merged_sessions_process_what_the_merged_stream_has_passed() {
    let (mut script, builder) = script();
    let (session, mut peer) = attached(builder, &mut script, "m").await;
    let mut merged = merge([session]);
    peer.deliver("m", 1, "a", &["0", "1"]).await;
    for _ in 0..2 {
        merged.next().await.unwrap();
    }
    assert_eq!(peer.processed().await, ("m".to_owned(), 1));
    merged.sessions()[0].commit();
    assert_eq!(peer.processed().await, ("m".to_owned(), 2));
}

#[test]
fn a_mailbox_is_consumed_over_tcp_in_a_runtime_with_threads() {
    // The same over a real socket, with the driver on another thread than the reader.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let session = ClientSession::builder(addr, "me", crate::script::SECRET).start().unwrap();
        let granted = session.subscribe_from("*", SubscribeFrom::mailbox("m"));
        let mut peer = Peer::greeting(listener.accept().await.unwrap().0).await;
        peer.expect_from(Mode::CURSOR, 0, "m", "*").await;
        granted.await.unwrap();
        let serve = async {
            for batch in 0..50_u64 {
                let payloads: Vec<_> = (0..20).map(|index| (batch * 20 + index).to_string()).collect();
                let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
                peer.deliver("m", 1 + batch * 20, "a", &payloads).await;
            }
            let mut last = 0;
            while last < 1000 {
                let (_, next) = peer.processed().await;
                assert!(next > last, "{next} after {last}");
                last = next;
            }
            peer
        };
        let read = async {
            let mut session = session;
            for expected in 0..1000_u64 {
                let (_, _, payload) = session.next().await.unwrap();
                assert_eq!(payload, expected.to_string());
                assert_eq!(number(&session), Some(expected + 1));
            }
            session.commit();
            session
        };
        tokio::join!(serve, tokio::spawn(read)).1.unwrap();
    });
}
