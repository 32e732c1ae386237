//! A limit of deliveries beside control frames, in virtual time: the network is a pipe in memory.

use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

use hpfeeds::wire::extension::{Code, Flags};
use hpfeeds_broker::Broker;
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    extension_client::{Got, Scripted, hello, sub_ack},
    support::{bytes, numbered, publish, subscribe, unsubscribe},
};

async fn connect(broker: &Broker, stream: u8) -> Scripted<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
    Scripted::greeted(ours).await.login("dev", "dev", hello(Flags::REPLIES, stream, 1)).await.0
}

/// How long 40 messages of 1,000 bytes take to a subscriber that may get 8,000 bytes in a second,
/// and that asks for so many answers ten times meanwhile which it reads late.
async fn time(answers: usize) -> Duration {
    let rate = NonZeroU64::new(8000);
    let builder = Broker::dev_builder().without_endpoint().deliver_bytes(rate).max_subscriptions(10);
    let broker = builder.start().await.unwrap();
    let (mut client, mut publisher) = (connect(&broker, 1).await, connect(&broker, 2).await);
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "c"));
    let begun = Instant::now();
    publisher.send(&bytes((0..40).map(|n| publish("dev", "c", numbered(n, 1000 - 5 - 4 - 2))))).await;
    let asked = bytes([subscribe("dev", "d"), unsubscribe("dev", "d")]).repeat(answers / 2);
    let (mut messages, mut answered, mut rounds) = (0u32, 0, 0);
    while messages < 40 {
        if rounds < 10 {
            rounds += 1;
            // It is read as long as there is room for the answers.
            _ = timeout(Duration::from_millis(1), client.stream.write_all(&asked)).await;
            sleep(Duration::from_millis(9)).await;
        }
        while let Ok(got) = timeout(Duration::from_millis(1), client.read_next()).await {
            match got {
                Got::Publish(..) => {
                    messages += 1;
                    // A second's worth at once, and then as the limit says.
                    assert!(begun.elapsed() >= Duration::from_millis(125) * messages.saturating_sub(8), "{messages}");
                }
                Got::SubAck { .. } => answered += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(answers == 0 || answered > 10_000, "{answered}: the pipe was full");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn control_frames_that_the_client_reads_late_do_not_shorten_or_lengthen_the_wait_of_a_limit() {
    let (without, with) = (time(0).await, time(2000).await);
    assert!((Duration::from_millis(3900)..Duration::from_millis(4200)).contains(&without), "{without:?}");
    assert!(with.abs_diff(without) < Duration::from_millis(100), "{with:?} in place of {without:?}");
}
