//! The handle of a session and the wait for a message, against the real broker.

use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionEvent, SessionState};
use hpfeeds_broker::Broker;
use tokio::time::timeout;

use crate::runtimes::in_both_runtimes;

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(20);

in_both_runtimes!(
    a_handle_steers_a_session_that_another_task_reads,
    a_handle_of_a_session_that_was_dropped_says_that_it_is_closed,
    a_wait_passes_over_what_is_not_wanted_and_takes_nothing_behind,
    a_wait_ends_with_its_limit_and_with_the_session,
);

async fn connect(broker: &Broker) -> ClientSession {
    ClientSession::connect(broker.local_addr(), "dev", "dev").await.unwrap()
}

async fn a_handle_steers_a_session_that_another_task_reads() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let (handle, mut heard) = (session.handle(), session.handle().events());
    let reader = tokio::spawn(async move {
        let mut payloads = Vec::new();
        while let Some((_, _, payload)) = session.next().await {
            payloads.push(payload);
        }
        payloads
    });
    assert_eq!((handle.ident().as_str(), handle.addr().port()), ("dev", broker.local_addr().port()));
    handle.subscribe("a").unwrap();
    assert!(handle.subscribe("").unwrap_err().is_usage());
    let publisher = handle.publisher();
    publisher.publish_confirmed("a", "one").await.unwrap();
    handle.unsubscribe("a").unwrap();
    publisher.publish_confirmed("a", "two").await.unwrap();
    let other = handle.clone();
    assert_eq!(other.stats().confirmed, 2);
    assert_eq!(*other.state().borrow(), SessionState::Connected);
    // Both hear the same outcome, and so does a third that comes too late.
    let (one, two) = timeout(SOON, async { tokio::join!(handle.close(), other.close()) }).await.unwrap();
    assert!(one.is_ok() && two.is_ok() && handle.close().await.is_ok());
    assert_eq!(reader.await.unwrap(), ["one"]);
    assert_eq!(*other.state().borrow(), SessionState::Closed);
    assert!(matches!(heard.next().await, Some(SessionEvent::Closed { cause: None })));
    assert!(heard.next().await.is_none() && handle.events().next().await.is_none());
}

async fn a_handle_of_a_session_that_was_dropped_says_that_it_is_closed() {
    let broker = Broker::dev().await.unwrap();
    let session = connect(&broker).await;
    let handle = session.handle();
    drop(session);
    timeout(SOON, handle.state().wait_for(|state| *state == SessionState::Closed)).await.unwrap().unwrap();
    assert!(handle.subscribe("a").unwrap_err().is_closed() && handle.unsubscribe("a").unwrap_err().is_closed());
    assert!(handle.publisher().publish("a", "x").await.unwrap_err().is_closed());
    assert!(handle.close().await.unwrap_err().is_closed());
}

async fn a_wait_passes_over_what_is_not_wanted_and_takes_nothing_behind() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    session.subscribe("a").unwrap();
    for payload in ["1", "2", "3", "4"] {
        session.publish("a", payload).await.unwrap();
    }
    let (ident, channel, payload) = session.wait_for(|(_, _, payload)| payload == "3", SOON).await.unwrap();
    assert_eq!((ident.as_str(), channel.as_str(), &payload[..]), ("dev", "a", &b"3"[..]));
    assert_eq!(timeout(SOON, session.next()).await.unwrap().unwrap().2, "4");
}

async fn a_wait_ends_with_its_limit_and_with_the_session() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let ended = session.wait_for(|_| true, Duration::from_millis(1)).await.unwrap_err();
    assert!(ended.is_timeout() && !ended.is_closed(), "{ended}");
    assert_eq!(ended.to_string(), "no message that was waited for came within 1ms");
    // No clock holds so long a time.
    let handle = session.handle();
    let (ended, closed) = tokio::join!(session.wait_for(|_| true, Duration::MAX), handle.close());
    closed.unwrap();
    let ended = ended.unwrap_err();
    assert!(ended.is_closed() && !ended.is_timeout(), "{ended}");
}
