//! Fast and slow subscribers, order, loss and memory.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt as _;
use hpfeeds::wire::Frame;
use hpfeeds_broker::{Broker, BrokerBuilder, Exposition, SlowPolicy};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, tcp::OwnedReadHalf},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::support::{Peer, builder, bytes, number, numbered, publish, start, until, within};

const PAYLOAD: usize = 4096;

/// No subscriber is slow, no matter what else this machine does.
const LONG: Duration = Duration::from_secs(3600);

/// Publishes numbered messages to channel `c` as fast as the broker takes them, and waits for its confirmation.
fn flood(mut peer: Peer, messages: u64) -> JoinHandle<()> {
    tokio::spawn(async move {
        for start in (0..messages).step_by(256) {
            let batch = start..messages.min(start + 256);
            peer.send_raw(&bytes(batch.map(|n| publish("dev", "c", numbered(n, PAYLOAD))))).await;
        }
        peer.confirm().await;
    })
}

/// Reads numbered messages, which must come in order and whole, until `last`; returns how many there were.
async fn read_until(peer: &mut Peer, last: u64) -> u64 {
    let mut count = 0;
    let mut next = 0;
    loop {
        let frame = peer.next().await.expect("more messages");
        let n = number(&frame);
        assert!(n >= next, "{n} after {next}");
        assert_eq!(frame, publish("dev", "c", numbered(n, PAYLOAD)));
        next = n + 1;
        count += 1;
        if n == last {
            return count;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_speed_nothing_is_lost() {
    const MESSAGES: u64 = 50_000;
    let broker = start(builder().floor_window(LONG)).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::subscriber(&broker, &["c"]).await;
        readers.push(tokio::spawn(async move { read_until(&mut peer, MESSAGES - 1).await }));
    }
    within(flood(Peer::dev(&broker).await, MESSAGES)).await.unwrap();
    for reader in readers {
        assert_eq!(within(reader).await.unwrap(), MESSAGES);
    }
    assert_eq!(broker.stats().dropped, 0);
    until(|| broker.stats().buffered == 0).await;
}

/// The system reports a blocked socket as writable in steps: they must not look as if nothing were read in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_above_the_floor_rate_loses_nothing() {
    const STEP: usize = 32 * 1024;
    // 512 KiB/s, eight times the floor.
    const PAUSE: Duration = Duration::from_micros(62_500);
    let broker = start(builder().low_mark(64 << 10).high_mark(256 << 10)).await;
    let mut stream = Peer::narrow_subscriber(&broker, &["c"]).await.framed.into_inner();
    let flooding = flood(Peer::dev(&broker).await, 20_000);
    let (start, mut due) = (Instant::now(), Instant::now());
    let mut buf = vec![0; STEP];
    // Several windows.
    while start.elapsed() < Duration::from_secs(10) {
        within(stream.read_exact(&mut buf)).await.unwrap();
        due += PAUSE;
        sleep_until(due).await;
    }
    assert_eq!(broker.stats().dropped, 0);
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publishers_of_one_subscriber_lose_nothing() {
    const MESSAGES: u64 = 100;
    const PUBLISHERS: u64 = 100;
    // All that they send at once is far more than what fits.
    let broker = start(builder().low_mark(10_000).high_mark(20_000).floor_window(LONG)).await;
    let mut reader = Peer::subscriber(&broker, &["c"]).await;
    let publishers: Vec<_> =
        futures::stream::iter(0..PUBLISHERS).then(async |_| flood(Peer::dev(&broker).await, MESSAGES)).collect().await;
    for _ in 0..MESSAGES * PUBLISHERS {
        assert!(matches!(reader.next().await, Some(Frame::Publish { .. })));
    }
    for publisher in publishers {
        within(publisher).await.unwrap();
    }
    assert_eq!(broker.stats().dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_held_by_stalled_publishers_are_bounded_in_total() {
    const MESSAGES: u64 = 1500;
    const PUBLISHERS: usize = 32;
    const MAX: usize = 1 << 20;
    let broker = builder().low_mark(100_000).high_mark(MAX).max_buffered(MAX);
    let broker = start(broker.floor_window(LONG)).await;
    let gauge = |name: &str| {
        let metrics = broker.metrics(Exposition::Prometheus);
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok()).unwrap()
    };
    let mut reader = Peer::narrow_subscriber(&broker, &["c"]).await;
    let publishers: Vec<_> =
        futures::stream::iter(0..PUBLISHERS).then(async |_| flood(Peer::dev(&broker).await, MESSAGES)).collect().await;
    // For half of the time somebody reads, so that they are read from in large pieces.
    let half = MESSAGES / 2 * PUBLISHERS as u64;
    for _ in 0..half {
        reader.next().await.unwrap();
    }
    until(|| gauge("hpfeeds_broker_stalled_publishers ") == PUBLISHERS).await;
    let held = gauge("hpfeeds_broker_waiting_bytes ");
    // The shared bytes are used, and not much more.
    assert!((MAX / 2..=MAX + PUBLISHERS * 32 * 1024).contains(&held), "{held}");
    for _ in 0..half {
        reader.next().await.unwrap();
    }
    for publisher in publishers {
        within(publisher).await.unwrap();
    }
    assert_eq!((gauge("hpfeeds_broker_waiting_bytes "), broker.stats().dropped), (0, 0));
}

/// It takes two seconds to notice that somebody is stuck; then those of its ident that read may pause for half a second.
fn stuck_builder() -> BrokerBuilder {
    builder().floor_window(Duration::from_secs(2))
}

/// One subscriber never reads, another gets everything; returns the stuck one.
async fn with_a_stuck_subscriber(broker: &Broker, messages: u64) -> Peer {
    let stuck = Peer::subscriber(broker, &["c"]).await;
    let mut reader = Peer::subscriber(broker, &["c"]).await;
    let publisher = flood(Peer::dev(broker).await, messages);
    assert_eq!(read_until(&mut reader, messages - 1).await, messages);
    within(publisher).await.unwrap();
    stuck
}

/// Much more than the system buffers by itself.
const MANY: u64 = 10_000;
const HIGH_MARK: usize = 2 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let broker = start(stuck_builder().high_mark(HIGH_MARK).slow_policy(SlowPolicy::DropOldest)).await;
    let mut stuck = with_a_stuck_subscriber(&broker, MANY).await;
    assert!(broker.stats().buffered <= HIGH_MARK as u64);
    let dropped = broker.stats().dropped;
    let received = read_until(&mut stuck, MANY - 1).await;
    assert!(dropped > 0);
    assert_eq!(received + dropped, MANY);
    let drops = broker.dropped();
    assert_eq!(drops.len(), 1);
    assert_eq!((&*drops[0].ident, &*drops[0].channel, drops[0].messages), ("dev", "c", dropped));
    // Two of them made sure of the subscriptions.
    assert_eq!(broker.stats().delivered, MANY + received + 2);
    assert_eq!(broker.stats().slow_disconnects, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_is_told_and_disconnected() {
    let deadline = Duration::from_millis(100);
    let broker = start(stuck_builder().high_mark(HIGH_MARK).slow_deadline(deadline)).await;
    let mut stuck = with_a_stuck_subscriber(&broker, MANY).await;
    until(|| broker.stats().slow_disconnects == 1).await;
    // Messages that had been sent are whole and in order, then comes the ERROR.
    let mut received = 0;
    let mut last = None;
    loop {
        match stuck.next().await.unwrap() {
            Frame::Error { message } => {
                assert_eq!(message, "Backpressure deadline timer expired");
                break;
            }
            frame => {
                let n = number(&frame);
                assert_eq!(frame, publish("dev", "c", numbered(n, PAYLOAD)));
                assert!(last.replace(n) < Some(n));
            }
        }
        received += 1;
    }
    assert_eq!(stuck.next().await, None);
    let stats = broker.stats();
    assert!(stats.dropped > 0);
    assert_eq!(stats.delivered, MANY + received + 2);
    until(|| broker.stats().buffered == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_do_not_wait_for_a_stuck_subscriber_that_comes_back() {
    // The other one has never that much queued, so only the stuck one could hold the publisher up.
    const BATCH: u64 = 64;
    let builder = stuck_builder().low_mark(2 << 20).high_mark(4 << 20).slow_deadline(Duration::ZERO);
    let broker = start(builder).await;
    let mut publisher = Peer::dev(&broker).await;
    let mut reader = Peer::subscriber(&broker, &["c"]).await;
    let mut round = async |round: u64| {
        let start = round * BATCH;
        publisher.send_raw(&bytes((start..start + BATCH).map(|n| publish("dev", "c", numbered(n, PAYLOAD))))).await;
        for n in start..start + BATCH {
            assert_eq!(number(&reader.next().await.unwrap()), n);
        }
    };
    let stalled = || {
        let metrics = broker.metrics(Exposition::Prometheus);
        let line = metrics.lines().find(|line| line.starts_with("hpfeeds_broker_publisher_stall_seconds_total "));
        line.unwrap().to_owned()
    };
    let stuck = Peer::subscriber(&broker, &["c"]).await;
    let before = stalled();
    let mut rounds = 0;
    while broker.stats().slow_disconnects == 0 {
        round(rounds).await;
        rounds += 1;
    }
    assert_ne!(stalled(), before);
    drop(stuck);
    // Each time that it comes back, it is cut off again, and nobody has waited.
    let before = stalled();
    for times in 2..=3 {
        let stuck = Peer::subscriber(&broker, &["c"]).await;
        while broker.stats().slow_disconnects < times {
            round(rounds).await;
            rounds += 1;
        }
        drop(stuck);
    }
    assert_eq!(stalled(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_that_recovers_stays() {
    let broker = start(stuck_builder().high_mark(HIGH_MARK)).await;
    let mut stuck = with_a_stuck_subscriber(&broker, MANY).await;
    let dropped = broker.stats().dropped;
    assert!(dropped > 0);
    let value = |name: &str| {
        let metrics = broker.metrics(Exposition::Prometheus);
        let sample = format!("hpfeeds_broker_connection_send_buffer_{name}{{ident=\"dev\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&*sample)).expect(name).parse::<u64>().unwrap()
    };
    assert!(value("size") > 0);
    assert_eq!((value("deadline_start_total"), value("deadline_recover_total")), (1, 0));
    let mut last = None;
    for _ in 0..MANY - dropped {
        let n = number(&stuck.next().await.unwrap());
        assert!(last.replace(n) < Some(n));
    }
    stuck.settle().await;
    assert_eq!((value("deadline_start_total"), value("deadline_recover_total")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stuck_subscribers_together_have_a_bound() {
    const BOUND: usize = 4 << 20;
    const STUCK: usize = 8;
    let broker = start(stuck_builder().max_buffered(BOUND).slow_policy(SlowPolicy::DropOldest)).await;
    let mut stuck = Vec::new();
    for _ in 1..STUCK {
        stuck.push(Peer::subscriber(&broker, &["c"]).await);
    }
    stuck.push(with_a_stuck_subscriber(&broker, MANY).await);
    let buffered = broker.stats().buffered;
    // Each may have one run more.
    assert!(buffered <= (BOUND + STUCK * (256 << 10)) as u64, "{buffered}");
    drop(stuck);
    until(|| broker.stats().buffered == 0).await;
    let stats = broker.stats();
    let settled = STUCK as u64 + 2;
    assert_eq!(stats.delivered + stats.dropped + stats.discarded, MANY * (STUCK as u64 + 1) + settled - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_own_messages_does_not_stop_itself() {
    let broker = start(stuck_builder().high_mark(HIGH_MARK)).await;
    let (mut read, mut write) = raw_echo(&broker).await;
    let frames = bytes((0..64).map(|n| publish("dev", "c", numbered(n, PAYLOAD))));
    for _ in 0..MANY / 64 {
        within(tokio::io::AsyncWriteExt::write_all(&mut write, &frames)).await.unwrap();
    }
    drop(write);
    // All of it has been read once the broker ends the stream, too.
    let mut rest = BytesMut::new();
    while within(read.read_buf(&mut rest)).await.unwrap() > 0 {
        rest.clear();
    }
    let stats = broker.stats();
    assert_eq!(stats.received_messages, MANY / 64 * 64 + 1);
    assert!(stats.dropped > 0);
}

async fn raw_echo(broker: &Broker) -> (OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf) {
    let peer = Peer::subscriber(broker, &["c"]).await;
    let stream: TcpStream = peer.framed.into_inner();
    stream.into_split()
}

/// How much a publisher gets done from one turn of ours to the next, until it has published so much.
async fn most_in_a_turn(broker: &Broker, messages: u64) -> u64 {
    let (mut seen, mut most) = (broker.stats().received_messages, 0);
    let last = seen + messages;
    within(async {
        while seen < last {
            tokio::task::yield_now().await;
            let now = broker.stats().received_messages;
            most = most.max(now - seen);
            seen = now;
        }
    })
    .await;
    most
}

#[tokio::test]
async fn a_publisher_of_many_short_runs_takes_turns_with_others() {
    const SUBSCRIBERS: u64 = 64;
    const MESSAGES: u64 = 6_000;
    let broker = start(builder().floor_window(LONG)).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        subscribers.push(Peer::subscriber(&broker, &["a", "b"]).await);
    }
    let by_turns = bytes((0..MESSAGES).map(|n| publish("dev", if n % 2 == 0 { "a" } else { "b" }, "")));
    let mut writer = Peer::dev(&broker).await;
    // All of them get the same, so what is queued is long: but there is much to look up.
    writer.send_raw(&by_turns).await;
    let most = most_in_a_turn(&broker, MESSAGES).await;
    assert!(most <= 2 * 2048, "{most} messages in one turn");
    // With one more of them who gets only every second message, each is queued by itself.
    subscribers.push(Peer::subscriber(&broker, &["b"]).await);
    writer.send_raw(&by_turns).await;
    let most = most_in_a_turn(&broker, MESSAGES).await;
    assert!(most <= 2 * 2048 / SUBSCRIBERS, "{most} messages for {SUBSCRIBERS} subscribers in one turn");
}

#[cfg(feature = "exporter")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_channels_by_turns_arrive_in_order_and_are_counted_apart() {
    let broker = start(crate::scrape::exporting(builder().floor_window(LONG))).await;
    let mut sent = Vec::new();
    // Runs of one to five messages, on channels in a changing order; nobody subscribes to `d`.
    for n in 0..10_000 {
        let channel = ["x.a", "x.b", "c", "d"][n * n / 7 % 4];
        for more in 0..=n % 5 {
            sent.push(publish("dev", channel, numbered(sent.len() as u64, 8 + (n + more) * 37 % 700)));
        }
    }
    let mut readers = Vec::new();
    for channels in [&["x.a", "x.b", "c"][..], &["x.a", "x.b"], &["x.b", "c"], &["x.*"], &["c"], &["x.*", "c"]] {
        let mut peer = Peer::subscriber(&broker, channels).await;
        let wanted = |frame: &&Frame| matches!(frame, Frame::Publish { channel, .. } if channels.iter().any(|own| own == &&**channel || *own == "x.*" && channel.starts_with("x.")));
        let expected: Vec<_> = sent.iter().filter(wanted).cloned().collect();
        readers.push(tokio::spawn(async move {
            for frame in expected {
                assert_eq!(peer.next().await, Some(frame));
            }
        }));
    }
    let mut writer = Peer::dev(&broker).await;
    let all = bytes(sent.iter().cloned());
    let writing = tokio::spawn(async move {
        // Cut anywhere.
        for part in all.chunks(100_003) {
            writer.send_raw(part).await;
        }
        writer.confirm().await;
    });
    for task in readers.into_iter().chain([writing]) {
        within(task).await.unwrap();
    }
    let exposed = crate::scrape::scrape(&broker).await;
    for channel in ["x.a", "x.b", "c", "d"] {
        let is_there = |frame: &&Frame| matches!(frame, Frame::Publish { channel: own, .. } if **own == *channel);
        let count = u32::try_from(sent.iter().filter(is_there).count()).unwrap();
        let counted = exposed.sum(&format!("hpfeeds_broker_receive_publish_size_count{{chan=\"{channel}\"}}"));
        assert_eq!(counted, Some(f64::from(count)), "{channel}");
    }
    assert_eq!((broker.stats().dropped, broker.stats().discarded), (0, 0));
}

#[tokio::test]
async fn a_publisher_to_many_channels_takes_turns_with_others() {
    const MESSAGES: u64 = 6_000;
    let broker = start(builder()).await;
    let mut writer = Peer::dev(&broker).await;
    // Each has to be looked up, and nobody wants them.
    writer.send_raw(&bytes((0..MESSAGES).map(|n| publish("dev", &format!("c{n}"), "")))).await;
    let most = most_in_a_turn(&broker, MESSAGES).await;
    assert!(most <= 2 * 2048 / 16, "{most} channels in one turn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_vanishes_is_forgotten() {
    let broker = start(builder().floor_window(LONG)).await;
    for _ in 0..3 {
        let stuck = Peer::subscriber(&broker, &["c"]).await;
        let publisher = flood(Peer::dev(&broker).await, 5_000);
        until(|| broker.stats().buffered > 1 << 20).await;
        drop(stuck);
        within(publisher).await.unwrap();
        until(|| broker.stats().buffered == 0 && broker.stats().connections == 0).await;
    }
    let stats = broker.stats();
    assert!(stats.discarded > 0);
    assert_eq!(stats.dropped, 0);
}
