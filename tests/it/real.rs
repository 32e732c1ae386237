//! The session against the real broker, over real sockets.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream, stream::FusedStream as _};
use hpfeeds::{Backoff, ClientSession, Limits, Message, SessionBuilder, SessionEvent, SessionState};
use hpfeeds_broker::{Broker, Key};
use tokio::{task::JoinSet, time::timeout};

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(20);

fn builder(broker: &Broker) -> SessionBuilder {
    ClientSession::builder(broker.local_addr(), "dev", "dev").auth_grace(Duration::from_millis(20))
}

async fn next(session: &mut ClientSession) -> Message {
    timeout(SOON, session.next()).await.expect("nothing arrived").expect("the session ended")
}

/// Waits until the broker serves what the session subscribed to: it sees its own message.
async fn settled(session: &mut ClientSession, channel: &str) {
    session.publish(channel, "settled").await.unwrap();
    assert_eq!(next(session).await.2, "settled");
}

#[tokio::test]
async fn messages_go_from_one_session_to_another() {
    let broker = Broker::dev().await.unwrap();
    let mut subscriber = builder(&broker).connect().await.unwrap();
    subscriber.subscribe("a").unwrap();
    settled(&mut subscriber, "a").await;

    let mut publisher = builder(&broker).connect().await.unwrap();
    publisher.publish("b", "nobody listens").await.unwrap();
    publisher.publish("a", "hello").await.unwrap();
    publisher.publish("a", Bytes::new()).await.unwrap();
    publisher.publish("a", vec![7; (1 << 20) - 6]).await.unwrap();
    publisher.close().await.unwrap();

    let (ident, channel, payload) = next(&mut subscriber).await;
    assert_eq!((&*ident, &*channel, &*payload), ("dev", "a", &b"hello"[..]));
    assert_eq!(next(&mut subscriber).await.2, "");
    assert_eq!(next(&mut subscriber).await.2.len(), (1 << 20) - 6);
    subscriber.unsubscribe("a").unwrap();
    subscriber.subscribe("c").unwrap();
    subscriber.publish("a", "unseen").await.unwrap();
    settled(&mut subscriber, "c").await;
    subscriber.close().await.unwrap();
    broker.shutdown().await;
}

#[tokio::test]
async fn a_confirmed_close_means_that_every_message_was_routed() {
    let broker = Broker::dev().await.unwrap();
    let mut subscriber = builder(&broker).connect().await.unwrap();
    subscriber.subscribe("a").unwrap();
    settled(&mut subscriber, "a").await;
    let mut publisher = builder(&broker).connect().await.unwrap();
    let send = async {
        for n in 0..50_000 {
            publisher.publish("a", n.to_string()).await.unwrap();
        }
        publisher.close().await.unwrap();
    };
    let receive = async {
        for n in 0..50_000 {
            assert_eq!(next(&mut subscriber).await.2, n.to_string());
        }
    };
    tokio::join!(send, receive);
    broker.shutdown().await;
}

#[tokio::test]
async fn several_brokers_merge_into_one_stream() {
    let mut brokers = Vec::new();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let broker = Broker::dev().await.unwrap();
        let mut session = builder(&broker).connect().await.unwrap();
        session.subscribe("events").unwrap();
        settled(&mut session, "events").await;
        for n in 0..100 {
            session.publish("events", n.to_string()).await.unwrap();
        }
        brokers.push(broker);
        sessions.push(session);
    }
    let mut merged = stream::select_all(sessions);
    let mut counts = BTreeMap::new();
    for _ in 0..300 {
        let (_, _, payload) = timeout(SOON, merged.next()).await.unwrap().unwrap();
        *counts.entry(payload).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 100);
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
}

#[tokio::test]
async fn keys_and_channels_that_the_broker_refuses_are_reported() {
    let key = Key::new("dev", "dev").unwrap().publish(["out"]).unwrap().subscribe(["in", "out"]).unwrap();
    let broker = Broker::builder().listen("127.0.0.1:0").unwrap().user(key).start().await.unwrap();
    let error = ClientSession::connect(broker.local_addr(), "dev", "wrong").await.unwrap_err();
    assert!(error.is_rejected(), "{error}");

    let mut session = builder(&broker).connect().await.unwrap();
    let mut events = session.events();
    let mut denial = async || loop {
        match timeout(SOON, events.next()).await.unwrap().unwrap() {
            SessionEvent::SubscribeDenied { channel, .. } => break format!("sub {}", channel.unwrap()),
            SessionEvent::Refused { channel, .. } => break format!("pub {}", channel.unwrap()),
            _ => {}
        }
    };
    session.subscribe("forbidden").unwrap();
    session.subscribe("out").unwrap();
    assert_eq!(denial().await, "sub forbidden");
    session.publish("in", "not mine").await.unwrap();
    assert_eq!(denial().await, "pub in");
    settled(&mut session, "out").await;
    broker.shutdown().await;
}

