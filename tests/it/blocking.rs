//! The session for programs without asynchronous code, against the real broker.

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use hpfeeds::{Backoff, BrokerAddr, Connector, SessionState, Transport, blocking::ClientSession};
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

/// Sets a flag when the thread that holds it has ended.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

thread_local! {
    static ENDED: RefCell<Option<Ended>> = const { RefCell::new(None) };
}

/// A network without a broker. The thread of a session that dials there tells of its own end.
#[derive(Clone, Default)]
struct Nowhere {
    dialled: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Connector for Nowhere {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        if thread::current().name() == Some("hpfeeds") {
            ENDED.with_borrow_mut(|ended| _ = ended.get_or_insert_with(|| Ended(self.ended.clone())));
            self.dialled.store(true, Relaxed);
        }
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

#[test]
fn a_session_that_is_dropped_takes_its_thread_along() {
    let nowhere = Nowhere::default();
    let builder = hpfeeds::ClientSession::builder("127.0.0.1:1", "me", "secret").connector(nowhere.clone());
    // It waits for its next attempt when it is dropped.
    let session = ClientSession::start(builder.backoff(Backoff::new(SOON, SOON))).unwrap();
    session.publish("a", "x").unwrap();
    let started = Instant::now();
    while !nowhere.dialled.load(Relaxed) {
        assert!(started.elapsed() < SOON, "it does not dial");
        thread::sleep(Duration::from_millis(1));
    }
    assert_ne!(session.state(), SessionState::Connected);
    assert!(!nowhere.ended.load(Relaxed));
    drop(session);
    assert!(nowhere.ended.load(Relaxed), "its thread has ended");
}
