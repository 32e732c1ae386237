//! Unmodified collectors: what comes again after each way in which they end, and after a killed
//! broker.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hpfeeds::wire::extension::Position;
use hpfeeds_broker::Broker;
use tokio::net::TcpStream;

use crate::{
    delivery::{collector, consumed, modern, next_number, numbers, publish, sensor, storing},
    extension_client::{Got, Scripted, confirming},
    support::{self, Peer, start, until},
};

/// Waits until the broker has as many connections.
async fn connections(broker: &Broker, count: u64) {
    until(|| broker.stats().connections == count).await;
}

fn reset(peer: Peer) {
    peer.framed.get_ref().set_zero_linger().unwrap();
    drop(peer);
}

#[tokio::test]
async fn a_collector_that_has_just_got_something_gets_it_again_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    publish(&mut publisher, "m.a", 1..=10).await;
    publisher.until_ack(10).await;
    for is_reset in [false, true, false] {
        let mut peer = collector(&broker).await;
        peer.send_subscribe(&["m.*"]).await;
        assert_eq!(numbers(&mut peer, 10).await, (1..=10).collect::<Vec<_>>());
        if is_reset {
            reset(peer);
        } else {
            peer.finish().await;
            assert_eq!(peer.next().await, None, "after its end it gets nothing more");
        }
        connections(&broker, 1).await;
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn a_collector_gets_no_more_again_than_its_window_of_redelivery() {
    let folder = tempfile::tempdir().unwrap();
    let settings = storing(folder.path()).mailbox("collector/x=x").unwrap();
    let broker = start(settings).await;
    let mut publisher = sensor(&broker, 1).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    // Ten million bytes: the newest eight of them come again after a reset.
    let payload = |n: u64| [&n.to_be_bytes()[..], &vec![0; 100_000]].concat();
    for n in 1..=100_u64 {
        publisher.send(&crate::support::bytes([crate::support::publish("sensor", "m.a", payload(n))])).await;
        assert_eq!(next_number(&mut peer).await, n);
    }
    reset(peer);
    connections(&broker, 1).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    let first = next_number(&mut peer).await;
    assert!((16..=18).contains(&first), "8 MiB are 83 messages: from {first} on");
    assert_eq!(numbers(&mut peer, usize::try_from(100 - first).unwrap()).await, (first + 1..=100).collect::<Vec<_>>());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collectors_that_come_and_go_lose_nothing_while_publishers_go_on_two_threads() {
    const EACH: u64 = 3000;
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let addr = broker.local_addr();
    let publishers: Vec<_> = (1..=3_u8)
        .map(|stream| {
            tokio::spawn(async move {
                let login = Scripted::connect(addr).await.login("sensor", "s", confirming(stream, 1));
                let mut publisher = login.await.0;
                let channel = format!("m.{stream}");
                for first in (1..=EACH).step_by(50) {
                    publisher.publish(&channel, first..=first + 49).await;
                    publisher.until_ack(first + 49).await;
                }
            })
        })
        .collect();
    // Each time some messages, of which some are acknowledged, and then the end.
    let mut seen: HashMap<String, Vec<u64>> = HashMap::new();
    let mut round = 0;
    while seen.values().map(|numbers| numbers.iter().copied().max().unwrap()).sum::<u64>() < 3 * EACH {
        round += 1;
        let mut client = modern(&broker).await;
        client.subscribe("m.*").await;
        assert!(matches!(client.next().await, Got::SubAck { .. }));
        let (mut last, mut at, mut bytes) = (HashMap::new(), Position::NONE, 0);
        for step in 0..500 {
            match tokio::time::timeout(Duration::from_secs(1), client.read_next()).await {
                Ok(Got::Origin { position, .. }) => at = Position::new(position.epoch, position.number - 1),
                Ok(Got::Publish(channel, payload)) => {
                    at.number += 1;
                    bytes += support::bytes([support::publish("sensor", &channel, payload.clone())]).len() as u64;
                    let number = u64::from_be_bytes(payload[..].try_into().unwrap());
                    // In order within a connection, without a hole.
                    let before = last.insert(channel.clone(), number);
                    assert!(before.is_none_or(|before| before + 1 == number), "{channel}: {before:?}, {number}");
                    seen.entry(channel).or_default().push(number);
                    if step % 10 < 3 {
                        client.send(&consumed(bytes, at, "")).await;
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
        }
        if round % 2 == 0 {
            client.stream.set_zero_linger().unwrap();
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(seen.len(), 3);
    for (channel, mut numbers) in seen {
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (1..=EACH).collect::<Vec<_>>(), "{channel}");
    }
    broker.shutdown().await;
}

/// The program, with a folder.
struct Program {
    child: Child,
    addr: SocketAddr,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"))
            .args(["--bind=127.0.0.1:0", "--auth=env", "--mailbox=collector=m.*", "--data-dir-wait=20", "--data-dir"])
            .arg(folder)
            .env("HPFEEDS_SENSOR_SECRET", "s")
            .env("HPFEEDS_SENSOR_PUBCHANS", "m.a")
            .env("HPFEEDS_COLLECTOR_SECRET", "s")
            .env("HPFEEDS_COLLECTOR_SUBCHANS", "m.*")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, addr }
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_killed_broker_loses_nothing_that_it_has_confirmed_with_a_collector_attached() {
    let folder = tempfile::tempdir().unwrap();
    let (mut next, mut seen) = (1, std::collections::BTreeSet::new());
    for round in 0..5_u64 {
        let program = Program::start(folder.path());
        let mut publisher: Scripted<TcpStream> =
            Scripted::connect(program.addr).await.login("sensor", "s", confirming(7, next)).await.0;
        let mut peer = Peer::connect(program.addr).await.authenticate("collector", "s").await;
        peer.send_subscribe(&["m.*"]).await;
        publisher.publish("m.a", next..next + 100).await;
        publisher.until_ack(next + 99).await;
        next += 100;
        // Some of it is read, the rest may be anywhere.
        for _ in 0..20 * round {
            seen.insert(next_number(&mut peer).await);
        }
        program.kill();
        if round % 2 == 0 {
            while let Ok(Some(Ok(hpfeeds::wire::Frame::Publish { .. }))) =
                tokio::time::timeout(Duration::from_secs(5), futures::StreamExt::next(&mut peer.framed)).await
            {
            }
        }
    }
    let program = Program::start(folder.path());
    let (_, answer) = Scripted::connect(program.addr).await.login("sensor", "s", confirming(7, next)).await;
    assert_eq!(answer.decided, next - 1, "the stream is known");
    let mut peer = Peer::connect(program.addr).await.authenticate("collector", "s").await;
    peer.send_subscribe(&["m.*"]).await;
    while !(1..next).all(|n| seen.contains(&n)) {
        seen.insert(next_number(&mut peer).await);
    }
    program.kill();
}
