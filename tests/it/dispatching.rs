//! The dispatcher, against the real broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{ClientSession, Dispatcher, Error, Message};
use hpfeeds_broker::Broker;
use parking_lot::Mutex;
use tokio::{sync::Barrier, time::timeout};

use crate::runtimes::in_both_runtimes;

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(20);

in_both_runtimes!(
    a_message_goes_to_the_first_function_that_matches,
    functions_run_one_after_the_other_unless_more_are_allowed,
    an_error_of_a_function_ends_the_dispatcher_and_not_the_session,
    a_dispatcher_runs_on_the_stream_of_a_channel,
);

/// A session that gets what is published to these channels from now on, as its dispatcher will want: that
/// subscribes when it runs.
async fn connect(broker: &Broker, channels: &[&str]) -> ClientSession {
    let session = ClientSession::connect(broker.local_addr(), "dev", "dev").await.unwrap();
    for channel in channels {
        session.subscribe_confirmed(channel).await.unwrap();
    }
    session
}

async fn a_message_goes_to_the_first_function_that_matches() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker, &["a.one", "a.*", "end", "z"]).await;
    let heard = Mutex::new(Vec::new());
    let note = |name: &str, (_, channel, payload): Message| {
        heard.lock().push(format!("{name} {channel} {}", payload.escape_ascii()));
        Ok(())
    };
    let (note, handle) = (&note, &session.handle());
    let dispatcher = Dispatcher::<Error>::new()
        .on("a.one", async move |message| note("exact", message))
        .unwrap()
        .on("a.*", async move |message| note("below", message))
        .unwrap()
        .on("end", async move |_| handle.close().await)
        .unwrap()
        .otherwise(async move |message| note("other", message));
    assert!(Dispatcher::<Error>::new().on("", async |_| Ok(())).unwrap_err().is_usage());
    assert_eq!(format!("{dispatcher:?}"), "Dispatcher { channels: [\"a.one\", \"a.*\", \"end\"], at_once: 1, .. }");
    for (channel, payload) in [("a.one", "1"), ("a.two", "2"), ("z", "3"), ("a.one", "4"), ("end", "")] {
        session.publish(channel, payload).await.unwrap();
    }
    timeout(SOON, dispatcher.run(&mut session)).await.unwrap().unwrap();
    // The broker delivers a message once, however many subscriptions match.
    assert_eq!(*heard.lock(), ["exact a.one 1", "below a.two 2", "other z 3", "exact a.one 4"]);
}

async fn functions_run_one_after_the_other_unless_more_are_allowed() {
    const AT_ONCE: usize = 4;
    let broker = Broker::dev().await.unwrap();
    for at_once in [1, AT_ONCE] {
        let mut session = connect(&broker, &["a"]).await;
        let handle = session.handle();
        let (now, most, done) = (&AtomicUsize::new(0), &AtomicUsize::new(0), &AtomicUsize::new(0));
        // With several at once, they wait for each other.
        let together = &Barrier::new(at_once);
        let handle = &handle;
        let dispatcher = Dispatcher::<Error>::new()
            .on("a", async move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                together.wait().await;
                now.fetch_sub(1, Ordering::Relaxed);
                if done.fetch_add(1, Ordering::Relaxed) + 1 == 4 * AT_ONCE { handle.close().await } else { Ok(()) }
            })
            .unwrap()
            .concurrency(at_once);
        for _ in 0..4 * AT_ONCE {
            session.publish("a", "").await.unwrap();
        }
        timeout(SOON, dispatcher.run(&mut session)).await.unwrap().unwrap();
        assert_eq!((most.load(Ordering::Relaxed), now.load(Ordering::Relaxed)), (at_once, 0));
    }
}

async fn an_error_of_a_function_ends_the_dispatcher_and_not_the_session() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker, &["a", "b"]).await;
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let dispatcher = Dispatcher::<Box<dyn std::error::Error + Send + Sync>>::new()
        .on("a", async |_| Err("it is broken".into()))
        .unwrap()
        .on("b", move |_| {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok(())
            }
        })
        .unwrap()
        .concurrency(2);
    for (channel, payload) in [("b", ""), ("a", ""), ("a", "next")] {
        session.publish(channel, payload).await.unwrap();
    }
    let error = timeout(SOON, dispatcher.run(&mut session)).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "it is broken");
    assert_eq!(Arc::strong_count(&alive), 2, "the other function is dropped");
    assert_eq!(timeout(SOON, session.next()).await.unwrap().unwrap().2, "next");
    session.close().await.unwrap();
    let closed = dispatcher.run(&mut session).await.unwrap_err();
    assert!(closed.downcast_ref::<Error>().unwrap().is_closed());
}

async fn a_dispatcher_runs_on_the_stream_of_a_channel() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker, &[]).await;
    let mut stream = session.channel("a").unwrap();
    let handled = &AtomicUsize::new(0);
    let dispatcher = Dispatcher::<Error>::new().otherwise(async move |_| {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    session.publish("a", "1").await.unwrap();
    session.publish_confirmed("a", "2").await.unwrap();
    let (ended, closed) = tokio::join!(timeout(SOON, dispatcher.run_on(&mut stream)), session.close());
    assert!(ended.unwrap().is_ok() && closed.is_ok());
    assert_eq!(handled.load(Ordering::Relaxed), 2);
}
