//! When ACKs come, in virtual time: the network is a pipe in memory.

use std::{net::SocketAddr, time::Duration};

use futures::FutureExt as _;
use hpfeeds_broker::Broker;
use tokio::{
    io::DuplexStream,
    time::{Instant, timeout},
};

use crate::{
    extension_client::{Got, Scripted, ack, confirming},
    support::{bytes, numbered, publish},
};

async fn publisher() -> (Broker, Scripted<DuplexStream>) {
    let broker = Broker::dev_builder().without_endpoint().start().await.unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
    let client = Scripted::greeted(ours).await.login("dev", "dev", confirming(1, 1)).await.0;
    (broker, client)
}

/// So many messages of 4 KiB.
fn messages(count: u64) -> Vec<u8> {
    bytes((0..count).map(|n| publish("dev", "c", numbered(n, 4096))))
}

#[tokio::test(start_paused = true)]
async fn a_message_alone_is_acknowledged_without_a_wait() {
    let (_broker, mut client) = publisher().await;
    let begun = Instant::now();
    for n in 1..=100 {
        client.send(&messages(1)).await;
        assert_eq!(client.next().await, ack(n));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// Each window waits for its ACK: that was held back for the first few only.
#[tokio::test(start_paused = true)]
async fn a_publisher_that_waits_for_each_window_waits_for_a_moment_now_and_then() {
    let (_broker, mut client) = publisher().await;
    let (begun, window) = (Instant::now(), messages(50));
    for n in 1..=2000 {
        client.send(&window).await;
        assert_eq!(client.until_ack(50 * n).await, []);
    }
    let waited = begun.elapsed();
    assert!((Duration::from_millis(1)..Duration::from_millis(40)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_never_pauses_gets_an_ack_for_half_a_mebibyte() {
    const ALL: u64 = 64 << 20;
    let (_broker, mut client) = publisher().await;
    let count = ALL / 4096;
    let (mut acks, mut acked) = (0, 0);
    for piece in messages(count).chunks(64 * 1024) {
        client.send(piece).await;
        while let Some(got) = client.read_next().now_or_never() {
            let Got::Ack(number) = got else { panic!("{got:?}") };
            (acks, acked) = (acks + 1, number);
        }
    }
    while acked < count {
        let Ok(Got::Ack(number)) = timeout(Duration::from_millis(3), client.read_next()).await else {
            panic!("{acked} of {count}")
        };
        (acks, acked) = (acks + 1, number);
    }
    assert!((10..=ALL / (256 << 10)).contains(&acks), "{acks}");
}
