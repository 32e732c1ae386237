//! Every event of the protocol and what the broker answers.

use std::{
    env,
    num::NonZero,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use hpfeeds::wire::{DecodeError, Frame};
use hpfeeds_broker::{AuthError, AuthStore, Broker, Endpoint, EnvStore, Exposition, Key, Lookup};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Peer, builder, bytes, publish, start, subscribe, unsubscribe, until, within};

#[tokio::test]
async fn info_comes_first_with_a_nonce_of_its_own() {
    let broker = start(builder().name("my broker").extensions(false)).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(broker.local_addr()).await.unwrap();
        let mut info = [0; 5 + 1 + 9 + 4];
        within(stream.read_exact(&mut info)).await.unwrap();
        assert_eq!(info[..15], *b"\0\0\0\x13\x01\x09my broker");
        nonces.push(info[15..].to_vec());
    }
    assert_ne!(nonces[0], nonces[1]);
}

/// Peers that do not know it show or ignore the name.
#[tokio::test]
async fn info_offers_the_extension_behind_the_name_where_that_fits() {
    for (name, offered) in [("b".to_owned(), true), ("n".repeat(248), true), ("n".repeat(249), false)] {
        let without = Endpoint::tcp("127.0.0.1", 0).extensions(false);
        let broker = start(builder().name(&name).endpoint(without)).await;
        let greeted =
            [Peer::connect(broker.local_addrs()[1]).await.name, Peer::connect(broker.local_addr()).await.name];
        assert_eq!(greeted, [name.clone(), if offered { format!("{name} hpx/1") } else { name }]);
    }
}

#[tokio::test]
async fn a_nonce_may_be_longer() {
    let longest = "n".repeat(255);
    let broker = start(builder().name(&longest).nonce_len(20)).await;
    let mut peer = Peer::dev(&broker).await;
    assert_eq!((peer.name.len(), peer.nonce.as_bytes().len()), (255, 20));
    peer.settle().await;
    for len in [3, 21] {
        let error = builder().nonce_len(len).start().await.unwrap_err().to_string();
        assert_eq!(error, format!("the nonce has {len} bytes: 4 to 20 are possible"));
    }
}

/// An eavesdropper has the answer to a nonce that is never asked for again.
#[tokio::test]
async fn an_old_answer_is_no_answer() {
    let broker = start(builder()).await;
    let mut old = Peer::connect(broker.local_addr()).await;
    let answer = old.auth("dev", "dev");
    old.send(answer.clone()).await;
    old.ident = "dev".to_owned();
    old.settle().await;
    let mut new = Peer::connect(broker.local_addr()).await;
    new.send(answer).await;
    new.expect_error("Authentication failed for dev").await;
}

#[tokio::test]
async fn wrong_keys_are_rejected() {
    let broker = start(builder().auth_failure_delay(Duration::ZERO)).await;
    for (ident, secret) in [("dev", "wrong"), ("nobody", "dev"), ("new\nline", "x")] {
        let peer = Peer::login(broker.local_addr(), ident, secret).await;
        peer.expect_error(format!("Authentication failed for {ident}")).await;
    }
    assert_eq!((broker.stats().auth_failures, broker.stats().authenticated), (3, 0));
}

#[tokio::test]
async fn a_rejected_client_hears_it_at_once_and_waits_when_it_comes_back() {
    let broker = start(builder().auth_failure_delay(Duration::MAX)).await;
    Peer::login(broker.local_addr(), "dev", "wrong").await.expect_error("Authentication failed for dev").await;
    let mut stream = TcpStream::connect(broker.local_addr()).await.unwrap();
    until(|| broker.stats().connections == 1).await;
    let info = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(info.is_err(), "{info:?}");
    // A connection that the client has closed is not kept.
    drop(stream);
    until(|| broker.stats().connections == 0).await;
}

#[tokio::test]
async fn a_client_that_comes_back_at_once_with_a_wrong_secret_is_slowed_down() {
    let delay = Duration::from_millis(500);
    let broker = start(builder().auth_failure_delay(delay)).await;
    let start = Instant::now();
    // As the Python client does: at the ERROR it closes, and connects again.
    for _ in 0..4 {
        let mut peer = Peer::login(broker.local_addr(), "dev", "wrong").await;
        assert!(matches!(peer.next().await, Some(Frame::Error { .. })));
    }
    assert!(start.elapsed() >= 3 * delay, "{:?}", start.elapsed());
    // Others behind that address get in.
    Peer::dev(&broker).await.settle().await;
    assert_eq!((broker.stats().auth_failures, broker.stats().authenticated), (4, 1));
}

