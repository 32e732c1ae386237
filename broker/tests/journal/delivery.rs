//! Delivery: a collector with a mailbox gets what was published while it was away, once and in order.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use hpfeeds::wire::{
    Frame, Pattern,
    extension::{ClientFrame, Code, Flags, Mode, Position},
};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, Key};

use crate::{
    extension_client::{Got, Scripted, confirming, encoded, hello, sub_ack},
    support::{Peer, start, within},
};

/// `sensor` publishes everything, `collector` reads everything and has a mailbox for `m.*`.
pub(crate) fn keys() -> BrokerBuilder {
    let sensor = Key::new("sensor", "s").unwrap().publish(["*"]).unwrap();
    let collector = Key::new("collector", "s").unwrap().subscribe(["*"]).unwrap().publish(["private"]).unwrap();
    let other = Key::new("other", "s").unwrap().subscribe(["*"]).unwrap().publish(["private"]).unwrap();
    Broker::builder().user(sensor).user(collector).user(other).endpoint(Endpoint::tcp("127.0.0.1", 0))
}

pub(crate) fn storing(folder: &Path) -> BrokerBuilder {
    keys().data_dir(folder).mailbox("collector=m.*").unwrap()
}

/// A publisher that gets confirmations.
pub(crate) async fn sensor(broker: &Broker, stream: u8) -> Scripted<tokio::net::TcpStream> {
    Scripted::connect(broker.local_addr()).await.login("sensor", "s", confirming(stream, 1)).await.0
}

pub(crate) async fn publish(
    publisher: &mut Scripted<tokio::net::TcpStream>,
    channel: &str,
    numbers: std::ops::RangeInclusive<u64>,
) {
    publisher.publish(channel, numbers).await;
}

/// An unmodified collector.
pub(crate) async fn collector(broker: &Broker) -> Peer {
    Peer::connect(broker.local_addr()).await.authenticate("collector", "s").await
}

/// A collector with a window and ORIGIN.
pub(crate) async fn modern(broker: &Broker) -> Scripted<tokio::net::TcpStream> {
    let flags = Flags::REPLIES | Flags::WINDOW | Flags::ORIGIN;
    let (client, answer) =
        Scripted::connect(broker.local_addr()).await.login("collector", "s", hello(flags, 0, 0)).await;
    assert_eq!(answer.flags, flags);
    client
}

pub(crate) async fn next_number(peer: &mut Peer) -> u64 {
    match peer.next().await {
        Some(Frame::Publish { payload, .. }) => u64::from_be_bytes(payload[..8].try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn numbers(peer: &mut Peer, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(next_number(peer).await);
    }
    numbers
}

pub(crate) fn subscribe_from(mode: Mode, position: Position, mailbox: &str, channel: &str) -> Vec<u8> {
    encoded(&ClientFrame::SubscribeFrom { mode, position, mailbox, channel })
}

pub(crate) fn consumed(bytes: u64, position: Position, mailbox: &str) -> Vec<u8> {
    encoded(&ClientFrame::Consumed { bytes, position, mailbox })
}

#[tokio::test]
async fn an_unmodified_collector_gets_what_came_while_it_was_away_and_then_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "m.a", 1..=1000).await;
    publish(&mut publisher, "other", 1001..=1001).await;
    publish(&mut publisher, "m.b", 1002..=2000).await;
    publisher.until_ack(2000).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.a", "m.b"]).await;
    let expected: Vec<_> = (1..=1000).chain(1002..=2000).collect();
    assert_eq!(numbers(&mut peer, 1999).await, expected);
    publish(&mut publisher, "m.a", 2001..=2100).await;
    assert_eq!(numbers(&mut peer, 100).await, (2001..=2100).collect::<Vec<_>>());
    let stats = broker.shutdown().await;
    assert_eq!((stats.received_messages, stats.delivered), (2100, 2099));
}

#[tokio::test]
async fn a_collector_gets_its_mail_after_a_restart_of_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let broker = start(storing(folder.path())).await;
        let mut publisher = sensor(&broker, round + 1).await;
        let first = u64::from(round) * 100 + 1;
        publish(&mut publisher, "m.a", first..=first + 99).await;
        publisher.until_ack(100).await;
        broker.shutdown().await;
    }
    let broker = start(storing(folder.path())).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    assert_eq!(numbers(&mut peer, 300).await, (1..=300).collect::<Vec<_>>());
    broker.shutdown().await;
}

