//! Publishing: what is stored, and what an acknowledgement and an end of stream stand for.

use std::time::Duration;

use hpfeeds::wire::extension::{Code, Flags};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, Exposition, Key};

use crate::{
    extension_client::{Got, Scripted, ack, confirming, hello},
    support::{Peer, builder, publish, start, within},
};

/// A broker that stores channel `m.*` for an ident `collector`.
fn storing(folder: &std::path::Path) -> BrokerBuilder {
    builder().data_dir(folder).mailbox("collector=m.*").unwrap()
}

#[tokio::test]
async fn a_broker_that_stores_grants_level_one_and_knows_streams_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let (mut publisher, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((answer.level, answer.decided), (1, 0));
    publisher.publish("m.a", 1..=5).await;
    publisher.until_ack(5).await;
    publisher.publish("other", 6..=7).await;
    publisher.until_ack(7).await;
    publisher.publish("m.b", 8..=9).await;
    publisher.until_ack(9).await;
    publisher.publish("other", 10..=10).await;
    publisher.until_ack(10).await;
    broker.shutdown().await;

    let broker = start(storing(folder.path())).await;
    // What was of no mailbox is known only up to the last that was.
    let (_, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((answer.decided, answer.flags.contains(Flags::KNOWN)), (9, true));
    // An id is the ident's own.
    let (_, answer) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((answer.decided, answer.flags.contains(Flags::KNOWN)), (0, false));
    broker.shutdown().await;
}

#[tokio::test]
async fn everything_is_stored_for_a_publisher_that_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, expected) in [(Flags::CONFIRM, 0), (Flags::CONFIRM | Flags::STORE, 3)] {
        let folder = folder.path().join(flags.bits().to_string());
        let broker = start(storing(&folder)).await;
        let (mut publisher, answer) = Scripted::dev(broker.local_addr(), hello(flags, 1, 1)).await;
        assert_eq!(answer.flags, flags);
        publisher.publish("other", 1..=3).await;
        publisher.until_ack(3).await;
        broker.shutdown().await;
        let broker = start(storing(&folder)).await;
        let (_, answer) = Scripted::dev(broker.local_addr(), hello(flags, 1, 1)).await;
        assert_eq!(answer.decided, expected, "{flags:?}");
        broker.shutdown().await;
    }
}

#[tokio::test]
async fn a_broker_without_a_folder_grants_level_zero_and_no_storing() {
    let broker = start(builder()).await;
    let (_, answer) = Scripted::dev(broker.local_addr(), hello(Flags::CONFIRM | Flags::STORE, 1, 1)).await;
    assert_eq!((answer.level, answer.flags), (0, Flags::CONFIRM));
    let (_, answer) = Scripted::dev(broker.local_addr(), hello(Flags::REPLIES, 1, 1)).await;
    assert_eq!(answer.level, 0, "without confirmation there is no level");
}

#[tokio::test]
async fn stored_messages_go_to_live_subscribers_all_the_same_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut subscriber = Peer::subscriber(&broker, &["m.a", "other"]).await;
    let (mut publisher, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    for n in 1..=300 {
        let channel = if n % 3 == 0 { "other" } else { "m.a" };
        publisher.publish(channel, [n]).await;
    }
    for n in 1..=300_u64 {
        let channel = if n % 3 == 0 { "other" } else { "m.a" };
        assert_eq!(subscriber.next().await, Some(publish("dev", channel, n.to_be_bytes().to_vec())));
    }
    publisher.until_ack(300).await;
    let stats = broker.shutdown().await;
    // One more shows that the subscriber is there.
    assert_eq!((stats.received_messages, stats.delivered, stats.unrouted), (301, 301, 0));
}

