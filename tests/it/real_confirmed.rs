//! Confirmation by the real broker, over real sockets, in both runtimes, inside and outside of a task.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hpfeeds::{Backoff, ClientSession, SessionBuilder};
use hpfeeds_broker::Broker;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(60);

fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("multi-thread", Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()),
        ("current-thread", Builder::new_current_thread().enable_all().build().unwrap()),
    ]
}

/// Runs it in every runtime, as the main future and in a task.
fn everywhere<F>(run: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for (name, runtime) in runtimes() {
        let limited = |run: F| async move { timeout(SOON, run).await };
        runtime.block_on(limited(run())).unwrap_or_else(|_| panic!("it hangs in block_on, {name}"));
        let task = runtime.block_on(async { tokio::spawn(limited(run())).await.unwrap() });
        task.unwrap_or_else(|_| panic!("it hangs in a task, {name}"));
    }
}

fn builder(addr: SocketAddr) -> SessionBuilder {
    let quick = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
    ClientSession::builder(addr, "dev", "dev").backoff(quick).auth_grace(Duration::from_millis(20))
}

#[test]
fn a_program_that_forwards_with_a_full_receive_queue_does_not_stand_still() {
    everywhere(|| async {
        let broker = Broker::dev().await.unwrap();
        let mut session = builder(broker.local_addr()).receive_queue(50_000).connect().await.unwrap();
        session.subscribe_confirmed("in").await.unwrap();
        let flood = builder(broker.local_addr()).connect().await.unwrap();
        let flooding = tokio::spawn(async move {
            for _ in 0..3000 {
                flood.publish("in", vec![7; 1000]).await.unwrap();
            }
            flood.flush().await.unwrap()
        });
        for _ in 0..3000 {
            let (_, _, payload) = session.next().await.unwrap();
            session.publish_confirmed("out", payload).await.unwrap();
        }
        assert_eq!(flooding.await.unwrap().confirmed, 3000);
        assert_eq!(session.stats().confirmed, 3000);
        session.close().await.unwrap();
        broker.shutdown().await;
    });
}

#[test]
fn receipts_of_many_tasks_come_with_their_own_numbers() {
    everywhere(|| async {
        let broker = Broker::dev().await.unwrap();
        let mut session = builder(broker.local_addr()).connect().await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let publisher = session.publisher();
            tasks.spawn(async move {
                // Some are large enough to travel on their own.
                let sizes = (0..500).map(|n| if n % 50 == 0 { 100_000 } else { 100 });
                let waiting: FuturesUnordered<_> =
                    sizes.map(|size| publisher.publish_confirmed("a", vec![7; size])).collect();
                waiting.map(|receipt| receipt.unwrap().position().number).collect::<Vec<_>>().await
            });
        }
        let numbers: BTreeSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
        assert!(numbers.into_iter().eq(1..=2000));
        session.close().await.unwrap();
    });
}

#[test]
fn a_broker_that_goes_away_gets_everything_when_it_is_back() {
    everywhere(|| async {
        let mut broker = Broker::dev().await.unwrap();
        let addr = broker.local_addr();
        let session = builder(addr).connect().await.unwrap();
        let publisher = session.publisher();
        let publishing = tokio::spawn(async move {
            for n in 0..20_000 {
                publisher.publish("a", format!("{n}")).await.unwrap();
                if n % 200 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            publisher.flush().await.unwrap()
        });
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            // Once in good order, once as it dies: without a word, its connections reset or ended.
            broker.shutdown().await;
            broker = Broker::dev_builder().listen(addr.to_string()).unwrap().start().await.unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
            drop(broker);
            broker = loop {
                match Broker::dev_builder().listen(addr.to_string()).unwrap().start().await {
                    Ok(broker) => break broker,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
        }
        let flushed = publishing.await.unwrap();
        assert_eq!((flushed.confirmed, flushed.refused, flushed.unconfirmed), (20_000, 0, 0));
        assert_eq!(session.unconfirmed(), 0);
    });
}

#[test]
fn a_broker_without_the_extension_confirms_nothing_and_a_flush_waits_for_the_socket() {
    everywhere(|| async {
        let broker = Broker::dev_builder().extensions(false).listen("127.0.0.1:0").unwrap().start().await.unwrap();
        let mut session = builder(broker.local_addr()).connect().await.unwrap();
        let error = session.publish_confirmed("a", "x").await.unwrap_err();
        assert!(error.is_not_confirmable(), "{error}");
        session.subscribe_confirmed("a").await.unwrap();
        for _ in 0..1000 {
            session.publish("a", vec![7; 1000]).await.unwrap();
        }
        let flushed = session.flush().await.unwrap();
        assert_eq!((flushed.confirmed, flushed.unconfirmed), (0, 1000));
        for _ in 0..1000 {
            session.next().await.unwrap();
        }
        session.close().await.unwrap();
    });
}

#[test]
fn the_end_of_a_connection_without_the_extension_confirms_what_it_carried() {
    everywhere(|| async {
        let broker = Broker::dev_builder().extensions(false).listen("127.0.0.1:0").unwrap().start().await.unwrap();
        let session = builder(broker.local_addr()).rotation(Duration::from_millis(20)).connect().await.unwrap();
        for number in 1..=5 {
            let receipt = session.publish_confirmed("a", "x").await.unwrap();
            assert_eq!(receipt.position().number, number);
        }
        assert_eq!((session.stats().confirmed, session.stats().resent), (5, 0));
    });
}