#[tokio::test]
async fn channels_beside_the_mailbox_stay_live_under_one_subscription() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "m.a", 1..=1).await;
    publish(&mut publisher, "other", 2..=2).await;
    publisher.until_ack(2).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["*"]).await;
    assert_eq!(next_number(&mut peer).await, 1, "the other one was published before");
    // Each comes once, whichever way.
    for n in 3..=200 {
        publisher.publish(if n % 2 == 0 { "m.a" } else { "other" }, [n]).await;
    }
    let mut got = numbers(&mut peer, 198).await;
    let live: Vec<_> = got.iter().copied().filter(|n| n % 2 == 1).collect();
    let stored: Vec<_> = got.iter().copied().filter(|n| n % 2 == 0).collect();
    assert!(live.is_sorted() && stored.is_sorted(), "{got:?}");
    got.sort_unstable();
    assert_eq!(got, (3..=200).collect::<Vec<_>>());
    // And so they do from one read, whose channels alternate, beside a subscriber without a mailbox.
    let mut other = Peer::connect(broker.local_addr()).await.authenticate("other", "s").await;
    other.send_subscribe(&["*"]).await;
    other.settle().await;
    assert_eq!(peer.next().await, Some(crate::support::publish("other", "private", "settled")));
    let channel = |n: u64| ["m.a", "x", "m.b", "y"][usize::try_from(n % 4).unwrap()];
    let bytes: Vec<u8> = (201..=1000).flat_map(|n| publisher.messages(channel(n), [n])).collect();
    publisher.send(&bytes).await;
    assert_eq!(numbers(&mut other, 800).await, (201..=1000).collect::<Vec<_>>());
    let mut got = numbers(&mut peer, 800).await;
    got.sort_unstable();
    assert_eq!(got, (201..=1000).collect::<Vec<_>>());
    broker.shutdown().await;
}

