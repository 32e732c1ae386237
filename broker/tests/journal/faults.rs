//! Faults: a disk that is full, read-only, damaged or gone, and keys that change.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hpfeeds::wire::extension::{Code, Flags, GapReason, Mode, Position};
use hpfeeds_broker::{AuthStore, Broker, Endpoint, Exposition, JournalFull, Key, Lookup};
use tokio::io::AsyncWriteExt as _;

use crate::{
    delivery::{collector, consumed, keys, modern, next_number, numbers, publish, sensor, storing, subscribe_from},
    extension_client::{Got, Scripted, confirming, hello, sub_ack},
    support::{self, Peer, start, within},
};

/// Publishes so many messages of 100,000 bytes.
async fn flood(publisher: &mut Scripted<tokio::net::TcpStream>, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let payload = [&n.to_be_bytes()[..], &vec![0; 100_000]].concat();
        publisher.send(&support::bytes([support::publish("sensor", "m.a", payload)])).await;
    }
}

/// How many messages the broker has taken, when it takes no more while it answers another client a hundred
/// times: what it could take, it has taken by then, however fast the machine is.
async fn at_rest(broker: &Broker, bystander: &mut Scripted<tokio::net::TcpStream>) -> u64 {
    let (mut last, mut quiet) = (broker.stats().received_messages, 0);
    while quiet < 100 {
        bystander.unsubscribe("nothing").await;
        assert_eq!(bystander.next().await, sub_ack(Code::DONE, "nothing"));
        let now = broker.stats().received_messages;
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn a_full_journal_drops_the_oldest_and_says_how_many_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path()).journal_max_bytes(8 << 20)).await;
    let mut publisher = sensor(&broker, 1).await;
    flood(&mut publisher, 1..=200).await;
    assert_eq!(within(publisher.until_ack(200)).await, [], "the only account has no share");
    let mut client = modern(&broker).await;
    client.send(&subscribe_from(Mode::CURSOR, Position::NONE, "", "m.*")).await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let Got::Gap(lost, reason, mailbox) = client.next().await else { panic!("no GAP") };
    assert_eq!((reason, &*mailbox), (GapReason::RETENTION, ""));
    let Got::Origin { .. } = client.next().await else { panic!("no ORIGIN") };
    let Got::Publish(_, payload) = client.next().await else { panic!("no message") };
    assert_eq!(u64::from_be_bytes(payload[..8].try_into().unwrap()), lost + 1, "exactly the others are there");
    assert!((100..185).contains(&lost), "8 MiB of 20 MB are left, in whole segments: {lost}");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_full_journal_that_waits_reads_no_confirming_publisher_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let settings = storing(folder.path()).journal_max_bytes(8 << 20).journal_full(JournalFull::Wait);
    let broker = start(settings).await;
    let addr = broker.local_addr();
    let publishing = tokio::spawn(async move {
        let mut publisher = Scripted::connect(addr).await.login("sensor", "s", confirming(1, 1)).await.0;
        // More than the journal, its queue, and the buffers of the system.
        flood(&mut publisher, 1..=600).await;
        publisher.until_ack(600).await
    });
    // Nothing moves before a collector comes.
    let full = "hpfeeds_journal_health{state=\"full\"} 1";
    support::until(|| broker.metrics(Exposition::Prometheus).contains(full)).await;
    let mut bystander = modern(&broker).await;
    let last = at_rest(&broker, &mut bystander).await;
    assert!((80..400).contains(&last), "{last} of 600 were taken");
    // Nor is the first message of another one taken.
    let mut another = sensor(&broker, 2).await;
    another.send(&support::bytes([support::publish("sensor", "m.other", vec![0; 1_000_000])])).await;
    assert_eq!(at_rest(&broker, &mut bystander).await, last);
    drop((another, bystander));
    let asked = hello(Flags::WINDOW | Flags::ORIGIN, 0, 0);
    let (mut client, _) = Scripted::connect(addr).await.login("collector", "s", asked).await;
    client.subscribe("m.*").await;
    let (mut got, mut bytes, mut at) = (0, 0, Position::NONE);
    while got < 600 {
        match client.next().await {
            Got::Origin { position, count, .. } => {
                at = Position::new(position.epoch, position.number + u64::from(count) - 1);
            }
            Got::Publish(channel, payload) => {
                if channel == "m.a" {
                    got += 1;
                    assert_eq!(u64::from_be_bytes(payload[..8].try_into().unwrap()), got, "nothing is lost");
                }
                bytes += support::bytes([support::publish("sensor", &channel, payload)]).len() as u64;
                client.send(&consumed(bytes, at, "")).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(within(publishing).await.unwrap(), []);
    within(broker.shutdown()).await;
}

#[tokio::test]
async fn neither_ack_nor_end_of_stream_comes_for_what_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let settings = storing(folder.path()).journal_max_bytes(8 << 20).journal_full(JournalFull::Wait);
    let broker = start(settings).await;
    // As much as journal and queue take together without pacing anybody.
    let mut publisher = sensor(&broker, 1).await;
    flood(&mut publisher, 1..=200).await;
    let mut old = Peer::connect(broker.local_addr()).await.authenticate("sensor", "s").await;
    old.send(support::publish("sensor", "m.old", "x")).await;
    support::until(|| broker.stats().received_messages == 201).await;
    old.finish().await;
    let mut acked = 0;
    while let Ok(got) = tokio::time::timeout(Duration::from_millis(500), publisher.read_next()).await {
        let Got::Ack(number) = got else { panic!("{got:?}") };
        acked = number;
    }
    assert!((40..90).contains(&acked), "8 MiB of 20 MB are on disk, and {acked} messages are acknowledged");
    let end = tokio::time::timeout(Duration::from_millis(100), futures::StreamExt::next(&mut old.framed)).await;
    assert!(end.is_err(), "it is not confirmed: {end:?}");
    // A collector makes room.
    let mut client = modern(&broker).await;
    client.subscribe("m.*").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let (mut bytes, mut got, mut at) = (0, 0, Position::NONE);
    while got < 201 {
        match client.next().await {
            Got::Origin { position, .. } => at = Position::new(position.epoch, position.number - 1),
            Got::Publish(channel, payload) => {
                (got, at.number) = (got + 1, at.number + 1);
                bytes += support::bytes([support::publish("sensor", &channel, payload)]).len() as u64;
                client.send(&consumed(bytes, at, "")).await;
            }
            other => panic!("{other:?}"),
        }
    }
    publisher.until_ack(200).await;
    assert_eq!(old.next().await, None, "now it is");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_failed_journal_ends_confirming_publishers_and_leaves_the_others_live() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path()).journal_max_bytes(8 << 20)).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    let mut publisher = sensor(&broker, 1).await;
    let (mut idle, _) = Scripted::connect(broker.local_addr()).await.login("sensor", "s", confirming(2, 1)).await;
    flood(&mut publisher, 1..=1).await;
    publisher.until_ack(1).await;
    assert_eq!(next_number(&mut peer).await, 1);
    // The next segments have no place.
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let mut n = 1_u64;
    let error = loop {
        n += 1;
        let payload = [&n.to_be_bytes()[..], &vec![0; 100_000]].concat();
        let frame = support::bytes([support::publish("sensor", "m.a", payload)]);
        let _ = tokio::io::AsyncWriteExt::write_all(&mut publisher.stream, &frame).await;
        match publisher.next().await {
            Got::Ack(acked) => assert_eq!(acked, n),
            Got::Error(text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error, "The journal has failed");
    idle.expect_error("The journal has failed").await;
    let mut refused = Scripted::connect(broker.local_addr()).await;
    let mut bytes = refused.auth("sensor", "s");
    bytes.extend(crate::extension_client::encoded(&hpfeeds::wire::extension::ClientFrame::Hello(confirming(3, 1))));
    refused.send(&bytes).await;
    refused.expect_error("The journal has failed").await;
    // Others are live only, and their end of stream is not confirmed.
    while next_number(&mut peer).await < n - 1 {}
    let mut old = Peer::connect(broker.local_addr()).await.authenticate("sensor", "s").await;
    old.send(support::publish("sensor", "m.a", 9999_u64.to_be_bytes().to_vec())).await;
    while next_number(&mut peer).await != 9999 {}
    old.finish().await;
    let end = within(futures::StreamExt::next(&mut old.framed)).await;
    assert!(matches!(end, Some(Err(_))), "a reset: {end:?}");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_damaged_segment_costs_what_is_in_it_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut publisher = sensor(&broker, 1).await;
    for n in 1..=50 {
        publish(&mut publisher, "m.a", n..=n).await;
        publisher.until_ack(n).await;
    }
    broker.shutdown().await;
    let segment = fs::read_dir(folder.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|name| name == "seg")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // In the payload of the twentieth.
    let payload = 20_u64.to_be_bytes();
    let at = bytes.windows(12).position(|window| window[..4] == *b"\x03m.a" && window[4..] == payload).unwrap();
    bytes[at + 6] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let broker = start(storing(folder.path())).await;
    let mut client = modern(&broker).await;
    client.subscribe("m.*").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let (mut got, mut gaps) = (Vec::new(), 0);
    while got.len() < 49 || gaps == 0 {
        match client.next().await {
            Got::Publish(_, payload) => got.push(u64::from_be_bytes(payload[..].try_into().unwrap())),
            Got::Gap(lost, GapReason::DAMAGE, _) => gaps += lost,
            Got::Origin { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, (1..=50).filter(|n| *n != 20).collect::<Vec<_>>());
    assert_eq!(gaps, 1);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_key_that_loses_a_channel_gets_the_others_and_the_cursor_moves_on() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |channels: &[&str]| {
        let sensor = Key::new("sensor", "s").unwrap().publish(["*"]).unwrap();
        let collector = Key::new("collector", "s").unwrap().subscribe(channels).unwrap();
        let keys = Broker::builder().user(sensor).user(collector).endpoint(Endpoint::tcp("127.0.0.1", 0));
        keys.data_dir(folder.path()).mailbox("collector=m.*").unwrap()
    };
    let broker = start(settings(&["m.*"])).await;
    let mut publisher = sensor(&broker, 1).await;
    for n in 1..=20 {
        publish(&mut publisher, if n % 2 == 0 { "m.secret" } else { "m.a" }, n..=n).await;
    }
    publisher.until_ack(20).await;
    broker.shutdown().await;
    let broker = start(settings(&["m.a"])).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    assert_eq!(numbers(&mut peer, 10).await, (1..=20).step_by(2).collect::<Vec<_>>());
    let mut publisher = sensor(&broker, 2).await;
    publish(&mut publisher, "m.secret", 21..=21).await;
    publish(&mut publisher, "m.a", 22..=22).await;
    assert_eq!(next_number(&mut peer).await, 22);
    broker.shutdown().await;
}

/// A store that knows the collector, or does not.
#[derive(Clone, Default)]
struct Removable {
    is_gone: Arc<AtomicBool>,
}

impl AuthStore for Removable {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        let key = (ident == "collector" && !self.is_gone.load(Relaxed)).then(|| {
            let key = Key::new("collector", "s").and_then(|key| key.subscribe(["m.*"]));
            Arc::new(key.unwrap())
        });
        Box::pin(std::future::ready(Ok(key)))
    }
}

#[tokio::test]
async fn a_removed_key_detaches_and_its_mail_waits() {
    let folder = tempfile::tempdir().unwrap();
    let users = Removable::default();
    let sensors = Key::new("sensor", "s").unwrap().publish(["*"]).unwrap();
    let settings = Broker::builder().user(sensors).auth(users.clone()).endpoint(Endpoint::tcp("127.0.0.1", 0));
    let broker = start(settings.data_dir(folder.path()).mailbox("collector=m.*").unwrap()).await;
    let mut publisher = sensor(&broker, 1).await;
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    publish(&mut publisher, "m.a", 1..=1).await;
    assert_eq!(next_number(&mut peer).await, 1);
    users.is_gone.store(true, Relaxed);
    broker.recheck_now();
    peer.expect_error("Authentication failed for collector").await;
    publish(&mut publisher, "m.a", 2..=3).await;
    publisher.until_ack(3).await;
    users.is_gone.store(false, Relaxed);
    let mut peer = collector(&broker).await;
    peer.send_subscribe(&["m.*"]).await;
    assert_eq!(numbers(&mut peer, 3).await, [1, 2, 3]);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_an_error_of_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = keys().data_dir(&file).start().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("the data folder {} cannot be used: ", file.display())), "{error}");
}