#[tokio::test]
async fn an_unmodified_publisher_gets_the_end_of_the_stream_once_its_messages_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody else would have it synced within the test.
    let broker = start(storing(folder.path()).journal_sync(Duration::from_secs(600))).await;
    let mut publisher = Peer::connect(broker.local_addr()).await.authenticate("dev", "dev").await;
    for _ in 0..100 {
        publisher.send(publish("dev", "m.a", "x")).await;
    }
    publisher.finish().await;
    assert_eq!(publisher.next().await, None);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_new_hello_is_answered_after_everything_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let (mut publisher, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    let mut bytes = publisher.messages("m.a", 1..=50);
    bytes.extend(crate::extension_client::encoded(&hpfeeds::wire::extension::ClientFrame::Hello(confirming(2, 1))));
    bytes.extend(publisher.messages("m.a", 1..=3));
    publisher.send(&bytes).await;
    assert_eq!(publisher.next().await, ack(50));
    assert_eq!(publisher.answer().await.decided, 0);
    assert_eq!(publisher.next().await, ack(3));
    broker.shutdown().await;
}

#[tokio::test]
async fn refused_messages_are_known_after_a_restart_along_with_what_covers_them() {
    let folder = tempfile::tempdir().unwrap();
    let settings = || builder().data_dir(folder.path()).mailbox("collector=a").unwrap();
    let broker = start(settings()).await;
    let (mut alice, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    alice.publish("a", 1..=2).await;
    alice.publish("denied", 3..=4).await;
    alice.publish("denied", 5..=5).await;
    alice.publish("a", 6..=6).await;
    alice.until_ack(6).await;
    broker.shutdown().await;
    let broker = start(settings()).await;
    let (_, answer) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!(answer.decided, 6);
    let ranges: Vec<_> = answer.refused.iter().map(|range| (range.first, range.count, range.code)).collect();
    assert_eq!(ranges, [(3, 3, Code::NOT_ALLOWED)]);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_key_that_publishes_without_end_is_live_only_above_its_share_and_others_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let user = |ident| Key::new(ident, "s").unwrap().publish(["*"]).unwrap();
    let settings = || {
        let broker =
            Broker::builder().user(user("stolen")).user(user("honest")).endpoint(Endpoint::tcp("127.0.0.1", 0));
        broker.data_dir(folder.path()).mailbox("collector=*").unwrap().journal_max_bytes(8 << 20)
    };
    let broker = start(settings()).await;
    let login = async |ident: &str, stream| {
        Scripted::connect(broker.local_addr()).await.login(ident, "s", confirming(stream, 1)).await.0
    };
    let mut honest = login("honest", 1).await;
    honest.publish("a", [1]).await;
    honest.until_ack(1).await;
    let mut stolen = login("stolen", 2).await;
    let payload = vec![0; 100_000];
    let (mut sent, mut refused) = (0, 0);
    while refused == 0 && sent < 100 {
        sent += 1;
        stolen.send(&crate::support::bytes([publish("stolen", "flood", payload.clone())])).await;
        for got in stolen.until_ack(sent).await {
            let Got::Refused { first, count, code, channel, text } = got else { panic!("{got:?}") };
            assert_eq!((first, count, code, &*channel), (sent, 1, Code::FULL, "flood"));
            assert_eq!(text, "The share of stolen in the journal is full: it is delivered, and not stored");
            refused += 1;
        }
    }
    // Half of the limit is there for anybody; a quarter is the share above that.
    let bytes = sent * 100_000;
    assert!((4 << 20..5 << 20).contains(&bytes), "{bytes} bytes were stored before the first was refused");
    let counted = format!("hpfeeds_journal_not_stored_messages_total{{reason=\"share\"}} {refused}");
    let metrics = broker.metrics(Exposition::Prometheus);
    assert!(metrics.lines().any(|line| line == counted), "{counted} in {metrics}");
    // Others go on, and are stored.
    honest.publish("a", 2..=9).await;
    assert_eq!(honest.until_ack(9).await, []);
    broker.shutdown().await;
    let broker = start(settings()).await;
    let (_, answer) = Scripted::connect(broker.local_addr()).await.login("honest", "s", confirming(1, 1)).await;
    assert_eq!(answer.decided, 9);
    within(broker.shutdown()).await;
}
