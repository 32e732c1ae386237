//! The work budget: frames of the extension, in any number, let other connections have their turns.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use hpfeeds::wire::extension::{ClientFrame, Code, Mode, Position};
use hpfeeds_broker::Broker;
use tokio::task::yield_now;

use crate::extension_client::{Got, Scripted, confirming, encoded, sub_ack};

/// How often another task runs while the broker works on frames that have all arrived, until it has
/// answered the last of them.
async fn turns(frames: &[u8], answers: usize) -> usize {
    let broker = Broker::dev_builder().without_endpoint().start().await.unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
    let (mut client, _) = Scripted::greeted(ours).await.login("dev", "dev", confirming(1, 1)).await;
    client.send(frames).await;
    client.subscribe("last").await;
    let turns = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Relaxed);
                yield_now().await;
            }
        }
    });
    for _ in 0..answers {
        assert!(matches!(client.next().await, Got::SubAck { .. }));
    }
    assert_eq!(client.next().await, sub_ack(Code::DONE, "last"));
    other.abort();
    turns.load(Relaxed)
}

#[tokio::test]
async fn a_hundred_thousand_heartbeats_give_others_a_turn_every_few_thousand() {
    let turns = turns(&encoded(&ClientFrame::Heartbeat).repeat(100_000), 0).await;
    assert!(turns >= 100_000 / 2500, "{turns}");
}

#[tokio::test]
async fn subscriptions_to_mailboxes_that_do_not_exist_give_others_a_turn_every_few_hundred() {
    let position = Position::NONE;
    let frame = ClientFrame::SubscribeFrom { mode: Mode::CURSOR, position, mailbox: "none", channel: "c" };
    let turns = turns(&encoded(&frame).repeat(10_000), 10_000).await;
    assert!(turns >= 10_000 / 200, "{turns}");
}