#[tokio::test]
async fn a_key_store_that_fails_or_hangs_lets_nobody_in() {
    struct Broken;
    impl AuthStore for Broken {
        fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
            Box::pin(async move {
                if ident == "slow" {
                    std::future::pending::<()>().await;
                }
                Err(AuthError::new("the database is down"))
            })
        }
    }
    let limit = Duration::from_millis(20);
    let broker = start(builder().auth(Broken).auth_timeout(limit).auth_failure_delay(Duration::ZERO)).await;
    for ident in ["bob", "slow"] {
        let peer = Peer::login(broker.local_addr(), ident, "x").await;
        peer.expect_error(format!("Authentication failed for {ident}")).await;
    }
    Peer::dev(&broker).await.settle().await;
    // As nobody has proved to be either, their names are no labels.
    let metrics = broker.metrics(Exposition::Prometheus);
    for sample in [
        r#"hpfeeds_broker_connection_error_total{ident="",category="error-checking-ident"} 2"#,
        r#"hpfeeds_broker_handshake_failures_total{reason="lookup-failed"} 1"#,
        r#"hpfeeds_broker_handshake_failures_total{reason="lookup-timeout"} 1"#,
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample} is missing in {metrics}");
    }
    // A client that waits for its lookup keeps no other waiting.
    let broker = start(builder().auth(Broken).auth_timeout(Duration::from_secs(3600))).await;
    let mut waiting = Peer::login(broker.local_addr(), "slow", "x").await;
    for _ in 0..3 {
        Peer::dev(&broker).await.settle().await;
    }
    assert!(waiting.next().now_or_never().is_none());
    assert_eq!((broker.stats().authenticated, broker.stats().auth_failures), (3, 0));
}

#[tokio::test]
async fn env_idents_are_as_the_client_writes_them() {
    let variables = |name: &str| match name {
        "HPFEEDS_BOB_SECRET" => Ok("s".to_owned()),
        "HPFEEDS_BOB_PUBCHANS" | "HPFEEDS_BOB_SUBCHANS" => Ok("private,x".to_owned()),
        _ => Err(env::VarError::NotPresent),
    };
    let broker = Broker::builder().listen("127.0.0.1:0").unwrap().auth(EnvStore::with(variables));
    let broker = start(broker).await;
    Peer::login(broker.local_addr(), "Bob", "s").await.settle().await;
    Peer::login(broker.local_addr(), "bob", "s").await.settle().await;
}

#[tokio::test]
async fn spellings_of_an_ident_share_its_limits() {
    let variables = |name: &str| match name {
        "HPFEEDS_BOB_SECRET" | "HPFEEDS_EVE_SECRET" => Ok("s".to_owned()),
        "HPFEEDS_BOB_PUBCHANS" | "HPFEEDS_BOB_SUBCHANS" | "HPFEEDS_EVE_PUBCHANS" | "HPFEEDS_EVE_SUBCHANS" => {
            Ok("private,x".to_owned())
        }
        _ => Err(env::VarError::NotPresent),
    };
    let builder = Broker::builder().listen("127.0.0.1:0").unwrap().auth(EnvStore::with(variables));
    let broker = start(builder.max_connections_per_ident(NonZero::new(2)).auth_failure_delay(Duration::ZERO)).await;
    let login = |ident: &'static str| Peer::login(broker.local_addr(), ident, "s");
    let (mut one, mut two) = (login("bob").await, login("Bob").await);
    one.settle().await;
    two.settle().await;
    for ident in ["bob", "BOB", "bOB"] {
        login(ident).await.expect_error(&format!("Too many connections for {ident}")).await;
    }
    let mut eve = login("eve").await;
    eve.settle().await;
    until(|| broker.stats().connections == 3).await;
    drop(one);
    until(|| broker.stats().connections == 2).await;
    login("bOB").await.settle().await;
}

#[tokio::test]
async fn the_first_message_must_be_auth() {
    let broker = start(builder()).await;
    let frames = [subscribe("dev", "a"), unsubscribe("dev", "a"), publish("dev", "a", "x")];
    for frame in frames {
        let mut peer = Peer::connect(broker.local_addr()).await;
        peer.send(frame).await;
        peer.expect_error("First message was not AUTH").await;
    }
    assert_eq!(broker.stats().handshake_failures, 3);
}

