//! HEARTBEAT in both directions, in virtual time: the network is a pipe in memory.

use std::{net::SocketAddr, time::Duration};

use hpfeeds::wire::extension::{ClientFrame, ClientHello, Flags};
use hpfeeds_broker::Broker;
use tokio::{
    io::DuplexStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    extension_client::{Answer, Got, Scripted, ack, encoded, hello, sub_ack},
    support::{numbered, publish},
};

const ALL: [Flags; 3] = [Flags::CONFIRM, Flags::REPLIES, Flags::HEARTBEAT];

async fn start(client_timeout: u64) -> Broker {
    let builder = Broker::dev_builder().without_endpoint().client_timeout(Duration::from_secs(client_timeout));
    let builder = builder.low_mark(64 * 1024).floor_window(Duration::from_secs(100_000));
    builder.start().await.unwrap()
}

fn asked(stream: u8, heartbeat: u16) -> ClientHello<'static> {
    ClientHello { heartbeat, ..hello(ALL[0] | ALL[1] | ALL[2], stream, 1) }
}

async fn connect(broker: &Broker, hello: ClientHello<'_>) -> (Scripted<DuplexStream>, Answer) {
    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
    Scripted::greeted(ours).await.login("dev", "dev", hello).await
}

fn heartbeat() -> Vec<u8> {
    encoded(&ClientFrame::Heartbeat)
}

#[tokio::test(start_paused = true)]
async fn a_client_hears_something_at_least_as_often_as_it_wants_to() {
    let broker = start(0).await;
    for wanted in [2, 10, 100] {
        let (mut client, answer) = connect(&broker, asked(1, wanted)).await;
        assert!(answer.flags.contains(Flags::HEARTBEAT));
        assert_eq!(answer.heartbeat, 0, "the broker does not want to hear anything");
        for _ in 0..5 {
            let before = Instant::now();
            let got = timeout(Duration::from_secs(wanted.into()), client.read_next()).await;
            assert_eq!(got, Ok(Got::Heartbeat), "{wanted} s");
            assert!(
                before.elapsed() + Duration::from_millis(10) > Duration::from_secs((wanted - 1).into()),
                "{wanted}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_frames_are_signs_of_life_too() {
    let broker = start(0).await;
    let (mut client, _) = connect(&broker, asked(1, 10)).await;
    for n in 1..=20 {
        sleep(Duration::from_secs(7)).await;
        client.publish("c", [n]).await;
        assert_eq!(client.read_next().await, ack(n), "no HEARTBEAT within 7 s of a frame");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wants_none_gets_none() {
    let broker = start(30).await;
    let day = Duration::from_secs(86_400);
    let none = [asked(1, 0), ClientHello { heartbeat: 10, ..hello(Flags::CONFIRM, 2, 1) }];
    let (mut one, mut two) = (connect(&broker, none[0]).await, connect(&broker, none[1]).await);
    // Neither is the one judged that has not agreed to send any; the other is gone after 30 s.
    assert_eq!((one.1.heartbeat, two.1.heartbeat), (10, 0));
    assert!(timeout(day, two.0.read_next()).await.is_err());
    one.0.expect_error("No sign of life within 30 s").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_something_every_third_of_its_time_stays() {
    let broker = start(30).await;
    let (mut client, answer) = connect(&broker, asked(1, 0)).await;
    assert_eq!(answer.heartbeat, 10);
    for n in 0..100 {
        sleep(Duration::from_secs(answer.heartbeat.into())).await;
        // A heartbeat, or the first byte of one, which takes its time.
        client.send(&heartbeat()[..if n % 2 == 0 { 6 } else { 1 }]).await;
        if n % 2 == 1 {
            sleep(Duration::from_secs(answer.heartbeat.into())).await;
            client.send(&heartbeat()[1..]).await;
        }
    }
    client.publish("c", [1]).await;
    assert_eq!(client.read_next().await, ack(1));
    let before = Instant::now();
    assert_eq!(client.read_next().await, Got::Error("No sign of life within 30 s".to_owned()));
    let gone = before.elapsed().as_secs();
    assert!((29..=31).contains(&gone), "{gone} s");
}

/// A publisher that waits for a subscriber is not read: whatever it sends stays in the network.
#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_not_read_is_not_judged_and_hears_of_the_broker() {
    let broker = start(30).await;
    let (mut slow, _) = connect(&broker, asked(1, 0)).await;
    slow.subscribe("slow").await;
    assert_eq!(slow.next().await, sub_ack(hpfeeds::wire::extension::Code::DONE, "slow"));
    let (mut client, _) = connect(&broker, asked(2, 10)).await;
    let frame = crate::support::bytes([publish("dev", "slow", numbered(0, 10_000))]);
    let mut sent = 0;
    while timeout(Duration::from_millis(100), async {
        client.send(&frame).await;
        sent += 1;
        assert_eq!(client.read_next().await, ack(sent));
    })
    .await
    .is_ok()
    {
        slow.send(&heartbeat()).await;
    }
    // For an hour; the subscriber is alive, and takes nothing.
    let hour = Instant::now() + Duration::from_secs(3600);
    let mut heard = 0;
    while Instant::now() < hour {
        slow.send(&heartbeat()).await;
        match timeout(Duration::from_secs(10), client.read_next()).await {
            Ok(Got::Heartbeat) => heard += 1,
            other => panic!("{other:?} after {heard}"),
        }
    }
    assert!((360..=402).contains(&heard), "{heard}");
    // Then it takes everything, and the rest is acknowledged.
    let mut got = 0;
    while got < sent {
        got += u64::from(matches!(slow.read_next().await, Got::Publish(..)));
    }
    loop {
        match client.read_next().await {
            Got::Heartbeat => {}
            Got::Ack(number) => break assert_eq!(number, sent),
            other => panic!("{other:?}"),
        }
    }
}
