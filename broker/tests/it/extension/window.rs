//! The window, and CONSUMED.

use std::time::Duration;

use hpfeeds::wire::extension::{ClientHello, Code, Flags};
use hpfeeds_broker::SlowPolicy;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    extension_client::{Got, Scripted, consumed, hello, sub_ack},
    support::{Peer, builder, numbered, publish, start, within},
};

/// The length of a delivered frame of `dev` on the channel `c`, without its payload.
const OVERHEAD: usize = 5 + 4 + 2;

fn windowed(window: u32) -> ClientHello<'static> {
    ClientHello { window: Some(window), ..hello(Flags::REPLIES | Flags::WINDOW, 1, 1) }
}

async fn subscriber(addr: std::net::SocketAddr, window: u32) -> Scripted<TcpStream> {
    let (mut client, answer) = Scripted::dev(addr, windowed(window)).await;
    assert!(answer.flags.contains(Flags::WINDOW));
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "c"));
    client
}

/// Receives what comes, and returns how many bytes of frames that were once nothing more comes.
async fn drain(client: &mut Scripted<TcpStream>) -> usize {
    let mut bytes = 0;
    while let Ok(got) = timeout(Duration::from_millis(200), client.read_next()).await {
        match got {
            Got::Publish(_, payload) => bytes += OVERHEAD + payload.len(),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[tokio::test]
async fn no_more_than_the_window_comes_beyond_what_was_consumed() {
    let broker = start(builder()).await;
    let mut client = subscriber(broker.local_addr(), 10_000).await;
    let mut publisher = Peer::dev(&broker).await;
    // Frames of 1,000 bytes, in batches of any length.
    for n in 0..100 {
        publisher.send(publish("dev", "c", numbered(n, 1000 - OVERHEAD))).await;
    }
    publisher.settle().await;
    assert_eq!(drain(&mut client).await, 10_000);
    // Whatever is consumed opens it by as much.
    for (now, more) in [(1000, 1000), (1999, 0), (2000, 1000), (10_000, 8000), (10_000, 0), (3000, 0), (20_000, 10_000)]
    {
        client.send(&consumed(now)).await;
        assert_eq!(drain(&mut client).await, more, "{now}");
    }
    // A frame is not cut: 1,500 bytes are room for one.
    client.send(&consumed(21_500)).await;
    assert_eq!(drain(&mut client).await, 1000);
    let mut total = 31_000;
    while total < 100_000 {
        client.send(&consumed(total)).await;
        let more = drain(&mut client).await;
        assert!(more > 0 && more <= 10_000);
        total += more as u64;
    }
    assert_eq!(total, 100_000);
}

#[tokio::test]
async fn a_frame_longer_than_the_window_comes_when_nothing_is_outstanding() {
    let broker = start(builder()).await;
    for window in [0, 1, 100] {
        let mut client = subscriber(broker.local_addr(), window).await;
        let mut publisher = Peer::dev(&broker).await;
        for n in 0..3 {
            publisher.send(publish("dev", "c", numbered(n, 5000 - OVERHEAD))).await;
        }
        publisher.settle().await;
        for n in 1..=3u64 {
            assert_eq!(drain(&mut client).await, 5000, "window {window}");
            client.send(&consumed(n * 5000 - 1)).await;
            assert_eq!(drain(&mut client).await, 0, "a byte is outstanding");
            client.send(&consumed(n * 5000)).await;
        }
    }
}

#[tokio::test]
async fn a_window_counts_from_the_beginning_of_the_connection() {
    let broker = start(builder()).await;
    let mut client = Scripted::connect(broker.local_addr()).await;
    let auth = client.auth("dev", "dev");
    client.send(&auth).await;
    client.subscribe("c").await;
    let payload = |n| numbered(n, 1000 - OVERHEAD);
    client.send(&crate::support::bytes((0..5).map(|n| publish("dev", "c", payload(n))))).await;
    for _ in 0..5 {
        assert!(matches!(client.next().await, Got::Publish(..)));
    }
    client.hello(windowed(7000)).await;
    client.answer().await;
    client.send(&crate::support::bytes((0..5).map(|n| publish("dev", "c", payload(n))))).await;
    assert_eq!(drain(&mut client).await, 2000, "5,000 bytes came before HELLO");
    client.send(&consumed(7000)).await;
    assert_eq!(drain(&mut client).await, 3000);
    // Another HELLO changes the size, or ends the window.
    client.send(&crate::support::bytes((0..9).map(|n| publish("dev", "c", payload(n))))).await;
    assert_eq!(drain(&mut client).await, 4000);
    client.hello(windowed(9000)).await;
    client.answer().await;
    assert_eq!(drain(&mut client).await, 2000);
    client.hello(hello(Flags::REPLIES, 1, 1)).await;
    client.answer().await;
    assert_eq!(drain(&mut client).await, 3000);
    client.send(&consumed(u64::MAX)).await;
    client.hello(windowed(1)).await;
    client.answer().await;
    client.send(&crate::support::bytes([publish("dev", "c", payload(1))])).await;
    assert_eq!(drain(&mut client).await, 0);
    client.send(&consumed(19_000)).await;
    assert_eq!(drain(&mut client).await, 1000);
}

#[tokio::test]
async fn without_a_size_the_window_is_one_mebibyte() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), hello(Flags::WINDOW, 1, 1)).await;
    client.subscribe("c").await;
    let mut publisher = Peer::dev(&broker).await;
    publisher.settle().await;
    for n in 0..20 {
        publisher.send(publish("dev", "c", numbered(n, (128 << 10) - OVERHEAD))).await;
    }
    assert_eq!(drain(&mut client).await, 1 << 20);
}

