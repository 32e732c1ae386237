//! Clients that take none of their control frames, in virtual time: the network is a pipe in memory.

use std::{net::SocketAddr, time::Duration};

use hpfeeds::wire::extension::Flags;
use hpfeeds_broker::{Broker, Exposition};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use crate::{
    extension_client::{Scripted, hello},
    support::{bytes, subscribe, unsubscribe},
};

/// The memory of connections that wait, in bytes.
fn waiting_bytes(broker: &Broker) -> u64 {
    let text = broker.metrics(Exposition::default());
    let line = text.lines().find_map(|line| line.strip_prefix("hpfeeds_broker_waiting_bytes "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answer_counts_as_waiting_and_ends_like_a_slow_subscriber() {
    let builder = Broker::dev_builder().without_endpoint().slow_deadline(Duration::from_secs(40));
    let broker = builder.start().await.unwrap();
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
    let (mut client, _) = Scripted::greeted(ours).await.login("dev", "dev", hello(Flags::REPLIES, 1, 1)).await;
    let pairs = bytes([subscribe("dev", "c"), unsubscribe("dev", "c")]).repeat(100);
    assert_eq!(waiting_bytes(&broker), 0);
    while timeout(Duration::from_millis(10), client.stream.write_all(&pairs)).await.is_ok() {}
    assert!(waiting_bytes(&broker) > 1024, "what it has read");
    // A byte now and then is enough.
    for _ in 0..20 {
        sleep(Duration::from_secs(30)).await;
        assert!(client.stream.read_u8().await.is_ok());
    }
    assert_eq!(broker.stats().slow_disconnects, 0);
    sleep(Duration::from_secs(42)).await;
    assert_eq!((broker.stats().slow_disconnects, waiting_bytes(&broker)), (1, 0));
}
