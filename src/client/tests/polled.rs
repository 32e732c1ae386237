//! The streams and futures of a session in every place where a program may poll them, with and
//! without what is left of tokio's cooperative budget.

use std::{
    future::{pending, poll_fn},
    io,
    pin::pin,
    sync::mpsc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::BytesMut;
use futures::{
    FutureExt as _, SinkExt, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, FusedStream as _, select_all},
};
use tokio::{
    runtime::{Builder, Runtime},
    select,
    task::coop,
    time::timeout,
};
use tokio_stream::StreamMap;

use crate::{
    BrokerAddr, ClientSession, Connector, Transport, merge,
    wire::{Channel, Ident, Limits, encode_publish},
};

/// More than the budget of one poll (128), for each session.
const BATCHES: usize = 300;

const SESSIONS: usize = 3;

/// No wait of these tests is for anything outside of the process: what has not ended by then never
/// does.
const HANGS: Duration = Duration::from_secs(120);

/// No broker ever answers: what is received comes from the test.
struct Nowhere;

impl Connector for Nowhere {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(pending())
    }
}

fn session() -> ClientSession {
    ClientSession::builder(("nowhere", 1), "me", "secret").connector(Nowhere).start().unwrap()
}

/// A session that has received so many messages, each a batch of its own, and is over.
fn backlog(batches: usize) -> ClientSession {
    let session = session();
    let (ident, channel) = (Ident::new("me").unwrap(), Channel::new("a").unwrap());
    for _ in 0..batches {
        let mut batch = BytesMut::new();
        encode_publish(&mut batch, Limits::default(), &ident, &channel, b"x").unwrap();
        session.shared().inbox.push(batch);
    }
    session.shared().inbox.end();
    session
}

fn backlogs() -> Vec<ClientSession> {
    (0..SESSIONS).map(|_| backlog(BATCHES)).collect()
}

/// A way to read to the end; says how many messages there were.
type Way = fn(Vec<ClientSession>) -> BoxFuture<'static, usize>;

async fn count(stream: impl Stream) -> usize {
    let mut stream = pin!(stream);
    let mut count = 0;
    while stream.next().await.is_some() {
        count += 1;
    }
    count
}

async fn by_select(stream: impl Stream) -> usize {
    let mut stream = pin!(stream.fuse());
    let mut count = 0;
    loop {
        select! {
            next = stream.next() => match next {
                Some(_) => count += 1,
                None => return count,
            },
            () = pending() => {}
        }
    }
}

async fn by_timeout(stream: impl Stream) -> usize {
    let mut stream = pin!(stream);
    let mut count = 0;
    while timeout(HANGS, stream.next()).await.unwrap().is_some() {
        count += 1;
    }
    count
}

async fn by_chunks(stream: impl Stream) -> usize {
    stream.ready_chunks(64).fold(0, |count, chunk| async move { count + chunk.len() }).await
}

async fn by_map<S: Stream + Unpin>(streams: impl IntoIterator<Item = S>) -> usize {
    count(streams.into_iter().enumerate().collect::<StreamMap<_, _>>()).await
}

/// Half of the sessions merged, the other half merged, and both together.
fn halves(mut sessions: Vec<ClientSession>) -> [crate::Merged; 2] {
    let others = sessions.split_off(sessions.len() / 2);
    [merge(sessions), merge(others)]
}

const WAYS: [(&str, Way); 14] = [
    ("merge", |sessions| count(merge(sessions)).boxed()),
    ("merge, select!", |sessions| by_select(merge(sessions)).boxed()),
    ("merge, timeout", |sessions| by_timeout(merge(sessions)).boxed()),
    ("merge, ready_chunks", |sessions| by_chunks(merge(sessions)).boxed()),
    ("merge, StreamMap", |sessions| by_map(halves(sessions)).boxed()),
    ("merge, select_all", |sessions| count(select_all(halves(sessions))).boxed()),
    ("merge, select", |sessions| {
        let [one, other] = halves(sessions);
        count(stream::select(one, other)).boxed()
    }),
    ("merge, unconstrained", |sessions| coop::unconstrained(count(merge(sessions))).boxed()),
    ("select_all", |sessions| count(select_all(sessions)).boxed()),
    ("select_all of ready_chunks", |sessions| {
        let chunks = select_all(sessions.into_iter().map(|session| session.ready_chunks(64)));
        chunks.fold(0, |count, chunk| async move { count + chunk.len() }).boxed()
    }),
    ("StreamMap", |sessions| by_map(sessions).boxed()),
    ("one after the other", |sessions| count(stream::iter(sessions).flatten()).boxed()),
    ("flatten_unordered", |sessions| count(stream::iter(sessions).flatten_unordered(None)).boxed()),
    ("select!", |sessions| by_select(stream::iter(sessions).flatten()).boxed()),
];

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("multi-thread", Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()),
        ("current-thread", Builder::new_current_thread().enable_all().build().unwrap()),
    ]
}