#[tokio::test]
async fn what_was_not_sent_cannot_be_consumed() {
    let broker = start(builder()).await;
    for bytes in [1001, u64::MAX] {
        let mut client = subscriber(broker.local_addr(), 10_000).await;
        client.send(&crate::support::bytes([publish("dev", "c", numbered(0, 1000 - OVERHEAD))])).await;
        assert!(matches!(client.next().await, Got::Publish(..)));
        client.send(&consumed(bytes)).await;
        client.expect_error(&format!("CONSUMED counts {bytes} bytes of messages, and 1000 were sent")).await;
    }
}

/// Control frames are not part of the window.
#[tokio::test]
async fn a_closed_window_keeps_no_control_frame_back() {
    let broker = start(builder()).await;
    let asked = ClientHello { window: Some(0), ..hello(Flags::CONFIRM | Flags::REPLIES | Flags::WINDOW, 1, 1) };
    let (mut client, _) = Scripted::dev(broker.local_addr(), asked).await;
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "c"));
    // Its own messages: the first closes the window.
    for n in 1..=50 {
        client.publish("c", [n]).await;
        let before = client.until_ack(n).await;
        assert!(before.len() <= 1 && (n <= 2 || before.is_empty()), "{n}: {before:?}");
    }
    client.subscribe("d").await;
    let mut next = client.next().await;
    if matches!(next, Got::Publish(..)) {
        next = client.next().await;
    }
    assert_eq!(next, sub_ack(Code::DONE, "d"));
}

/// As one that does not read its socket.
#[tokio::test]
async fn a_subscriber_with_a_closed_window_meets_the_policy_for_slow_ones() {
    let window = Duration::from_millis(100);
    let base = || builder().low_mark(10_000).high_mark(50_000).floor_window(window);
    let dropping = start(base().slow_policy(SlowPolicy::DropOldest)).await;
    let mut client = subscriber(dropping.local_addr(), 10_000).await;
    let mut publisher = Peer::dev(&dropping).await;
    for n in 0..200 {
        publisher.send(publish("dev", "c", numbered(n, 1000 - OVERHEAD))).await;
    }
    publisher.settle().await;
    assert!(dropping.stats().dropped > 100, "{:?}", dropping.stats());
    assert_eq!(drain(&mut client).await, 10_000);
    // It is there, and gets the newest when it goes on.
    let mut total = 10_000;
    loop {
        client.send(&consumed(total)).await;
        match drain(&mut client).await {
            0 => break,
            more => total += more as u64,
        }
    }
    assert_eq!(total + 1000 * dropping.stats().dropped, 200_000);

    let ending = start(base().slow_deadline(window)).await;
    let mut client = subscriber(ending.local_addr(), 10_000).await;
    let mut publisher = Peer::dev(&ending).await;
    for n in 0..200 {
        publisher.send(publish("dev", "c", numbered(n, 1000 - OVERHEAD))).await;
    }
    let mut bytes = 0;
    let end = loop {
        match client.next().await {
            Got::Publish(_, payload) => bytes += OVERHEAD + payload.len(),
            end => break end,
        }
    };
    assert_eq!((bytes, end), (10_000, Got::Error("Backpressure deadline timer expired".to_owned())));
    assert_eq!(ending.stats().slow_disconnects, 1);
}