/// The variable that holds the folder within the namespace.
const FULL: &str = "HPFEEDS_TEST_FULL";

#[test]
fn a_small_file_system_that_is_full_costs_the_oldest_messages_and_no_connection() {
    if let Ok(folder) = env::var(FULL) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(on_a_full_disk(Path::new(&folder)));
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=6m tmpfs {} && exec \"$@\"", folder.path().display());
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &mount, "sh"]).arg(program).args(arguments).env(FULL, folder.path());
        command.output()
    };
    if !run(Path::new("true"), &[]).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace (unshare -rm) for a small file system");
        return;
    }
    let name = "faults::a_small_file_system_that_is_full_costs_the_oldest_messages_and_no_connection";
    let output = run(&env::current_exe().unwrap(), &["--exact", name, "--nocapture"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

async fn on_a_full_disk(folder: &Path) {
    // Another program's file takes some of it, and then more.
    fs::write(folder.join("other"), vec![1; 1 << 20]).unwrap();
    let broker = start(storing(&folder.join("data")).journal_max_bytes(8 << 20)).await;
    let mut publisher = sensor(&broker, 1).await;
    flood(&mut publisher, 1..=60).await;
    within(publisher.until_ack(60)).await;
    fs::write(folder.join("more"), vec![1; 1 << 20]).unwrap_or_default();
    flood(&mut publisher, 61..=120).await;
    within(publisher.until_ack(120)).await;
    let mut client = modern(&broker).await;
    client.subscribe("m.*").await;
    assert_eq!(client.next().await, sub_ack(Code::DONE, "m.*"));
    let Got::Gap(lost, GapReason::RETENTION, _) = client.next().await else { panic!("no GAP") };
    assert!(matches!(client.next().await, Got::Origin { .. }));
    let Got::Publish(_, payload) = client.next().await else { panic!("no message") };
    assert_eq!(u64::from_be_bytes(payload[..8].try_into().unwrap()), lost + 1);
    broker.shutdown().await;
}

/// In virtual time, on a pipe: the journal is full, and its disk never has room again.
#[tokio::test(start_paused = true)]
async fn a_publisher_that_acknowledges_nothing_is_held_up_for_thirty_seconds_and_then_live_only() {
    let folder = tempfile::tempdir().unwrap();
    let settings = storing(folder.path()).journal_max_bytes(8 << 20).journal_full(JournalFull::Wait);
    let broker = start(settings).await;
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    broker.serve(theirs, ([127, 0, 0, 1], 1).into());
    let mut old = Scripted::greeted(ours).await;
    let begun = tokio::time::Instant::now();
    let auth = old.auth("sensor", "s");
    old.stream.write_all(&auth).await.unwrap();
    // Without a deadline: thirty seconds are longer than any here.
    for n in 1..=400_u64 {
        let payload = [&n.to_be_bytes()[..], &vec![0; 100_000]].concat();
        old.stream.write_all(&support::bytes([support::publish("sensor", "m.a", payload)])).await.unwrap();
    }
    while broker.stats().received_messages < 400 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    let snapshot = broker.snapshot();
    let (books, journal) = (snapshot.books, snapshot.journal.unwrap());
    assert_eq!((books.wanted, snapshot.difference), (400, 0), "{books:?}");
    assert_eq!(journal.not_stored["disk"], books.not_stored);
    assert!((100..320).contains(&books.not_stored), "8 MiB and a queue of 40 MB are stored: {books:?}");
    broker.shutdown().await;
}
