//! Sessions of several threads over a link that is cut all the time: everything arrives once, and every receipt is true.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use fastrand::Rng;
use futures::{FutureExt as _, StreamExt as _, poll, stream::FuturesUnordered};
use hpfeeds::{Backoff, ClientSession, Error, Publisher, Receipt};
use hpfeeds_broker::{Broker, Endpoint, Key};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{start, until, within};

const THREADS: u64 = 4;
const MESSAGES: u64 = 600;
const FORBIDDEN_EACH: u64 = 11;

/// Passes connections on to the broker, and cuts each after some bytes: in either direction, by RST or by FIN.
async fn cutting(broker: SocketAddr, cuts: Arc<AtomicU64>, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut rng = Rng::with_seed(seed);
        while let Ok((client, _)) = listener.accept().await {
            let Ok(broker) = TcpStream::connect(broker).await else { continue };
            let (upwards, downwards) = (rng.usize(200..40_000), rng.usize(100..1500));
            if rng.bool() {
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            }
            if rng.bool() {
                SockRef::from(&broker).set_linger(Some(Duration::ZERO)).unwrap();
            }
            let cuts = cuts.clone();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
                    (client.into_split(), broker.into_split());
                let cut = tokio::select! {
                    ended = pass(&mut from_client, &mut to_broker, upwards) => ended,
                    ended = pass(&mut from_broker, &mut to_client, downwards) => ended,
                };
                cuts.fetch_add(u64::from(matches!(cut, Ok(true))), SeqCst);
            });
        }
    });
    addr
}

/// True when so many bytes were passed on; the end of the stream is passed on, too.
async fn pass<R, W>(from: &mut R, to: &mut W, bytes: usize) -> io::Result<bool>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let (mut left, mut buffer) = (bytes, vec![0; 4096]);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            to.shutdown().await?;
            return Ok(false);
        }
        let now = read.min(left);
        to.write_all(&buffer[..now]).await?;
        left -= now;
        if left == 0 {
            return Ok(true);
        }
    }
}

/// Publishes the numbers of one thread, and waits for the receipts of most; one of eleven goes where it may not. How
/// many of them were refused.
async fn publish(publisher: Publisher, thread: u64) -> u64 {
    let (mut rng, mut refused) = (Rng::with_seed(thread), 0);
    let mut receipts = FuturesUnordered::new();
    let mut settle = |(receipt, allowed): (Result<Receipt, Error>, bool)| match receipt {
        Ok(_) => assert!(allowed, "a denied message was confirmed"),
        Err(error) => {
            assert!(!allowed && error.is_denied(), "{error}");
            refused += 1;
        }
    };
    for number in 1..=MESSAGES {
        let payload = format!("{thread} {number} {}", "x".repeat(rng.usize(..600)));
        let allowed = number % FORBIDDEN_EACH != 0;
        if allowed && rng.bool() {
            within(publisher.publish("a", payload)).await.unwrap();
            continue;
        }
        let (publisher, channel) = (publisher.clone(), if allowed { "a" } else { "forbidden" });
        let mut receipt = async move { (publisher.publish_confirmed(channel, payload).await, allowed) }.boxed();
        // At once, so that it takes its place before the next one.
        match poll!(&mut receipt) {
            Poll::Ready(ready) => settle(ready),
            Poll::Pending => receipts.push(receipt),
        }
        while receipts.len() >= 16 || (rng.bool() && !receipts.is_empty()) {
            settle(within(receipts.next()).await.unwrap());
        }
    }
    while let Some(receipt) = within(receipts.next()).await {
        settle(receipt);
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_arrives_once_over_a_link_that_is_cut_all_the_time() {
    let key = |ident: &str| Key::new(ident, "s3cret").unwrap();
    let sensor = key("sensor").publish(["a"]).unwrap();
    let collector = key("collector").subscribe(["a"]).unwrap();
    let broker = start(Broker::builder().user(sensor).user(collector).endpoint(Endpoint::tcp("127.0.0.1", 0))).await;
    let mut collector = ClientSession::connect(broker.local_addr(), "collector", "s3cret").await.unwrap();
    collector.subscribe_confirmed("a").await.unwrap();
    let collecting = tokio::spawn(async move {
        let mut next: HashMap<u64, u64> = HashMap::new();
        let expected = THREADS * (MESSAGES - MESSAGES / FORBIDDEN_EACH);
        let mut from = 0;
        // And one that is published when all those are confirmed: nothing may come between.
        for _ in 0..=expected {
            let (_, _, payload) = within(collector.next()).await.unwrap();
            let text = std::str::from_utf8(&payload).unwrap();
            let mut words = text.split(' ').map_while(|word| word.parse::<u64>().ok());
            let (thread, number) = (words.next().unwrap(), words.next().unwrap());
            let last = next.insert(thread, number).unwrap_or_default();
            from = thread;
            let skipped = (last + 1..number).all(|skipped| skipped % FORBIDDEN_EACH == 0);
            assert!(number > last && skipped, "of thread {thread}: {number} after {last}");
        }
        assert_eq!(from, THREADS);
    });
    let cuts = Arc::<AtomicU64>::default();
    let link = cutting(broker.local_addr(), cuts.clone(), 19).await;
    let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
    let mut session = ClientSession::builder(link, "sensor", "s3cret").backoff(backoff).start().unwrap();
    let mut threads = JoinSet::new();
    for thread in 0..THREADS {
        threads.spawn(publish(session.publisher(), thread));
    }
    let mut refused = 0;
    while let Some(thread) = threads.join_next().await {
        refused += thread.unwrap();
    }
    assert_eq!(refused, THREADS * (MESSAGES / FORBIDDEN_EACH));
    let flushed = within(session.flush()).await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused, flushed.unconfirmed), (THREADS * MESSAGES - refused, refused, 0));
    within(session.publish_confirmed("a", format!("{THREADS} 1"))).await.unwrap();
    within(collecting).await.unwrap();
    // The figures follow the receipts.
    until(|| session.stats().confirmed == THREADS * MESSAGES - refused + 1).await;
    let (stats, cuts) = (session.stats(), cuts.load(SeqCst));
    assert_eq!((stats.queued, stats.unconfirmed, stats.lost, stats.refused), (0, 0, 0, refused), "{stats:?}");
    assert!(cuts >= 10 && stats.resent > 0, "{cuts} cuts, {stats:?}");
    drop(session.close().await);
    within(broker.shutdown()).await;
}
