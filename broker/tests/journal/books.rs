//! The operator's snapshot of a data folder: what is stored, what waits in mailboxes, and the books of both.

use hpfeeds::wire::extension::{Code, Mode, Position};
use hpfeeds_broker::{Broker, BrokerSnapshot, Endpoint, Key, MailboxView};

use crate::{
    delivery::{consumed, modern, publish, sensor, storing, subscribe_from},
    extension_client::{Got, Scripted, confirming, sub_ack},
    support::{self, Peer, start, until},
};

fn mailbox(broker: &Broker) -> MailboxView {
    let rows = broker.snapshot().mailboxes.rows;
    let [mailbox] = &rows[..] else { panic!("{rows:?}") };
    mailbox.clone()
}

/// The books add up, and nothing is queued.
fn at_rest(snapshot: &BrokerSnapshot) {
    let BrokerSnapshot { books, difference, .. } = snapshot;
    assert_eq!((*difference, books.queued), (0, 0), "{books:?}");
    assert_eq!(books.wanted, books.stored + books.not_stored, "{books:?}");
}

#[tokio::test]
async fn mail_and_live_copies_are_two_lines_of_the_books_that_both_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut other = Peer::login(broker.local_addr(), "other", "s").await;
    other.send_subscribe(&["*"]).await;
    other.settle().await;
    let settled = broker.snapshot().books.copies;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "m.a", 1..=100).await;
    publish(&mut publisher, "x", 101..=150).await;
    publisher.until_ack(150).await;
    for _ in 0..150 {
        other.next().await.unwrap();
    }
    until(|| mailbox(&broker).waiting == 100).await;
    let snapshot = broker.snapshot();
    at_rest(&snapshot);
    let books = snapshot.books;
    assert_eq!((books.copies - settled, books.wanted, books.stored, books.mailed), (150, 100, 100, 0), "{books:?}");
    let away = mailbox(&broker);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert_eq!((&*away.mailbox, away.attached, away.peer.clone()), ("collector", false, None));
    assert!(away.since <= Some(now) && away.since >= Some(now - 60), "{away:?}");
    assert!(away.oldest <= Some(now) && away.oldest >= Some(now - 60) && away.waiting_bytes > 800, "{away:?}");
    assert_eq!((away.in_flight, away.stuck, away.expired, away.lost, away.reason), (0, false, false, 0, None));
    // A collector takes them, and says so.
    let mut client = modern(&broker).await;
    client.send(&subscribe_from(Mode::CURSOR, Position::NONE, "", "m.*")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let (mut got, mut last) = (0, Position::NONE);
    while got < 100 {
        match client.next().await {
            Got::Origin { position, count, .. } => {
                last = Position::new(position.epoch, position.number + u64::from(count) - 1);
            }
            Got::Publish(..) => got += 1,
            other => panic!("{other:?}"),
        }
    }
    let there = mailbox(&broker);
    assert_eq!((there.attached, there.in_flight, there.waiting), (true, 100, 100));
    assert_eq!(there.peer.as_deref(), Some("127.0.0.1"));
    client.send(&consumed(0, last, "")).await;
    until(|| (mailbox(&broker).waiting, mailbox(&broker).in_flight) == (0, 0)).await;
    let snapshot = broker.snapshot();
    at_rest(&snapshot);
    assert_eq!((snapshot.books.mailed, snapshot.books.copies), (100, books.copies), "mail is no live copy");
    assert_eq!(snapshot.journal.as_ref().unwrap().health, "good");
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(
        (&json["mailboxes"]["rows"][0]["mailbox"], &json["books"]["stored"]),
        (&"collector".into(), &100.into())
    );
    drop((client, other, publisher));
    until(|| broker.stats().connections == 0).await;
    until(|| !mailbox(&broker).attached).await;
    at_rest(&broker.snapshot());
    let stats = broker.shutdown().await;
    assert_eq!(stats.delivered, books.delivered + 100);
}

#[tokio::test]
async fn what_is_not_stored_and_what_is_lost_stand_in_the_books_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let user = |ident| Key::new(ident, "s").unwrap().publish(["*"]).unwrap();
    let settings = Broker::builder().user(user("sensor")).user(user("honest"));
    let settings = settings.endpoint(Endpoint::tcp("127.0.0.1", 0)).data_dir(folder.path());
    let broker = start(settings.mailbox("collector=*").unwrap().journal_max_bytes(8 << 20)).await;
    let login = async |ident: &str, stream| {
        Scripted::connect(broker.local_addr()).await.login(ident, "s", confirming(stream, 1)).await.0
    };
    let mut flood = login("sensor", 1).await;
    let mut send = async |numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers.clone() {
            let payload = [&number.to_be_bytes()[..], &vec![0; 100_000]].concat();
            flood.send(&support::bytes([support::publish("sensor", "m.a", payload)])).await;
        }
        let refused = flood.until_ack(*numbers.end()).await;
        let count =
            |got: &Got| if let Got::Refused { count, .. } = got { u64::from(*count) } else { panic!("{got:?}") };
        refused.iter().map(count).sum::<u64>()
    };
    // Alone, a key may fill the journal, of which the oldest goes.
    assert_eq!(send(1..=200).await, 0);
    let snapshot = broker.snapshot();
    at_rest(&snapshot);
    let (books, journal) = (snapshot.books, snapshot.journal.unwrap());
    assert_eq!((books.wanted, books.stored), (200, 200));
    assert!((100..185).contains(&books.lost), "{books:?}");
    let row = mailbox(&broker);
    assert_eq!((row.lost, row.reason, journal.lost["retention"]), (books.lost, Some("retention"), books.lost));
    // Beside another one it has a share.
    let mut honest = login("honest", 2).await;
    honest.publish("a", [1]).await;
    honest.until_ack(1).await;
    let refused = send(201..=210).await;
    assert!(refused > 0);
    let snapshot = broker.snapshot();
    at_rest(&snapshot);
    let (books, journal) = (snapshot.books, snapshot.journal.unwrap());
    assert_eq!((books.wanted, books.not_stored, journal.not_stored["share"]), (211, refused, refused));
    broker.shutdown().await;
}