#[tokio::test]
async fn many_tasks_publish_through_one_session() {
    let broker = Broker::dev().await.unwrap();
    let mut session = builder(&broker).send_queue(0).connect().await.unwrap();
    session.subscribe("a").unwrap();
    settled(&mut session, "a").await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let publisher = session.publisher();
        tasks.spawn(async move {
            for n in 0..500 {
                // Some are large enough to travel on their own.
                let payload = format!("{task} {n} {}", "x".repeat(if n % 50 == 0 { 100_000 } else { 100 }));
                publisher.publish("a", payload).await.unwrap();
            }
        });
    }
    let mut expected = [0; 8];
    for _ in 0..8 * 500 {
        let payload = next(&mut session).await.2;
        let text = std::str::from_utf8(&payload).unwrap();
        let mut fields = text.split(' ');
        let mut field = || fields.next().unwrap();
        let (task, n): (usize, u32) = (field().parse().unwrap(), field().parse().unwrap());
        assert_eq!(n, expected[task], "out of order");
        expected[task] += 1;
    }
    assert_eq!(expected, [500; 8]);
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_session_made_before_its_broker_finds_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let mut session = ClientSession::new("127.0.0.1", addr.port(), "dev", "dev").unwrap();
    session.subscribe("a").unwrap();
    session.publish("a", "queued").await.unwrap();
    session.state().wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
    let broker = Broker::dev_builder().listen(addr).unwrap().start().await.unwrap();
    assert_eq!(next(&mut session).await.2, "queued");
    session.close().await.unwrap();
    broker.shutdown().await;
}

#[tokio::test]
async fn a_broker_that_shuts_down_under_the_session_is_found_again() {
    let mut broker = Broker::dev().await.unwrap();
    let addr = broker.local_addr().to_string();
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(100));
    let mut session = builder(&broker).backoff(backoff).connect().await.unwrap();
    session.subscribe("a").unwrap();
    for round in 0..5 {
        settled(&mut session, "a").await;
        broker.shutdown().await;
        session.state().wait_for(|state| *state != SessionState::Connected).await.unwrap();
        for n in 0..100 {
            session.publish("a", format!("{round} {n}")).await.unwrap();
        }
        broker = Broker::dev_builder().listen(&addr).unwrap().start().await.unwrap();
        for n in 0..100 {
            assert_eq!(next(&mut session).await.2, format!("{round} {n}"));
        }
    }
}

#[tokio::test]
async fn messages_above_the_default_limit_need_both_sides() {
    let limits = Limits::new(10 << 20);
    let broker = Broker::dev_builder().listen("127.0.0.1:0").unwrap().max_message(10 << 20).start().await.unwrap();
    let mut session = builder(&broker).limits(limits).send_queue(0).connect().await.unwrap();
    session.subscribe("a").unwrap();
    let payload: Bytes = vec![7; (10 << 20) - 6].into();
    session.publish("a", payload.clone()).await.unwrap();
    assert!(next(&mut session).await.2 == payload);
    session.close().await.unwrap();

    let small = Broker::dev().await.unwrap();
    let session = builder(&small).limits(limits).connect().await.unwrap();
    let error = session.publish("a", payload.clone()).await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("too long"), "{error}");
    // One that does not know the extension cannot say so before.
    let small = Broker::dev_builder().extensions(false).listen("127.0.0.1:0").unwrap().start().await.unwrap();
    let mut session = builder(&small).limits(limits).max_retries(0).connect().await.unwrap();
    session.publish("a", payload).await.unwrap();
    let error = session.close().await.unwrap_err();
    assert!(error.is_incomplete() && error.to_string().contains("too long"), "{error}");
}

#[tokio::test]
async fn a_dropped_read_has_taken_nothing_and_a_dropped_publish_has_queued_nothing() {
    let broker = Broker::dev().await.unwrap();
    let mut session = builder(&broker).send_queue(0).connect().await.unwrap();
    session.subscribe("a").unwrap();
    let publisher = session.publisher();
    let send = async {
        for n in 0..1000 {
            // Polled once and dropped whenever the queue is full, and then asked again.
            let text = format!("{n} {}", "x".repeat(10_000));
            while publisher.publish("a", text.clone()).now_or_never().is_none() {
                tokio::task::yield_now().await;
            }
        }
    };
    let receive = async {
        for n in 0..1000 {
            let (_, _, payload) = loop {
                tokio::select! {
                    biased;
                    message = session.next() => break message.unwrap(),
                    () = tokio::task::yield_now() => {}
                }
            };
            assert!(payload.starts_with(format!("{n} ").as_bytes()), "{n}");
        }
    };
    timeout(SOON, async { tokio::join!(send, receive) }).await.unwrap();
    assert!(!session.is_terminated());
    session.close().await.unwrap();
    assert!(!session.is_terminated());
    assert_eq!(session.next().await, None);
    assert!(session.is_terminated());
}

#[test]
fn a_session_can_be_dropped_outside_of_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (broker, session) = runtime.block_on(async {
        let broker = Broker::dev().await.unwrap();
        let session = builder(&broker).connect().await.unwrap();
        (broker, session)
    });
    drop(session);
    runtime.block_on(async {
        while broker.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
        broker.shutdown().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_never_overtakes_the_subscription_before_it() {
    let broker = Broker::dev().await.unwrap();
    for _ in 0..100 {
        let mut session = builder(&broker).auth_grace(Duration::from_millis(5)).connect().await.unwrap();
        session.subscribe("a").unwrap();
        session.publish("a", "echo").await.unwrap();
        assert_eq!(next(&mut session).await.2, "echo");
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn errors_and_events_read_as_sentences() {
    let broker = Broker::dev().await.unwrap();
    let error = ClientSession::connect(broker.local_addr(), "dev", "wrong").await.unwrap_err();
    assert_eq!(format!("{error:?}"), format!("Error({:?})", error.to_string()));
    let mut session = builder(&broker).connect().await.unwrap();
    assert_eq!((session.ident().as_str(), session.addr().port()), ("dev", broker.local_addr().port()));
    session.close().await.unwrap();
    let events: Vec<_> = session.events().map(|event| event.to_string()).collect().await;
    assert_eq!(events, [r#"connected to "hpfeeds""#, "closed"]);
}