#[tokio::test]
async fn a_collector_that_acknowledges_goes_on_behind_what_it_has_processed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 9).await;
    publish(&mut publisher, "m.a", 1..=10).await;
    publisher.until_ack(10).await;
    let mut client = modern(&broker).await;
    client.send(&subscribe_from(Mode::CURSOR, Position::NONE, "", "m.*")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let Got::Origin { position, count, source, mailbox } = client.next().await else { panic!() };
    assert_eq!((count, &*mailbox), (10, ""));
    assert_eq!(source.map(|source| (source.stream, source.number)), Some((crate::extension_client::stream_id(9), 1)));
    for n in 1..=10_u64 {
        assert_eq!(client.next().await, Got::Publish("m.a".to_owned(), Bytes::copy_from_slice(&n.to_be_bytes())));
    }
    // Four of them are processed.
    let at = |n| Position::new(position.epoch, position.number + n - 1);
    client.send(&consumed(0, at(4), "")).await;
    client.finish().await;
    assert_eq!(client.next().await, Got::End);
    let mut client = modern(&broker).await;
    client.subscribe("m.*").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let Got::Origin { position: again, count, source, .. } = client.next().await else { panic!() };
    assert_eq!((again, count), (at(5), 6));
    assert_eq!(source.map(|source| source.number), Some(5));
    // From a position that it names.
    drop(client);
    let mut client = modern(&broker).await;
    client.send(&subscribe_from(Mode::CURSOR, at(8), "", "m.a")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.a"));
    let Got::Origin { position: third, count, .. } = client.next().await else { panic!() };
    assert_eq!((third, count), (at(8), 3));
    broker.shutdown().await;
}

#[tokio::test]
async fn a_mailbox_that_is_not_there_is_answered_with_code_five() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path()).mailbox("collector/second=s.*").unwrap()).await;
    let mut client = modern(&broker).await;
    for (mailbox, channel, code) in [
        ("nothing", "m.a", Code::NO_MAILBOX),
        ("second", "m.a", Code::NO_MAILBOX),
        ("", "s.a", Code::NO_MAILBOX),
        ("second", "s.a", Code::DONE),
        ("", "m.a", Code::DONE),
    ] {
        client.send(&subscribe_from(Mode::CURSOR, Position::NONE, mailbox, channel)).await;
        assert_eq!(client.next().await, sub_ack(code, channel), "{mailbox} {channel}");
    }
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "s.a", 1..=1).await;
    let Got::Origin { mailbox, .. } = client.next().await else { panic!() };
    assert_eq!(mailbox, "second");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_window_holds_mail_back_until_the_client_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "m.a", 1..=100).await;
    publisher.until_ack(100).await;
    let frame = crate::support::bytes([crate::support::publish("sensor", "m.a", vec![0; 8])]).len() as u64;
    let window = u32::try_from(3 * frame + 5).unwrap();
    let asked =
        hpfeeds::wire::extension::ClientHello { window: Some(window), ..hello(Flags::WINDOW | Flags::ORIGIN, 0, 0) };
    let (mut client, _) = Scripted::connect(broker.local_addr()).await.login("collector", "s", asked).await;
    client.subscribe("m.a").await;
    let mut taken = 0;
    while taken < 100 {
        let mut count = 0;
        while count < 3.min(100 - taken) {
            match client.next().await {
                Got::Origin { .. } => {}
                Got::Publish(_, payload) => {
                    count += 1;
                    assert_eq!(u64::from_be_bytes(payload[..].try_into().unwrap()), taken + count);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(
            tokio::time::timeout(Duration::from_millis(20), client.read_next()).await.is_err(),
            "the window is closed"
        );
        taken += count;
        client.send(&consumed(taken * frame, Position::NONE, "")).await;
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn a_slow_collector_of_a_mailbox_loses_nothing_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let builder = storing(folder.path()).low_mark(4096).high_mark(8192).slow_deadline(Duration::from_millis(1));
    let broker = start(builder).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    let mut publisher = sensor(&broker, 1).await;
    // Much more than the marks and the buffers of the system, while it does not read.
    let payload = |n: u64| [&n.to_be_bytes()[..], &vec![0; 60_000]].concat();
    for n in 1..=400_u64 {
        let frame = crate::support::publish("sensor", "m.a", payload(n));
        publisher.send(&crate::support::bytes([frame])).await;
    }
    within(publisher.until_ack(400)).await;
    assert_eq!(numbers(&mut peer, 400).await, (1..=400).collect::<Vec<_>>());
    let stats = broker.shutdown().await;
    assert_eq!((stats.dropped, stats.slow_disconnects), (0, 0));
}

#[tokio::test]
async fn the_next_connection_of_an_ident_takes_over_where_the_owner_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    let mut first = modern(&broker).await;
    first.subscribe("m.*").await;
    assert_eq!(first.next().await, sub_ack(Code::DONE, "m.*"));
    publish(&mut publisher, "m.a", 1..=1).await;
    publisher.until_ack(1).await;
    assert!(matches!(first.next().await, Got::Origin { .. }));
    // From the same address: it takes over at once, as its machine has been restarted.
    let mut second = modern(&broker).await;
    second.subscribe("m.*").await;
    assert_eq!(second.next().await, sub_ack(Code::DONE, "m.*"));
    assert!(matches!(second.next().await, Got::Origin { .. }));
    assert!(matches!(second.next().await, Got::Publish(..)));
    // The former owner is one of the others, who get everything live.
    assert!(matches!(first.next().await, Got::Publish(..)));
    publish(&mut publisher, "m.a", 2..=2).await;
    assert!(matches!(first.next().await, Got::Publish(..)), "without ORIGIN");
    assert!(matches!(second.next().await, Got::Origin { .. }));
    drop(second);
    // It goes on from the cursor, with what the other has not processed.
    let Got::Origin { count, .. } = first.next().await else { panic!() };
    assert!(count > 0);
    let mut got = Vec::new();
    while got.len() < 2 {
        if let Got::Publish(_, payload) = first.next().await {
            got.push(u64::from_be_bytes(payload[..].try_into().unwrap()));
        }
    }
    assert_eq!(got, [1, 2]);
    broker.shutdown().await;
}

#[tokio::test]
async fn an_ident_with_auto_gets_what_it_has_once_subscribed_to() {
    let folder = tempfile::tempdir().unwrap();
    let settings = || keys().data_dir(folder.path()).mailbox("collector=auto").unwrap();
    let broker = start(settings()).await;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "x", 1..=1).await;
    publisher.until_ack(1).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["x"]).await;
    peer.settle().await;
    publish(&mut publisher, "x", 2..=2).await;
    assert_eq!(next_number(&mut peer).await, 2);
    peer.finish().await;
    assert_eq!(peer.next().await, None);
    publish(&mut publisher, "x", 3..=4).await;
    publisher.until_ack(4).await;
    broker.shutdown().await;
    let broker = start(settings()).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["x"]).await;
    // With what is sent again after an end of stream.
    assert_eq!(numbers(&mut peer, 3).await, [2, 3, 4]);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_new_subscriber_gets_the_newest_message_of_a_channel_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let settings = || storing(folder.path()).last_value(Pattern::new("status.*").unwrap());
    let broker = start(settings()).await;
    let mut publisher = sensor(&broker, 1).await;
    for (channel, n) in [("status.a", 1), ("status.b", 2), ("status.a", 3), ("other", 4)] {
        publisher.publish(channel, [n]).await;
    }
    publisher.until_ack(4).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["other", "status.*"]).await;
    assert_eq!(numbers(&mut peer, 2).await, [2, 3], "oldest first");
    publish(&mut publisher, "status.b", 5..=5).await;
    assert_eq!(next_number(&mut peer).await, 5);
    // Subscribing again is nothing new.
    peer.send_subscribe(&["status.*"]).await;
    publish(&mut publisher, "status.b", 6..=6).await;
    assert_eq!(next_number(&mut peer).await, 6);
    broker.shutdown().await;

    let broker = start(settings()).await;
    let mut client = modern(&broker).await;
    client.send(&subscribe_from(Mode::LIVE, Position::NONE, "", "status.*")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "status.*"));
    client.send(&subscribe_from(Mode::LAST_VALUE, Position::NONE, "", "status.a")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "status.a"));
    assert_eq!(client.next().await, Got::Publish("status.a".to_owned(), Bytes::copy_from_slice(&3_u64.to_be_bytes())));
    broker.shutdown().await;
}
