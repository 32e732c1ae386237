//! Streams: one connection at a time publishes each.

use std::time::Duration;

use hpfeeds::wire::extension::{ClientFrame, ClientHello, Flags, StreamId};
use hpfeeds_broker::Key;
use tokio::time::timeout;

use crate::{
    extension_client::{Got, Scripted, ack, confirming, encoded},
    support::{Peer, builder, number, numbered, publish, start},
};

const FENCED: &str = "The stream is used by another connection";

#[tokio::test]
async fn a_second_connection_with_a_stream_fences_the_first() {
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["c"]).await;
    let (mut first, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    first.publish("c", 1..=5).await;
    assert_eq!(first.until_ack(5).await, []);
    let (mut second, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((answer.decided, answer.flags.contains(Flags::KNOWN)), (5, true));
    first.expect_error(FENCED).await;
    second.publish("c", [6]).await;
    assert_eq!(second.next().await, ack(6));
    for n in 1..=6u64 {
        assert_eq!(subscriber.next().await, Some(publish("dev", "c", n.to_be_bytes().to_vec())));
    }
}

#[tokio::test]
async fn of_several_connections_that_ask_for_a_stream_the_last_one_gets_it() {
    let broker = start(builder()).await;
    let mut before: Vec<Scripted<_>> = Vec::new();
    for n in 0..5u64 {
        let (mut client, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
        assert_eq!(answer.decided, n);
        client.publish("c", [n]).await;
        assert_eq!(client.next().await, ack(n + 1));
        before.push(client);
    }
    let mut last = before.pop().unwrap();
    for client in &mut before {
        client.expect_error(FENCED).await;
    }
    last.publish("c", [9]).await;
    assert_eq!(last.next().await, ack(6));
}

#[tokio::test]
async fn streams_are_kept_by_account() {
    let shared = |ident| Key::new(ident, "s").unwrap().publish(["*"]).unwrap().account("SHARED");
    let broker = start(builder().user(shared("eve")).user(shared("Eve"))).await;
    let (mut eve, _) = Scripted::connect(broker.local_addr()).await.login("eve", "s", confirming(1, 1)).await;
    eve.publish("c", 1..=3).await;
    eve.until_ack(3).await;
    let (_, dev) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((dev.decided, dev.flags.contains(Flags::KNOWN)), (0, false), "another account");
    let (_, other) = Scripted::connect(broker.local_addr()).await.login("Eve", "s", confirming(1, 1)).await;
    assert_eq!((other.decided, other.flags.contains(Flags::KNOWN)), (3, true), "the same account");
    eve.expect_error(FENCED).await;
}

#[tokio::test]
async fn a_connection_may_change_between_streams_without_fencing_itself() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    for round in 0..10 {
        for stream in [2, 3, 1, 1] {
            client.hello(confirming(stream, 1)).await;
            let decided = client.answer().await.decided;
            assert_eq!(decided, if stream == 1 { 0 } else { round });
            if stream != 1 {
                client.publish("c", [1]).await;
                assert_eq!(client.next().await, ack(decided + 1));
            }
        }
    }
}

/// Each wants what the other has: both ask, and the one that asked last for a stream gets it.
#[tokio::test]
async fn two_connections_may_exchange_their_streams() {
    let broker = start(builder()).await;
    let (mut one, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let (mut two, _) = Scripted::dev(broker.local_addr(), confirming(2, 1)).await;
    one.hello(confirming(2, 1)).await;
    two.expect_error(FENCED).await;
    one.answer().await;
    let (mut two, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    for client in [&mut one, &mut two] {
        client.publish("c", [1]).await;
        assert_eq!(client.next().await, ack(1));
    }
}

/// Fills the queue of a subscriber on the channel `slow`, until a publisher waits for it.
async fn wait_behind(client: &mut Scripted<tokio::net::TcpStream>) -> (u64, u64) {
    let (mut sent, mut acked) = (0, 0);
    loop {
        let frame = publish("dev", "slow", numbered(sent + 1, 100_000));
        client.send(&crate::support::bytes([frame])).await;
        sent += 1;
        match timeout(Duration::from_millis(300), client.read_next()).await {
            Ok(Got::Ack(number)) => acked = number,
            Ok(other) => panic!("{other:?}"),
            Err(_) => return (sent, acked),
        }
    }
}

#[tokio::test]
async fn a_fenced_connection_that_waits_for_a_subscriber_settles_its_batch_first() {
    let broker = start(builder().low_mark(64 * 1024).floor_window(Duration::from_secs(600))).await;
    let mut slow = Peer::narrow_subscriber(&broker, &["slow"]).await;
    let (mut first, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let (sent, acked) = wait_behind(&mut first).await;
    assert_eq!(acked + 1, sent);
    // Read, and not decided: thrown away.
    first.publish("free", 1..=100).await;
    let mut second = Scripted::connect(broker.local_addr()).await;
    let mut said = second.auth("dev", "dev");
    said.extend(crate::extension_client::encoded(&hpfeeds::wire::extension::ClientFrame::Hello(confirming(1, 1))));
    second.send(&said).await;
    assert!(timeout(Duration::from_millis(200), second.read_next()).await.is_err(), "the first has a batch pending");
    // Room comes: the batch is settled, and nothing behind it.
    for n in 1..=sent {
        assert_eq!(slow.next().await.as_ref().map(number), Some(n));
    }
    assert_eq!(second.answer().await.decided, sent);
    assert_eq!(first.next().await, ack(sent));
    first.expect_error(FENCED).await;
    second.publish("slow", [77]).await;
    assert_eq!(second.next().await, ack(sent + 1));
    assert_eq!(slow.next().await.as_ref().map(number), Some(77));
    assert_eq!(broker.stats().received_messages, sent + 2, "settle has one, too");
}

#[tokio::test]
async fn a_fenced_connection_gives_a_batch_up_that_takes_too_long_and_never_acknowledges_it() {
    let broker = start(builder().low_mark(64 * 1024).floor_window(Duration::from_secs(600))).await;
    let mut slow = Peer::narrow_subscriber(&broker, &["slow"]).await;
    let (mut first, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let (sent, acked) = wait_behind(&mut first).await;
    let (mut second, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!(answer.decided, acked, "the batch is thrown away");
    first.expect_error(FENCED).await;
    // Sent again, it arrives once.
    second.send(&crate::support::bytes([publish("dev", "slow", numbered(sent, 100_000))])).await;
    for n in 1..=sent {
        assert_eq!(slow.next().await.as_ref().map(number), Some(n));
    }
    assert_eq!(second.next().await, ack(sent));
    assert_eq!(broker.stats().discarded, 1);
}

/// A connection that is told to leave its stream, while it changes to a third one's, either has left
/// it before or ends without that.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_connection_that_is_fenced_while_it_changes_its_stream_takes_none_from_a_third() {
    let broker = start(builder()).await;
    let beats = encoded(&ClientFrame::Heartbeat).repeat(1000);
    let (mut changed, mut fenced) = (0, 0);
    for round in 0..100u8 {
        let [own, wanted] =
            [1, 2].map(|n| ClientHello { stream: StreamId::new([2 * round + n; 16]), ..confirming(1, 1) });
        let (mut first, _) = Scripted::dev(broker.local_addr(), own).await;
        let (mut holder, _) = Scripted::dev(broker.local_addr(), wanted).await;
        let mut claimant = Scripted::connect(broker.local_addr()).await;
        let mut claim = claimant.auth("dev", "dev");
        claim.extend(encoded(&ClientFrame::Hello(own)));
        let mut change = beats.clone();
        change.extend(encoded(&ClientFrame::Hello(wanted)));
        change.extend(&beats);
        tokio::join!(first.send(&change), claimant.send(&claim));
        claimant.answer().await;
        let error = Got::Error(FENCED.to_owned());
        match first.next().await {
            // The holder has given way.
            Got::Hello(_) => {
                changed += 1;
                assert_eq!(holder.next().await, error, "round {round}");
                first.publish("c", [1]).await;
                assert_eq!(first.next().await, ack(1), "round {round}");
            }
            end => {
                fenced += 1;
                assert_eq!(end, error, "round {round}");
                holder.publish("c", [1]).await;
                assert_eq!(holder.next().await, ack(1), "round {round}");
            }
        }
        drop((first, holder, claimant));
        crate::support::until(|| broker.stats().connections == 0).await;
    }
    assert_eq!(changed + fenced, 100);
}