#[tokio::test]
async fn the_handshake_has_a_deadline() {
    let broker = start(builder().handshake_timeout(Duration::from_millis(50))).await;
    let peer = Peer::connect(broker.local_addr()).await;
    peer.expect_error("No AUTH within 0.05 s").await;
    // Also in the middle of AUTH.
    let mut peer = Peer::connect(broker.local_addr()).await;
    peer.send_raw(&[0, 0, 0, 28]).await;
    peer.expect_error("No AUTH within 0.05 s").await;
}

#[tokio::test]
async fn denials_are_those_of_the_python_broker() {
    let broker = start(builder()).await;
    let cases = [
        (publish("dev", "a", ""), "Invalid authkey in message, ident=dev"),
        // The ident is looked at before the channel.
        (publish("dev", "b", ""), "Invalid authkey in message, ident=dev"),
        (publish("alice", "b", ""), "Authkey not allowed to pub here. ident=alice, chan=b"),
        (publish("alice", "a\r\n", ""), "Authkey not allowed to pub here. ident=alice, chan=a\r\n"),
        (subscribe("alice", "a"), "Authkey not allowed to sub here. ident=alice, chan=a"),
        (subscribe("dev", "a"), "Authkey not allowed to sub here. ident=alice, chan=a"),
    ];
    for (frame, expected) in cases {
        let mut peer = Peer::login(broker.local_addr(), "alice", "s3cret").await;
        peer.send(frame).await;
        peer.expect_error(expected).await;
    }
}

#[tokio::test]
async fn messages_before_a_denial_count() {
    let broker = start(builder()).await;
    let mut reader = Peer::subscriber(&broker, &["a"]).await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    let frames = [publish("alice", "a", "1"), publish("alice", "a", "2"), publish("alice", "x", "3")];
    let more = [publish("alice", "a", "4"), subscribe("alice", "b")];
    alice.send_raw(&bytes(frames.into_iter().chain(more))).await;
    alice.expect_error("Authkey not allowed to pub here. ident=alice, chan=x").await;
    Peer::dev(&broker).await.send(publish("dev", "a", "5")).await;
    for (ident, payload) in [("alice", "1"), ("alice", "2"), ("dev", "5")] {
        assert_eq!(reader.next().await, Some(publish(ident, "a", payload)));
    }
    assert_eq!(broker.stats().refused, 1);
}

#[tokio::test]
async fn a_denied_subscriber_gets_its_messages_and_then_the_error() {
    let broker = start(builder()).await;
    let mut peer = Peer::login(broker.local_addr(), "dev", "dev").await;
    let mut frames = vec![subscribe("dev", "c")];
    frames.extend((0..100).map(|n| publish("dev", "c", crate::support::numbered(n, 50_000))));
    frames.push(publish("eve", "c", ""));
    let (mut read, mut write) = peer.framed.into_inner().into_split();
    let sending = tokio::spawn(async move { write.write_all(&bytes(frames)).await.map(|()| write) });
    let mut received = Vec::new();
    within(read.read_to_end(&mut received)).await.unwrap();
    let _write = sending.await.unwrap().unwrap();
    let mut expected = bytes((0..100).map(|n| publish("dev", "c", crate::support::numbered(n, 50_000))));
    expected.extend(bytes([Frame::Error { message: "Invalid authkey in message, ident=eve".into() }]));
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
    peer = Peer::dev(&broker).await;
    peer.settle().await;
}

#[tokio::test]
async fn subscriptions_are_those_of_the_python_broker() {
    let broker = start(builder()).await;
    let mut peer = Peer::subscriber(&broker, &["c", "c", "c"]).await;
    // The ident in it does not matter; what was never subscribed to is no problem; echo.
    peer.send(unsubscribe("somebody else", "never")).await;
    peer.send(publish("dev", "c", "once")).await;
    peer.send(unsubscribe("somebody else", "c")).await;
    peer.send(publish("dev", "c", "not delivered")).await;
    peer.send(subscribe("somebody else", "d")).await;
    peer.send(publish("dev", "d", "last")).await;
    assert_eq!(peer.next().await, Some(publish("dev", "c", "once")));
    assert_eq!(peer.next().await, Some(publish("dev", "d", "last")));
    // No access check for UNSUBSCRIBE.
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    alice.send(unsubscribe("alice", "forbidden")).await;
    alice.confirm().await;
}

