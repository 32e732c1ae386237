//! The session for programs without asynchronous code, against the real broker.

use std::{
    thread,
    time::{Duration, Instant},
};

use hpfeeds::{Backoff, SessionState, blocking::ClientSession};
use hpfeeds_broker::Broker;
use tokio::runtime::Runtime;

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(20);

/// A broker, and the runtime that serves it.
fn broker() -> (Runtime, Broker) {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::dev()).unwrap();
    (runtime, broker)
}

#[test]
fn a_program_without_a_runtime_publishes_and_receives() {
    let (_runtime, broker) = broker();
    let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").unwrap();
    session.subscribe_confirmed("a").unwrap();
    session.publish("a", "1").unwrap();
    session.try_publish("a", "2").unwrap();
    assert_eq!(session.publish_confirmed("a", "3").unwrap().position().number, 3);
    assert_eq!((session.flush().unwrap().confirmed, session.stats().confirmed), (3, 3));
    assert_eq!(session.next(SOON).unwrap().2, "1");
    assert_eq!(session.wait_for(|(_, _, payload)| payload == "3", SOON).unwrap().2, "3");
    assert!(session.next(Duration::from_millis(5)).unwrap_err().is_timeout());
    // Threads share it.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| session.publish("a", "x").unwrap()));
        }
    });
    assert_eq!(session.messages().take(400).filter(|(_, _, payload)| payload == "x").count(), 400);
    session.publish("a", "last").unwrap();
    session.close().unwrap();
    assert_eq!(session.state(), SessionState::Closed);
    assert_eq!(session.messages().map(|(_, _, payload)| payload).collect::<Vec<_>>(), ["last"]);
    assert!(session.next(SOON).unwrap_err().is_closed() && session.publish("a", "x").unwrap_err().is_closed());
}

#[test]
fn a_wrong_secret_and_a_wrong_name_are_errors_of_connecting() {
    let (_runtime, broker) = broker();
    assert!(ClientSession::connect(broker.local_addr(), "dev", "wrong").unwrap_err().is_rejected());
    assert!(ClientSession::connect("nonsense", "dev", "dev").unwrap_err().is_usage());
}

#[test]
fn a_session_that_is_dropped_takes_its_thread_along() {
    let started = Instant::now();
    let builder = hpfeeds::ClientSession::builder("127.0.0.1:1", "me", "secret");
    let session = ClientSession::start(builder.backoff(Backoff::new(SOON, SOON))).unwrap();
    session.publish("a", "x").unwrap();
    assert_ne!(session.state(), SessionState::Connected);
    drop(session);
    assert!(started.elapsed() < SOON, "it does not wait for the next attempt");
}
