//! Attacks with the extension `hpx/1`.

use std::time::Duration;

use hpfeeds::wire::extension::{ClientFrame, ClientHello, Code, Flags, StreamId};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{
    extension_client::{Got, Scripted, ack, confirming, consumed, encoded, hello, refused, stream_id, sub_ack},
    support::{Peer, bytes, publish, within},
    target::{ATTACKER, Bound, Target, count, dial, login, periods},
};

async fn mallory(target: &Target, hello: ClientHello<'_>) -> Scripted<TcpStream> {
    let stream = dial(ATTACKER, target.plain).await;
    Scripted::greeted(stream).await.login("mallory", "stolen", hello).await.0
}

/// A stream id for each number.
fn id(number: u64) -> StreamId {
    let mut id = [9; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    StreamId::new(id)
}

fn said(stream: StreamId, next: u64) -> Vec<u8> {
    encoded(&ClientFrame::Hello(ClientHello { stream, ..confirming(1, next) }))
}

/// Sends without reading, until the broker does not read any more.
async fn flood(client: &mut Scripted<TcpStream>, mut piece: impl FnMut(u64) -> Vec<u8>) -> usize {
    let mut sent = 0;
    for n in 0..100_000 {
        let piece = piece(n);
        match timeout(Duration::from_secs(1), client.stream.write_all(&piece)).await {
            Ok(Ok(())) => sent += piece.len(),
            _ => return sent,
        }
    }
    panic!("{sent} bytes were read of a client that does not read");
}

#[tokio::test]
async fn a_flood_of_hellos_and_of_heartbeats_and_of_subscriptions_without_reading() {
    let mut target = Target::start(&[]).await;
    let mut clients = [mallory(&target, confirming(1, 1)).await, mallory(&target, confirming(2, 1)).await];
    let hellos = flood(&mut clients[0], |n| (0..100).flat_map(|m| said(id(n * 100 + m), 1)).collect()).await;
    target.exchange().await;
    let channel = "c".repeat(255);
    let pair =
        bytes([crate::support::subscribe("mallory", &channel), crate::support::unsubscribe("mallory", &channel)]);
    let subscriptions = flood(&mut clients[1], |_| pair.repeat(100)).await;
    target.exchange().await;
    // Nothing is answered to these, so they are read: as fast as a client can send them, for a while.
    let mut beating = mallory(&target, confirming(3, 1)).await;
    let beats = encoded(&ClientFrame::Heartbeat).repeat(10_000);
    for _ in 0..50 {
        within(beating.stream.write_all(&beats)).await.unwrap();
    }
    target.exchange().await;
    beating.publish("c", [1]).await;
    assert_eq!(beating.next().await, ack(1));
    drop((clients, beating));
    let bound = Bound { active: 3, ..Bound::default() };
    target.survives(&format!("{hellos} bytes of HELLO, {subscriptions} of subscriptions"), bound).await;
    target.stops().await;
}

/// Each stream has a message that was refused, too: as much as can be remembered of one.
#[tokio::test]
async fn sixty_five_thousand_streams_of_one_ident() {
    const STREAMS: u64 = 65_536;
    let mut target = Target::start(&[]).await;
    let mut client = mallory(&target, confirming(1, 1)).await;
    for portion in 0..STREAMS / 512 {
        let mut all = Vec::new();
        for n in 0..512 {
            all.extend(said(id(portion * 512 + n), 1));
            all.extend(client.messages("c", [n]));
        }
        client.send(&all).await;
        for _ in 0..512 {
            assert_eq!(client.answer().await.decided, 0);
            assert_eq!(client.next().await, ack(1));
        }
    }
    // The last of those that are not held are known.
    assert_eq!(target.metric("hpfeeds_broker_streams").await, 1024 + 1);
    for (n, known) in [(STREAMS - 1, true), (STREAMS - 500, true), (0, false)] {
        client.send(&said(id(n), 1)).await;
        assert_eq!(client.answer().await.flags.contains(Flags::KNOWN), known, "{n}");
    }
    drop(client);
    target.survives(&format!("{STREAMS} streams"), Bound { active: 1, ..Bound::default() }).await;
    target.stops().await;
}

#[tokio::test]
async fn numbers_and_sizes_at_their_ends() {
    let mut target = Target::start(&[]).await;
    let windowed = |window| ClientHello { window: Some(window), ..hello(Flags::WINDOW, 5, 1) };
    for (hello, sent, text) in [
        (windowed(0), consumed(1), "CONSUMED counts 1 bytes of messages, and 0 were sent"),
        (
            windowed(u32::MAX),
            consumed(u64::MAX),
            "CONSUMED counts 18446744073709551615 bytes of messages, and 0 were sent",
        ),
        (
            confirming(6, u64::MAX),
            bytes([publish("mallory", "c", "x")]),
            "The stream has no numbers left: take a new stream id",
        ),
    ] {
        let mut client = mallory(&target, hello).await;
        client.send(&sent).await;
        client.expect_error(text).await;
    }
    // A window of nothing: one message at a time.
    let mut client = mallory(&target, windowed(0)).await;
    client.subscribe("c").await;
    client.publish("c", 0..100).await;
    let len = |payload: &[u8]| (5 + 8 + 2 + payload.len()) as u64;
    let mut taken = 0;
    for n in 0..100u64 {
        let Got::Publish(_, payload) = client.next().await else { panic!("no message") };
        assert_eq!(payload, &n.to_be_bytes()[..]);
        taken += len(&payload);
        client.send(&consumed(taken)).await;
    }
    drop(client);
    target.survives("numbers and sizes at their ends", Bound { active: 1, ..Bound::default() }).await;
    target.stops().await;
}

#[tokio::test]
async fn hello_before_auth_and_in_place_of_it() {
    let mut target = Target::start(&[]).await;
    let mut connections = 0;
    for sent in [said(stream_id(1), 1), said(stream_id(1), 1).repeat(100), encoded(&ClientFrame::Heartbeat)] {
        let mut client = Scripted::greeted(dial(ATTACKER, target.plain).await).await;
        let opcode = sent[4];
        client.send(&sent).await;
        client.expect_error(&format!("unknown opcode {opcode}")).await;
        connections += 1;
    }
    // With a wrong secret: HELLO behind it is not looked at.
    let mut client = Scripted::greeted(dial([127, 1, 0, 9], target.plain).await).await;
    let mut sent = client.auth("mallory", "guessed");
    sent.extend(said(stream_id(1), 1));
    client.send(&sent).await;
    client.expect_error("Authentication failed for mallory").await;
    assert_eq!(target.metric("hpfeeds_broker_streams").await, 0);
    target.survives(&format!("{connections} HELLOs before AUTH"), Bound { idle: 4, ..Bound::default() }).await;
    target.stops().await;
}

/// They go on for as long as the client likes: neither the log nor the memory grows with them.
#[tokio::test]
async fn messages_that_are_refused_without_end() {
    let mut target = Target::start(&[]).await;
    let stream = dial(ATTACKER, target.plain).await;
    let (mut client, _) = Scripted::greeted(stream).await.login("weak", "stolen", confirming(1, 1)).await;
    let begun = std::time::Instant::now();
    let mut number = 1;
    for round in 0..200u64 {
        let all: Vec<_> = (0..100).flat_map(|n| client.messages(if n % 2 == 0 { "x" } else { "y" }, [round])).collect();
        client.send(&all).await;
        for got in client.until_ack(number + 99).await {
            let Got::Refused { first, count, code, .. } = got else { panic!("{got:?}") };
            assert_eq!((first, count, code), (number, 1, Code::NOT_ALLOWED));
            number += 1;
        }
    }
    let all = client.messages("x", 0..20_000);
    client.send(&all).await;
    let mut refused_now = 0;
    for got in client.until_ack(number + 19_999).await {
        assert!(matches!(&got, Got::Refused { channel, .. } if channel == "x"), "{got:?}");
        if let Got::Refused { count, .. } = got {
            refused_now += count;
        }
    }
    assert_eq!(refused_now, 20_000);
    client.subscribe("nothing").await;
    assert_eq!(client.next().await, sub_ack(Code::NOT_ALLOWED, "nothing"));
    assert_eq!(refused("weak", 1, 1, "x"), refused("weak", 1, 1, "x"));
    drop(client);
    assert_eq!(target.metric("hpfeeds_broker_refused_messages_total{reason=\"not-allowed\"}").await, 40_000);
    target.survives("40,000 refused messages", Bound { active: 1, ..Bound::default() }).await;
    let lines = count(&target.stops().await, "denied: ");
    assert!((1..=periods(begun)).contains(&lines), "{lines} lines");
}

/// The view of one connection of the race.
#[derive(Default)]
struct Seen {
    /// The highest number that was acknowledged to it, or decided when it asked.
    decided: u64,
    fenced: bool,
}

/// Takes the stream, publishes the numbers that follow what is decided, and reads to the end or for
/// so many messages.
async fn race(target: std::net::SocketAddr, messages: u64) -> Seen {
    let stream = dial(ATTACKER, target).await;
    let mut client = Scripted::greeted(stream).await;
    let mut sent = client.auth("mallory", "stolen");
    sent.extend(encoded(&ClientFrame::Hello(confirming(1, 1))));
    client.send(&sent).await;
    let mut seen = Seen::default();
    let decided = match client.next().await {
        Got::Hello(answer) => answer.decided,
        Got::Error(_) | Got::End => return Seen { fenced: true, ..seen },
        other => panic!("{other:?}"),
    };
    seen.decided = decided;
    let all = client.messages("race", decided + 1..=decided + messages);
    for piece in all.chunks(all.len() / 3) {
        if timeout(Duration::from_secs(20), client.stream.write_all(piece)).await.expect("it hangs").is_err() {
            break;
        }
    }
    loop {
        match client.next().await {
            Got::Ack(number) => {
                assert!(number > seen.decided && number <= decided + messages, "{number} after {}", seen.decided);
                seen.decided = number;
                if number == decided + messages {
                    return seen;
                }
            }
            Got::Error(text) => {
                assert_eq!(text, "The stream is used by another connection");
                seen.fenced = true;
            }
            Got::End => return seen,
            other => panic!("{other:?}"),
        }
    }
}

/// As each publishes the numbers that its messages have, a subscriber gets every number once, in
/// order, whoever published it: nothing was decided for a connection that had lost the stream, and
/// nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_race_for_one_stream_on_several_threads() {
    let mut target = Target::start(&["--threads=4"]).await;
    let mut subscriber = login(ATTACKER, target.plain, "dev", "dev").await;
    subscriber.send(crate::support::subscribe("dev", "race")).await;
    subscriber.settle().await;
    let addr = target.plain;
    let reading = tokio::spawn(read_numbers(subscriber));
    let racers: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let (mut decided, mut fenced) = (0, 0);
                for _ in 0..60 {
                    let seen = race(addr, 50).await;
                    assert!(seen.decided >= decided || seen.decided == 0, "what is decided never falls");
                    decided = decided.max(seen.decided);
                    fenced += u64::from(seen.fenced);
                }
                (decided, fenced)
            })
        })
        .collect();
    let (mut decided, mut fenced) = (0, 0);
    for racer in racers {
        let (seen, times) = racer.await.unwrap();
        decided = decided.max(seen);
        fenced += times;
    }
    let last = mallory(&target, confirming(2, 1)).await;
    drop(last);
    let stream = dial(ATTACKER, target.plain).await;
    let (mut client, answer) = Scripted::greeted(stream).await.login("mallory", "stolen", confirming(1, 1)).await;
    assert!(answer.decided >= decided, "{} {decided}", answer.decided);
    client.publish("race", [u64::MAX]).await;
    assert_eq!(client.next().await, ack(answer.decided + 1));
    assert_eq!(within(reading).await.unwrap(), answer.decided);
    println!("figures: {} messages of one stream over 480 connections, of which {fenced} were fenced", answer.decided);
    drop(client);
    target.survives("480 connections with one stream", Bound { active: 8, idle: 20, ..Bound::default() }).await;
    target.stops().await;
}

/// Reads numbers from one on, each once and in order, until the largest of all. Returns the last
/// before that.
async fn read_numbers(mut subscriber: Peer) -> u64 {
    let mut last = 0;
    loop {
        let frame = subscriber.next().await.expect("a message");
        match crate::support::number(&frame) {
            u64::MAX => return last,
            number => assert_eq!(number, last + 1, "each number once, in order"),
        }
        last += 1;
    }
}
