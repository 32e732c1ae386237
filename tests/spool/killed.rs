//! Programs that are killed: real processes, a real broker, and a spool in a real folder.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession, Spool, log::RealDisk};
use hpfeeds_broker::Broker;
use tokio::time::{sleep, timeout};

/// The broker's address, the folder, the first number, and whether to end, for a process that
/// publishes.
const CHILD: &str = "HPFEEDS_TEST_SPOOL_PROGRAM";

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(60);

/// So many messages are published before the program waits until they are durable.
const FIRST: u64 = 3000;

fn builder(addr: SocketAddr) -> hpfeeds::SessionBuilder {
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
    ClientSession::builder(addr, "dev", "dev").backoff(backoff)
}

#[tokio::test]
async fn a_killed_program_has_its_messages_delivered_by_the_next_one() {
    if let Ok(arguments) = env::var(CHILD) {
        return program(&arguments).await;
    }
    let folder = tempfile::tempdir().unwrap();
    // The address of a broker that is away.
    let broker = Broker::dev().await.unwrap();
    let addr = broker.local_addr();
    broker.shutdown().await;
    let (mut first, mut accepted, mut durable) = (0, Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut child = spawn(addr, folder.path(), first, false);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        assert_eq!(lines.find(|line| line == "durable").as_deref(), Some("durable"), "it ended");
        durable.push(first + FIRST);
        // It goes on publishing, and is killed somewhere.
        let mut last = first + FIRST;
        for line in lines.by_ref().take(usize::try_from(first).unwrap() % 97) {
            last = line.parse().unwrap();
        }
        child.kill().unwrap();
        // Its last words before it died.
        last = lines.filter_map(|line| line.parse().ok()).last().unwrap_or(last);
        child.wait().unwrap();
        accepted.push(last + 1);
        // One more may have been accepted and not said.
        first = last + 2;
    }
    let broker = Broker::dev_builder().listen(addr).unwrap().start().await.unwrap();
    let mut collector = builder(addr).connect().await.unwrap();
    collector.subscribe_confirmed("c").await.unwrap();
    let mut child = spawn(addr, folder.path(), first, true);
    let mut numbers: Vec<u64> = Vec::new();
    let last = first + FIRST - 1;
    while numbers.last() != Some(&last) {
        let (_, _, payload) = timeout(SOON, collector.next()).await.expect("nothing arrived").unwrap();
        numbers.push(std::str::from_utf8(&payload).unwrap().parse().unwrap());
    }
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success(), "close() confirms everything");
    // Once, in order, and everything of which the program had said that it is durable.
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "once and in order");
    let mut start = 0;
    for (accepted, durable) in accepted.into_iter().zip(durable) {
        let range = start..durable;
        let there = numbers.iter().filter(|number| range.contains(number)).count() as u64;
        assert_eq!(there, durable - start, "of {range:?}");
        // The next program went on behind one that may have been accepted and not said.
        start = accepted + 1;
    }
    let names: Vec<_> =
        folder.path().join("spool").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "only cursor, lock and owner are left: {names:?}");
    drop(broker);
}

fn spawn(addr: SocketAddr, folder: &Path, first: u64, ends: bool) -> Child {
    let name = "killed::a_killed_program_has_its_messages_delivered_by_the_next_one";
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--quiet"])
        .env(CHILD, format!("{addr} {first} {ends} {}", folder.join("spool").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The program: publishes, says when that is durable, and goes on until it is killed or has closed.
async fn program(arguments: &str) {
    let [addr, first, ends, folder] = arguments.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let (addr, first, ends): (SocketAddr, u64, bool) =
        (addr.parse().unwrap(), first.parse().unwrap(), ends.parse().unwrap());
    // The messages of the programs before; nothing of them is consumed yet.
    let there = hpfeeds::log::verify(&RealDisk::open(folder).unwrap()).unwrap();
    let earlier = there.range.map_or(0, |(_, last)| last.number);
    let spool = Spool::dir(folder).after(Duration::from_millis(100));
    let mut session = builder(addr).close_timeout(SOON).spool(spool).start().unwrap();
    for number in first..first + FIRST {
        session.publish("c", number.to_string()).await.unwrap();
    }
    if ends {
        return session.close().await.unwrap();
    }
    while session.stats().spooled < earlier + FIRST {
        sleep(Duration::from_millis(5)).await;
    }
    println!("\ndurable");
    for number in first + FIRST.. {
        session.publish("c", number.to_string()).await.unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "{number}").and_then(|()| out.flush()).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
}

/// So many seconds a session is watched; `scripts/spool-writes` asks for ten minutes.
#[cfg(target_os = "linux")]
const SECONDS: &str = "HPFEEDS_TEST_SPOOL_SECONDS";

/// The broker's address and the folder, for a process that publishes ten messages a second.
#[cfg(target_os = "linux")]
const ONLINE: &str = "HPFEEDS_TEST_SPOOL_ONLINE";

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_that_is_online_writes_not_one_byte_to_its_disk() {
    if let Ok(arguments) = env::var(ONLINE) {
        let (addr, folder) = arguments.split_once(' ').unwrap();
        let session = builder(addr.parse().unwrap()).spool(Spool::dir(folder)).connect().await.unwrap();
        println!("\nonline");
        loop {
            session.publish("c", vec![b'x'; 300]).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    }
    let seconds = env::var(SECONDS).map_or(2, |text| text.parse().unwrap());
    let (folder, broker) = (tempfile::tempdir().unwrap(), Broker::dev().await.unwrap());
    let name = "killed::a_program_that_is_online_writes_not_one_byte_to_its_disk";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--quiet"])
        .env(ONLINE, format!("{} {}", broker.local_addr(), folder.path().join("spool").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The pipe stays open: after a minute the test program has more to say.
    let is_online = move || (lines.any(|line| line.unwrap() == "online"), lines);
    let (is_online, lines) = tokio::task::spawn_blocking(is_online).await.unwrap();
    assert!(is_online, "it ended");
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok()).unwrap()
    };
    let (before, received) = (written(), broker.stats().received_messages);
    sleep(Duration::from_secs(seconds)).await;
    let (after, received) = (written(), broker.stats().received_messages - received);
    println!("{received} messages in {seconds} s, and {} bytes written to disk", after - before);
    assert!(child.try_wait().unwrap().is_none(), "it is still there");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    assert_eq!(after, before);
    assert!(received > 0, "it has published");
}
