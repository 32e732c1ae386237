//! Jumps of the system's clock, and processes that stand still for a while.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    Running, broker, run, skipped,
    support::{Peer, number, numbered, publish, subscribe, within},
    tool,
};

/// A broker whose clock this test turns.
struct Turned {
    running: Running,
    /// What its clock shows.
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Turned {
    /// `None`, and a word about it, without libfaketime.
    async fn start(arguments: &[&str]) -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
        let mut libraries = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
        let Some(library) = libraries.find(|library| library.exists()) else {
            skipped("libfaketime is not installed: apt-get install libfaketime");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("time");
        fs::write(&file, "+0").unwrap();
        let mut command = broker(arguments);
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &file);
        // As a system's clock jumps: the monotonic one goes on.
        command.envs([("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("FAKETIME_NO_CACHE", "1"), ("NO_FAKE_STAT", "1")]);
        Some(Self { running: Running::start(command).await, file, _folder: folder })
    }

    fn jump(&self, offset: &str) {
        fs::write(&self.file, offset).unwrap();
    }

    /// The year that the log shows with what comes next.
    async fn year(&mut self, part: &str) -> i32 {
        self.running.logged(part).await[..4].parse().unwrap()
    }
}

#[tokio::test]
async fn a_clock_that_jumps_ends_nothing_and_stops_nothing() {
    let arguments = ["--dev", "-p0", "--publish-rate=20", "--slow-deadline=5", "--handshake-timeout=60"];
    let Some(mut broker) = Turned::start(&arguments).await else { return };
    let mut subscriber = Peer::login(broker.running.addr, "dev", "dev").await;
    subscriber.send(subscribe("dev", "c")).await;
    subscriber.settle().await;
    let mut publisher = Peer::login(broker.running.addr, "dev", "dev").await;
    broker.running.logged("connected").await;
    let this_year = broker.year("connected").await;
    let (mut sent, mut handshakes) = (0, Vec::new());
    for (offset, years) in [("+2y", 2), ("-3y", -3), ("+0", 0)] {
        let waiting = Peer::connect(broker.running.addr).await;
        broker.jump(offset);
        // Its limit of 20 a second neither stops nor opens.
        let start = Instant::now();
        for _ in 0..30 {
            publisher.send(publish("dev", "c", numbered(sent, 50))).await;
            assert_eq!(number(&subscriber.next().await.unwrap()), sent);
            sent += 1;
        }
        assert!(start.elapsed() >= Duration::from_millis(400), "30 messages in {:?}", start.elapsed());
        Peer::login(broker.running.addr, "dev", "wrong").await.expect_error("Authentication failed for dev").await;
        // Who has failed waits a second, not years, and not less.
        let start = Instant::now();
        Peer::login(broker.running.addr, "dev", "dev").await.settle().await;
        assert!(start.elapsed() >= Duration::from_millis(500), "let in after {:?}", start.elapsed());
        let year = broker.year("connected").await;
        assert!((year - this_year - years).abs() <= 1 && (years == 0) == (year == this_year), "the clock shows {year}");
        handshakes.push(waiting);
    }
    for mut waiting in handshakes {
        waiting.ident = "dev".to_owned();
        let auth = waiting.auth("dev", "dev");
        waiting.send(auth).await;
        waiting.settle().await;
    }
}

#[tokio::test]
async fn a_broker_that_stands_still_goes_on() {
    let arguments = ["--dev", "-p0", "--slow-deadline=1", "--handshake-timeout=30", "--recheck-keys=1"];
    let running = Running::start(broker(&arguments)).await;
    let mut subscriber = Peer::login(running.addr, "dev", "dev").await;
    subscriber.send(subscribe("dev", "c")).await;
    subscriber.settle().await;
    let mut publisher = Peer::login(running.addr, "dev", "dev").await;
    let waiting = Peer::connect(running.addr).await;
    run("kill", &["-STOP", &running.pid().to_string()]).await;
    for sent in 0..100 {
        publisher.send(publish("dev", "c", numbered(sent, 1000))).await;
    }
    sleep(Duration::from_secs(3)).await;
    run("kill", &["-CONT", &running.pid().to_string()]).await;
    for sent in 0..100 {
        assert_eq!(number(&subscriber.next().await.unwrap()), sent);
    }
    publisher.confirm().await;
    let auth = waiting.auth("dev", "dev");
    let mut waiting = waiting;
    waiting.ident = "dev".to_owned();
    waiting.send(auth).await;
    waiting.settle().await;
}

/// A laptop that sleeps for a while: what comes meanwhile is queued for it.
#[tokio::test]
async fn a_client_that_stands_still_gets_everything() {
    let Some(tool) = tool() else { return };
    let running = Running::start(broker(&["--dev", "-p0"])).await;
    let port = running.addr.port().to_string();
    let mut command = Command::new(tool);
    command.args(["--host", "127.0.0.1", "-p", &port, "-i", "dev", "-s", "dev", "-c", "c", "subscribe"]);
    let mut child = command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut publisher = Peer::login(running.addr, "dev", "dev").await;
    // Until it is subscribed.
    let mut sent = 0;
    let first = loop {
        publisher.send(publish("dev", "c", format!("<{sent}>"))).await;
        sent += 1;
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await {
            break line.unwrap().unwrap();
        }
    };
    let mut next = (0..sent).find(|number| first.contains(&format!("<{number}>"))).expect(&first) + 1;
    let pid = child.id().unwrap().to_string();
    run("kill", &["-STOP", &pid]).await;
    for _ in 0..1000 {
        publisher.send(publish("dev", "c", format!("<{sent}>"))).await;
        sent += 1;
    }
    sleep(Duration::from_secs(2)).await;
    run("kill", &["-CONT", &pid]).await;
    while next < sent {
        let line = within(lines.next_line()).await.unwrap().expect("it goes on");
        assert!(line.contains(&format!("<{next}>")), "{line} where {next} should be");
        next += 1;
    }
    publisher.confirm().await;
}