/// CONSUMED is not read any more then.
#[tokio::test]
async fn the_end_of_a_connection_lifts_the_window() {
    let broker = start(builder()).await;
    let mut client = subscriber(broker.local_addr(), 10_000).await;
    let mut publisher = Peer::dev(&broker).await;
    for n in 0..50 {
        publisher.send(publish("dev", "c", numbered(n, 1000 - OVERHEAD))).await;
    }
    publisher.settle().await;
    client.finish().await;
    let mut bytes = 0;
    while let Got::Publish(_, payload) = client.next().await {
        bytes += OVERHEAD + payload.len();
    }
    assert_eq!(bytes, 50_000);
    let _ = within(broker.shutdown()).await;
}

#[tokio::test]
async fn a_window_and_a_rate_limit_hold_together() {
    let rate = std::num::NonZeroU64::new(20_000);
    let broker = start(builder().deliver_bytes(rate)).await;
    let mut client = subscriber(broker.local_addr(), 5000).await;
    let mut publisher = Peer::dev(&broker).await;
    for n in 0..30 {
        publisher.send(publish("dev", "c", numbered(n, 1000 - OVERHEAD))).await;
    }
    let (mut total, mut outstanding) = (0u64, 0u64);
    while total < 30_000 {
        match client.next().await {
            Got::Publish(_, payload) => {
                let len = (OVERHEAD + payload.len()) as u64;
                (total, outstanding) = (total + len, outstanding + len);
                assert!(outstanding <= 5000, "{outstanding}");
            }
            other => panic!("{other:?}"),
        }
        if outstanding == 5000 {
            client.send(&consumed(total - 2000)).await;
            outstanding = 2000;
        }
    }
}

/// Writes so many messages of 16 KiB on a channel before it reads anything, then receives as many,
/// each of which is consumed at once.
async fn write_ahead(client: &mut Scripted<TcpStream>, channel: &str, messages: u64) {
    let frames = (0..messages).map(|n| publish("dev", channel, numbered(n, 16 * 1024)));
    client.send(&crate::support::bytes(frames)).await;
    let mut bytes = 0;
    for n in 0..messages {
        let Got::Publish(_, payload) = client.next().await else { panic!("message {n} of {messages}") };
        assert_eq!(payload[..8], n.to_be_bytes());
        bytes += (OVERHEAD + payload.len()) as u64;
        client.send(&consumed(bytes)).await;
    }
}

/// CONSUMED stands behind what it has published, and that waits for its own queue.
#[tokio::test]
async fn a_client_with_a_window_publishes_any_amount_to_its_own_channel() {
    // Publishers wait for it as long as the test lasts, if they wait.
    let broker = start(builder().floor_window(Duration::from_secs(100_000))).await;
    let mut client = subscriber(broker.local_addr(), 64 * 1024).await;
    write_ahead(&mut client, "c", 512).await;
    assert_eq!(broker.stats().dropped, 0);
}

#[tokio::test]
async fn two_clients_with_windows_publish_any_amount_to_each_other() {
    let broker = start(builder().floor_window(Duration::from_secs(100_000))).await;
    let (mut one, mut two) = tokio::join!(
        Scripted::dev(broker.local_addr(), windowed(64 * 1024)),
        Scripted::dev(broker.local_addr(), windowed(100_000))
    );
    for (client, own) in [(&mut one.0, "1"), (&mut two.0, "2")] {
        client.subscribe(own).await;
        assert_eq!(client.next().await, sub_ack(Code::DONE, own));
    }
    tokio::join!(write_ahead(&mut one.0, "2", 512), write_ahead(&mut two.0, "1", 512));
    assert_eq!(broker.stats().dropped, 0);
}

#[tokio::test]
async fn a_client_whose_own_messages_have_waited_is_slow_like_any_other_once_it_is_read_again() {
    let window = Duration::from_millis(100);
    let broker = start(builder().low_mark(10_000).high_mark(4 << 20).floor_window(window).slow_deadline(window)).await;
    let mut client = subscriber(broker.local_addr(), 10_000).await;
    // More than is read at once.
    let messages = |n| crate::support::bytes((0..n).map(|n| publish("dev", "c", numbered(n, 16 * 1024))));
    client.send(&messages(128)).await;
    let mut publisher = Peer::dev(&broker).await;
    publisher.send_raw(&messages(512)).await;
    let end = loop {
        match client.next().await {
            Got::Publish(..) => {}
            end => break end,
        }
    };
    assert_eq!(end, Got::Error("Backpressure deadline timer expired".to_owned()));
}
