//! Subscribers that do not read.
//!
//! A subscriber is slow after a second, not three, when the floor rate is 192k: nothing else changes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    support::{Peer, bytes, publish, subscribe, within},
    target::{ATTACKER, Bound, MIB, Target, login, rest},
};

/// A connection that the system buffers little for.
async fn narrow(to: SocketAddr) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.bind((std::net::IpAddr::from(ATTACKER), 0).into()).unwrap();
    Peer::greeted(within(socket.connect(to)).await.unwrap()).await.authenticate("mallory", "stolen").await
}

/// Subscribes to a channel that is flooded, and reads nothing.
async fn deaf(to: SocketAddr, channel: &str) -> TcpStream {
    let mut peer = narrow(to).await;
    peer.send(subscribe("mallory", channel)).await;
    peer.settle().await;
    peer.framed.into_inner()
}

/// Publishes so many bytes at full speed, in messages of 64 KiB.
async fn flood(to: SocketAddr, channel: String, len: usize) {
    let mut peer = login([127, 1, 0, 2], to, "mallory", "stolen").await;
    let message = bytes([publish("mallory", &channel, vec![b'x'; 64 * 1024])]);
    for _ in 0..len / message.len() {
        within(peer.send_raw(&message)).await;
    }
    peer.confirm().await;
}

#[tokio::test]
async fn a_subscriber_that_never_reads() {
    let mut target = Target::start(&["--slow-deadline=1", "--write-timeout=1", "--floor-rate=192k"]).await;
    let mut stream = deaf(target.plain, "flood").await;
    flood(target.plain, "flood".to_owned(), 200 * MIB).await;
    target.exchange().await;
    target.reaches("hpfeeds_broker_slow_disconnects_total", 1).await;
    rest(&mut stream).await;
    // Up to --high-mark.
    let bound = Bound { active: 4, queued: 50 * MIB, ..Bound::default() };
    target.survives("a subscriber that never reads, 200 MiB", bound).await;
    assert!(target.metric("hpfeeds_broker_dropped_messages_total{ident=\"mallory\"}").await > 0);
    target.stops().await;
}

/// Each has messages of its own, so that nothing is shared.
#[tokio::test]
async fn many_subscribers_that_never_read() {
    const COUNT: usize = 8;
    const QUEUED: usize = 128 * MIB;
    let mut target =
        Target::start(&["--slow-deadline=1", "--write-timeout=1", "--floor-rate=192k", "--max-buffered=128M"]).await;
    let mut streams = Vec::new();
    let mut publishers = tokio::task::JoinSet::new();
    for n in 0..COUNT {
        let channel = format!("flood.{n}");
        streams.push(deaf(target.plain, &channel).await);
        publishers.spawn(flood(target.plain, channel, 40 * MIB));
    }
    let mut queued = 0;
    while !publishers.is_empty() {
        target.exchange().await;
        queued = queued.max(target.metric("hpfeeds_broker_queued_bytes").await);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), publishers.join_next()).await;
    }
    // It has come to that, and not further.
    assert!((QUEUED / 10 * 9..=QUEUED).contains(&queued), "{queued}");
    drop(streams);
    let bound = Bound { active: 2 * COUNT, queued: QUEUED, ..Bound::default() };
    target.survives(&format!("{COUNT} subscribers that never read"), bound).await;
    target.stops().await;
}

/// Each message is short and would stand alone, because the channels alternate: they are put into pieces of memory, which
/// cost more than their bytes.
#[tokio::test]
async fn subscribers_that_never_read_very_short_messages() {
    const QUEUED: usize = 16 * MIB;
    let mut target =
        Target::start(&["--slow-deadline=1", "--write-timeout=1", "--floor-rate=192k", "--max-buffered=16M"]).await;
    let mut streams = Vec::new();
    for n in 0..4 {
        streams.push(deaf(target.plain, &format!("{n}")).await);
    }
    let plain = target.plain;
    let flooding = tokio::spawn(async move {
        let mut peer = login(ATTACKER, plain, "mallory", "stolen").await;
        let batch = bytes((0..4000).map(|n| publish("mallory", &format!("{}", n % 4), "")));
        for _ in 0..400 {
            within(peer.send_raw(&batch)).await;
        }
        peer.confirm().await;
    });
    let mut queued = 0;
    while !flooding.is_finished() {
        target.exchange().await;
        queued = queued.max(target.metric("hpfeeds_broker_queued_bytes").await);
    }
    flooding.await.unwrap();
    assert!((QUEUED / 10 * 9..=QUEUED).contains(&queued), "{queued}");
    drop(streams);
    let bound = Bound { active: 8, queued: QUEUED, ..Bound::default() };
    target.survives("1,600,000 messages without payload that nobody reads", bound).await;
    target.stops().await;
}

#[tokio::test]
async fn a_subscriber_that_reads_byte_after_byte() {
    let mut target =
        Target::start(&["--slow-deadline=1", "--write-timeout=1", "--floor-rate=192k", "--high-mark=4M"]).await;
    let mut stream = deaf(target.plain, "flood").await;
    let reading = tokio::spawn(async move {
        let mut byte = [0; 1];
        while let Ok(1) = stream.read(&mut byte).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    flood(target.plain, "flood".to_owned(), 40 * MIB).await;
    target.exchange().await;
    target.reaches("hpfeeds_broker_slow_disconnects_total", 1).await;
    reading.abort();
    let _ = reading.await;
    let bound = Bound { active: 4, queued: 4 * MIB, ..Bound::default() };
    target.survives("a subscriber that reads byte after byte", bound).await;
    target.stops().await;
}

/// It waits for itself, which must not be for ever.
#[tokio::test]
async fn a_publisher_that_does_not_read_its_own_messages() {
    let mut target =
        Target::start(&["--slow-deadline=1", "--write-timeout=1", "--floor-rate=192k", "--high-mark=4M"]).await;
    let mut stream = deaf(target.plain, "flood").await;
    let message = bytes([publish("mallory", "flood", vec![b'x'; 64 * 1024])]);
    let flooding = async {
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(15), stream.write_all(&message)).await {}
    };
    tokio::join!(flooding, async {
        target.reaches("hpfeeds_broker_slow_disconnects_total", 1).await;
        target.exchange().await;
    });
    drop(stream);
    target
        .survives(
            "a publisher that does not read its own messages",
            Bound { active: 4, queued: 4 * MIB, ..Bound::default() },
        )
        .await;
    target.stops().await;
}

#[tokio::test]
async fn publishers_that_do_not_read_their_error() {
    const COUNT: usize = 100;
    let mut target = Target::start(&["--write-timeout=1"]).await;
    let mut flooding = tokio::task::JoinSet::new();
    for _ in 0..COUNT {
        let mut stream = narrow(target.plain).await.framed.into_inner();
        flooding.spawn(async move {
            let denied = bytes([publish("somebody", "a", "")]);
            stream.write_all(&denied).await.unwrap();
            // And on, whatever the answer is.
            let more = vec![b'x'; 64 * 1024];
            while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(15), stream.write_all(&more)).await {}
        });
    }
    while flooding.join_next().await.is_some() {}
    assert_eq!(target.metric("hpfeeds_broker_refused_sessions_total").await, COUNT);
    target
        .survives(
            &format!("{COUNT} publishers that do not read their ERROR"),
            Bound { active: COUNT, ..Bound::default() },
        )
        .await;
    target.stops().await;
}
