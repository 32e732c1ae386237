//! Numbers and ACKs.

use std::time::Duration;

use hpfeeds::wire::extension::{ClientFrame, Flags};
use tokio::time::{sleep, timeout};

use crate::{
    extension_client::{Got, Scripted, ack, confirming, encoded, hello},
    support::{Peer, builder, numbered, publish, start},
};

#[tokio::test]
async fn messages_are_acknowledged_by_their_numbers_from_one_on() {
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["a"]).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    // On channels with subscribers and without, in one segment: one ACK for all.
    let said = [client.messages("a", 1..=3), client.messages("b", 4..=5), client.messages("a", [6])].concat();
    client.send(&said).await;
    assert_eq!(client.until_ack(6).await, []);
    for n in [1u64, 2, 3, 6] {
        assert_eq!(subscriber.next().await, Some(publish("dev", "a", n.to_be_bytes().to_vec())));
    }
    client.publish("a", [7]).await;
    assert_eq!(client.next().await, ack(7));
}

#[tokio::test]
async fn one_read_has_at_most_one_ack() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let before = broker.stats();
    for round in 1..=50u64 {
        let said = client.messages("c", (0..20).map(|n| round * 20 + n));
        client.send(&said).await;
        assert_eq!(client.next().await, ack(round * 20));
    }
    assert_eq!(broker.stats().sent_bytes - before.sent_bytes, 50 * 13);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_decided_and_gaps_are_given_up() {
    let broker = start(builder()).await;
    let login = |next| Scripted::dev(broker.local_addr(), confirming(9, next));
    let (mut client, _) = login(1).await;
    client.publish("c", 1..=4).await;
    assert_eq!(client.until_ack(4).await, []);
    drop(client);
    // `decided` is higher than what the client would give next: that one holds.
    for (next, decided, acked) in [(1, 4, 5), (4, 5, 6), (20, 6, 20), (21, 20, 21)] {
        let (mut client, answer) = login(next).await;
        assert_eq!((answer.decided, answer.flags.contains(Flags::KNOWN)), (decided, true), "{next}");
        client.publish("c", [7]).await;
        assert_eq!(client.next().await, ack(acked), "{next}");
    }
    // A gap is not decided before something behind it is.
    let (client, answer) = login(100).await;
    assert_eq!(answer.decided, 21);
    drop(client);
    assert_eq!(login(100).await.1.decided, 21);
}

/// The rest of a frame may take as long as it likes.
#[tokio::test]
async fn a_frame_that_is_not_whole_is_not_counted() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let said = client.messages("c", 1..=2);
    client.send(&said[..said.len() - 1]).await;
    assert_eq!(client.next().await, ack(1));
    client.send(&said[said.len() - 1..]).await;
    assert_eq!(client.next().await, ack(2));
}

/// Between the ACKs and the end of the stream there is no gap: both confirm the same.
#[tokio::test]
async fn the_end_of_a_stream_comes_behind_its_last_ack() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    client.publish("c", 1..=1000).await;
    client.finish().await;
    assert_eq!(client.until_ack(1000).await, []);
    assert_eq!(client.next().await, Got::End);
}

/// A batch that waits for a slow subscriber is not decided; what came before it in the same read is.
#[tokio::test]
async fn messages_that_a_subscriber_has_no_room_for_are_acknowledged_once_it_has() {
    let broker = start(builder().low_mark(64 * 1024).floor_window(Duration::from_secs(600))).await;
    let mut slow = Peer::narrow_subscriber(&broker, &["slow"]).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    // Until the subscriber's queue is full.
    let big = crate::support::bytes([publish("dev", "slow", numbered(0, 100_000))]);
    let mut sent = 0;
    let decided = loop {
        client.send(&big).await;
        sent += 1;
        match timeout(Duration::from_millis(300), client.read_next()).await {
            Ok(got) => assert_eq!(got, ack(sent)),
            Err(_) => break sent - 1,
        }
    };
    // The rest waits behind it, and on another channel, too; nothing says that it is decided.
    client.publish("free", 1..=10).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(
        broker.stats().received_messages,
        sent + 1,
        "read up to the batch that waits, and what the subscriber sent"
    );
    assert!(timeout(Duration::from_millis(100), client.read_next()).await.is_err());
    // Room comes.
    for _ in 0..sent {
        assert!(slow.next().await.is_some());
    }
    assert!(decided >= 1);
    assert_eq!(client.until_ack(sent + 10).await, []);
}

/// A second HELLO on a connection changes the stream; both streams have their own numbers.
#[tokio::test]
async fn a_second_hello_changes_the_stream_behind_the_last_ack_of_the_first() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let said = [
        client.messages("c", 1..=3),
        encoded(&ClientFrame::Hello(confirming(2, 10))),
        client.messages("c", 4..=5),
        encoded(&ClientFrame::Hello(confirming(1, 7))),
        client.messages("c", [6]),
        encoded(&ClientFrame::Hello(confirming(1, 30))),
        client.messages("c", [7]),
        encoded(&ClientFrame::Hello(hello(Flags::REPLIES, 1, 1))),
        client.messages("c", [8]),
        encoded(&ClientFrame::Hello(confirming(1, 1))),
    ];
    client.send(&said.concat()).await;
    let mut got = Vec::new();
    for _ in 0..9 {
        got.push(match client.next().await {
            Got::Hello(answer) => format!("hello {}", answer.decided),
            Got::Ack(number) => format!("ack {number}"),
            other => panic!("{other:?}"),
        });
    }
    // A new `next` on the same stream is a gap, too.
    let expected = ["ack 3", "hello 0", "ack 11", "hello 3", "ack 7", "hello 7", "ack 30", "hello 0", "hello 30"];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_stream_whose_numbers_are_used_up_ends_the_connection_before_anything_is_routed() {
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["c"]).await;
    let text = "The stream has no numbers left: take a new stream id";
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, u64::MAX)).await;
    client.publish("c", [1]).await;
    client.expect_error(text).await;
    let (mut client, answer) = Scripted::dev(broker.local_addr(), confirming(2, u64::MAX - 2)).await;
    assert_eq!(answer.decided, 0);
    client.publish("c", [2, 3]).await;
    assert_eq!(client.until_ack(u64::MAX - 1).await, []);
    client.publish("c", [4]).await;
    client.expect_error(text).await;
    let (mut client, answer) = Scripted::dev(broker.local_addr(), confirming(2, 1)).await;
    assert_eq!(answer.decided, u64::MAX - 1);
    client.publish("c", [5]).await;
    client.expect_error(text).await;
    for n in [2u64, 3] {
        assert_eq!(subscriber.next().await, Some(publish("dev", "c", n.to_be_bytes().to_vec())));
    }
    subscriber.settle().await;
}