#[tokio::test]
async fn delivered_frames_are_the_published_bytes() {
    let broker = start(builder()).await;
    let reader = Peer::subscriber(&broker, &["a", "b"]).await;
    let mut writer = Peer::dev(&broker).await;
    let payloads = ["", "x", &"y".repeat(300), &"z".repeat(100_000)];
    let sent = bytes((0..40).map(|n| {
        let channel = if n % 7 < 3 { "a" } else { "b" };
        publish("dev", channel, payloads[n % payloads.len()].to_owned())
    }));
    writer.send_raw(&sent).await;
    let mut received = vec![0; sent.len()];
    let mut stream = reader.framed.into_inner();
    within(stream.read_exact(&mut received)).await.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn everything_can_come_in_one_segment_or_byte_by_byte() {
    let broker = start(builder()).await;
    for piece in [usize::MAX, 1] {
        let mut peer = Peer::connect(broker.local_addr()).await;
        let auth = peer.auth("dev", "dev");
        let sent = bytes([auth, subscribe("dev", "c"), publish("dev", "c", "one"), publish("dev", "c", "two")]);
        peer.framed.get_mut().set_nodelay(true).unwrap();
        for piece in sent.chunks(piece.min(sent.len())) {
            peer.send_raw(piece).await;
        }
        assert_eq!(peer.next().await, Some(publish("dev", "c", "one")));
        assert_eq!(peer.next().await, Some(publish("dev", "c", "two")));
    }
}

#[tokio::test]
async fn the_longest_message_passes_and_one_byte_more_does_not() {
    let broker = start(builder()).await;
    let mut peer = Peer::subscriber(&broker, &["c"]).await;
    let longest = publish("dev", "c", vec![7; (1 << 20) - 6]);
    let bytes = bytes([longest.clone()]);
    assert_eq!(bytes.len(), 5 + (1 << 20));
    peer.send_raw(&bytes).await;
    assert_eq!(peer.next().await, Some(longest));
    peer.send_raw(&[0, 0x10, 0, 6, 3]).await;
    peer.expect_error("PUBLISH frame of 1048582 bytes is too long: the limit is 1048581 bytes").await;

    let small = start(crate::support::builder().max_message(50)).await;
    let mut peer = Peer::dev(&small).await;
    peer.send_raw(&[0, 0, 0, 56, 3]).await;
    // The ERROR keeps to the limit, too.
    peer.expect_error("PUBLISH frame of 56 bytes is too long: the limit i").await;
}

#[tokio::test]
async fn malformed_frames_are_answered() {
    let too_short = |n| format!("frame length {n} is too short: a frame has at least 5 bytes");
    let cases: Vec<(&[u8], String)> = vec![
        (&[0, 0, 0, 0, 3], too_short(0)),
        (&[0, 0, 0, 1, 3], too_short(1)),
        (&[0, 0, 0, 4, 2], too_short(4)),
        (&[255, 255, 255, 255, 3], "PUBLISH frame of 4294967295 bytes is too long: the limit is 1048581 bytes".into()),
        (&[0, 0, 2, 5, 4], "SUBSCRIBE frame of 517 bytes is too long: the limit is 516 bytes".into()),
        (&[0, 0, 2, 5, 5], "UNSUBSCRIBE frame of 517 bytes is too long: the limit is 516 bytes".into()),
        (&[0, 0, 1, 26, 2], "AUTH frame of 282 bytes is too long: the limit is 281 bytes".into()),
        (&[0, 0, 0, 5, 6], "unknown opcode 6".into()),
        (&[0, 0, 0, 5, 255], "unknown opcode 255".into()),
    ];
    let after: Vec<(&[u8], String)> = vec![
        (&[0, 0, 0, 5, 3], "PUBLISH frame ends inside the ident".into()),
        (&[0, 0, 0, 7, 3, 2, b'i'], "PUBLISH frame ends inside the ident".into()),
        (&[0, 0, 0, 7, 3, 1, b'i'], "PUBLISH frame ends inside the channel".into()),
        (&[0, 0, 0, 9, 3, 1, b'i', 2, b'c'], "PUBLISH frame ends inside the channel".into()),
        (&[0, 0, 0, 9, 3, 1, 0xff, 1, b'c'], "ident in PUBLISH frame is not UTF-8".into()),
        (&[0, 0, 0, 9, 3, 1, b'i', 1, 0xff], "channel in PUBLISH frame is not UTF-8".into()),
        (&[0, 0, 0, 8, 3, 0, 1, b'c'], "ident in PUBLISH frame is empty".into()),
        (&[0, 0, 0, 7, 4, 1, b'i'], "channel in SUBSCRIBE frame is empty".into()),
        (&[0, 0, 0, 8, 4, 1, b'i', 0xff], "channel in SUBSCRIBE frame is not UTF-8".into()),
        (&[0, 0, 0, 27, 2], "AUTH is only allowed as the first message".into()),
        (&[0, 0, 0, 5, 0], "ERROR is not allowed from a client".into()),
        (&[0, 0, 0, 10, 1], "INFO is not allowed from a client".into()),
    ];
    let broker = start(builder()).await;
    for (frame, expected) in &cases {
        let mut peer = Peer::connect(broker.local_addr()).await;
        peer.send_raw(frame).await;
        peer.expect_error(expected).await;
    }
    for (frame, expected) in cases.iter().chain(&after).filter(|(frame, _)| frame != &[0, 0, 1, 26, 2]) {
        let mut peer = Peer::dev(&broker).await;
        peer.send_raw(frame).await;
        peer.expect_error(expected).await;
    }
    let in_auth: [(&[u8], &str); 4] = [
        (&[0, 0, 0, 5, 2], "AUTH frame ends inside the ident"),
        (&[0, 0, 0, 8, 2, 1, b'i', 0], "AUTH digest is 1 bytes long: SHA-1 has 20"),
        (&[0, 0, 0, 7, 2, 1, 0xff], "ident in AUTH frame is not UTF-8"),
        (b"GET / HTTP/1.1\r\n\r\n", "unknown opcode 47"),
    ];
    for (frame, expected) in in_auth {
        let mut peer = Peer::connect(broker.local_addr()).await;
        peer.send_raw(frame).await;
        peer.expect_error(expected).await;
    }
    Peer::dev(&broker).await.settle().await;
}

#[tokio::test]
async fn the_end_of_the_stream_confirms_what_came_before() {
    let broker = start(builder()).await;
    let mut reader = Peer::subscriber(&broker, &["a"]).await;
    let mut writer = Peer::dev(&broker).await;
    writer.send_raw(&bytes((0..1000).map(|n| publish("dev", "a", crate::support::numbered(n, 100))))).await;
    writer.confirm().await;
    assert_eq!(broker.stats().received_messages, 1001);
    for n in 0..1000 {
        assert_eq!(crate::support::number(&reader.next().await.unwrap()), n);
    }
    // One that reads its own messages gets them all before the end.
    let mut both = Peer::subscriber(&broker, &["b"]).await;
    both.send_raw(&bytes((0..1000).map(|n| publish("dev", "b", crate::support::numbered(n, 100))))).await;
    both.finish().await;
    for n in 0..1000 {
        assert_eq!(crate::support::number(&both.next().await.unwrap()), n);
    }
    assert_eq!(both.next().await, None);
}

#[tokio::test]
async fn the_end_inside_a_frame_is_said() {
    let broker = start(builder()).await;
    let cases: [(&[u8], usize); 3] = [(&[0, 0], 3), (&[0, 0, 0, 9, 3], 4), (&[0, 0, 0, 9, 3, 1, b'i', 1], 1)];
    for (sent, missing) in cases {
        let mut peer = Peer::dev(&broker).await;
        peer.send_raw(sent).await;
        peer.finish().await;
        peer.expect_error(DecodeError::Incomplete { missing }.to_string()).await;
    }
}

#[tokio::test]
async fn an_error_survives_unread_input() {
    let broker = start(builder()).await;
    let mut peer = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    let mut sent = bytes([publish("alice", "forbidden", "")]);
    sent.resize(8 << 20, 0);
    peer.send_raw(&sent).await;
    peer.expect_error("Authkey not allowed to pub here. ident=alice, chan=forbidden").await;
}

#[tokio::test]
async fn subscriptions_have_a_limit() {
    let broker = start(builder().max_subscriptions(2)).await;
    let mut peer = Peer::dev(&broker).await;
    for channel in ["a", "b", "a", "b"] {
        peer.send(subscribe("dev", channel)).await;
    }
    peer.send(unsubscribe("dev", "a")).await;
    peer.send(subscribe("dev", "c")).await;
    peer.send(subscribe("dev", "d")).await;
    peer.expect_error("Too many subscriptions: the limit is 2").await;
}

#[tokio::test]
async fn patterns_in_a_key_stand_for_channels() {
    let key = Key::new("cow", "s").unwrap().publish(["cowrie.*"]).unwrap().subscribe(["private"]).unwrap();
    let broker = start(builder().user(key)).await;
    let mut reader = Peer::subscriber(&broker, &["cowrie.sessions"]).await;
    let mut peer = Peer::login(broker.local_addr(), "cow", "s").await;
    peer.send(publish("cow", "cowrie.sessions", "x")).await;
    assert_eq!(reader.next().await, Some(publish("cow", "cowrie.sessions", "x")));
    peer.send(publish("cow", "cowrie", "x")).await;
    peer.expect_error("Authkey not allowed to pub here. ident=cow, chan=cowrie").await;
}