/// Runs what may hang beside the test, which then fails with its name.
fn ends<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = mpsc::channel();
    let running = thread::spawn(move || drop(sender.send(run())));
    match result.recv_timeout(HANGS) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name} hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{name}: {:?}", running.join()),
    }
}

#[test]
fn every_way_to_read_comes_to_the_end_in_block_on() {
    for (name, way) in WAYS {
        for (kind, runtime) in runtimes() {
            let read = ends(&format!("{name} in block_on, {kind}"), move || {
                runtime.block_on(async move { way(backlogs()).await })
            });
            assert_eq!(read, SESSIONS * BATCHES, "{name}, {kind}");
        }
    }
}

#[test]
fn every_way_to_read_comes_to_the_end_in_a_task() {
    for (name, way) in WAYS {
        for (kind, runtime) in runtimes() {
            let read = ends(&format!("{name} in a task, {kind}"), move || {
                runtime.block_on(async move { tokio::spawn(async move { way(backlogs()).await }).await.unwrap() })
            });
            assert_eq!(read, SESSIONS * BATCHES, "{name}, {kind}");
        }
    }
}

#[test]
fn a_program_outside_of_any_runtime_comes_to_the_end_of_merged_sessions() {
    for (kind, runtime) in runtimes() {
        let read = ends(kind, move || {
            let sessions = runtime.block_on(async { backlogs() });
            futures::executor::block_on(count(merge(sessions)))
        });
        assert_eq!(read, SESSIONS * BATCHES, "{kind}");
    }
}

/// Uses up what is left of the budget of this poll.
fn exhaust(cx: &mut Context<'_>) {
    while let Poll::Ready(turn) = coop::poll_proceed(cx) {
        turn.made_progress();
    }
}

/// Polls once without any budget, and then with one until it ends.
async fn without_budget<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            exhaust(cx);
        }
        future.as_mut().poll(cx)
    })
    .await
}

#[test]
fn a_poll_without_any_budget_returns_and_the_next_goes_on() {
    for (kind, runtime) in runtimes() {
        ends(kind, move || {
            runtime.block_on(async {
                let mut merged = merge(backlogs());
                assert!(without_budget(merged.next()).await.is_some());
                let mut one = backlog(1);
                // The driver has given way: it is polled in the place of the reader.
                one.shared().set_gave_way(true);
                assert!(without_budget(one.next()).await.is_some());
                one.shared().set_gave_way(true);
                assert!(without_budget(one.next()).await.is_none());
                let one = session();
                let mut events = one.events();
                let payloads = || stream::iter((0..64).map(|_| vec![7; 16 * 1024]));
                without_budget(one.publish("a", "x")).await.unwrap();
                without_budget(one.publish_stream("a", payloads())).await.unwrap();
                let mut sink = one.sink("a").unwrap();
                without_budget(sink.send_all(&mut payloads().map(Ok))).await.unwrap();
                without_budget(SinkExt::<Vec<u8>>::close(&mut sink)).await.unwrap();
                assert!(without_budget(async { timeout(Duration::ZERO, events.next()).await }).await.is_err());
                drop(one);
                assert!(without_budget(events.next()).await.is_some());
                let mut closing = merge([session()]);
                without_budget(closing.close()).await.unwrap();
                without_budget(closing.next()).await;
            });
        });
    }
}

#[test]
fn sessions_that_have_ended_do_not_keep_a_merged_stream_from_ending() {
    for (kind, runtime) in runtimes() {
        ends(kind, move || {
            runtime.block_on(async {
                let ended = || async {
                    let mut session = backlog(1);
                    while session.next().await.is_some() {}
                    session
                };
                let mut merged = merge([ended().await, ended().await]);
                assert!(merged.is_terminated() && merged.next().await.is_none());
                merged.push(ended().await);
                assert!(merged.is_terminated() && merged.next().await.is_none());
                // It goes on with one that has not ended, and ends with it.
                merged.push(backlog(2));
                merged.push(ended().await);
                assert!(!merged.is_terminated());
                assert_eq!(merged.next().await.unwrap().0, 3);
                assert_eq!(count(&mut merged).await, 1);
                assert!(merged.is_terminated() && merged.sessions().len() == 5);
            });
        });
    }
}
