//! The operator's procedures of the manual: a key is rotated, a sensor is banned, a broker is drained and
//! replaced by another one, its data folder is backed up; all while it is used.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use hpfeeds::{ClientSession, SubscribeFrom};
use tokio::task::JoinHandle;

use super::{Running, command, run};
use crate::support::{Peer, within};

const KEYS: &str = r#"{"sensor": {"owner": "o", "secret": "s", "pubchans": ["*"], "subchans": []},
    "collector": {"owner": "o", "secret": "s", "pubchans": ["private"], "subchans": ["*"]}}"#;

/// A folder with keys and room for data.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("keys.json"), KEYS).unwrap();
    place
}

fn at(place: &Path, name: &str) -> String {
    place.join(name).to_str().unwrap().to_owned()
}

async fn start(place: &Path, data: &str, bind: &str) -> Running {
    let (keys, data) = (at(place, "keys.json"), at(place, data));
    let arguments = ["--bind", bind, "--auth", &keys, "--data-dir", &data, "--mailbox", "collector=cowrie.*"];
    Running::start(command(&arguments)).await
}

/// A command: its stdout if it succeeds, and otherwise its stderr.
async fn done(arguments: &[&str]) -> Result<String, String> {
    let output = within(command(arguments).output()).await.unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(stdout) } else { Err(stderr) }
}

/// A sensor that publishes numbers until it is told to stop, and keeps what no broker has confirmed.
struct Sensor {
    publishing: JoinHandle<u64>,
    is_over: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    confirmed: Arc<AtomicU64>,
}

impl Sensor {
    fn start(addr: SocketAddr) -> Self {
        let (is_over, published, confirmed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (over, count, done) = (is_over.clone(), Arc::clone(&published), Arc::clone(&confirmed));
        let publishing = tokio::spawn(async move {
            let mut session = ClientSession::builder(addr, "sensor", "s").start().unwrap();
            while !over.load(SeqCst) {
                let number = count.load(SeqCst) + 1;
                session.publish("cowrie.sessions", number.to_string()).await.unwrap();
                count.store(number, SeqCst);
                done.store(session.stats().confirmed, SeqCst);
                if number.is_multiple_of(50) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            assert_eq!(within(session.flush()).await.unwrap().refused, 0);
            session.close().await.unwrap();
            count.load(SeqCst)
        });
        Self { publishing, is_over, published, confirmed }
    }

    /// Waits until so many more are published.
    async fn more(&self, messages: u64) {
        let before = self.published.load(SeqCst);
        crate::support::until(|| self.published.load(SeqCst) >= before + messages).await;
    }

    /// How many it has published, all of them confirmed.
    async fn stop(self) -> u64 {
        self.is_over.store(true, SeqCst);
        within(self.publishing).await.unwrap()
    }
}

/// Takes what the mailbox has, up to a number, without a gap. Returns the first.
async fn collect(addr: SocketAddr, upto: u64) -> u64 {
    let mut session = ClientSession::connect(addr, "collector", "s").await.unwrap();
    within(session.subscribe_from("cowrie.*", SubscribeFrom::mailbox(""))).await.unwrap();
    let (mut first, mut last) = (0, 0);
    while last < upto {
        let (_, _, payload) = within(session.read()).await.unwrap();
        let number: u64 = String::from_utf8(payload.to_vec()).unwrap().parse().unwrap();
        first = if first == 0 { number } else { first };
        assert!(number <= last + 1 || last == 0, "{number} comes after {last}");
        last = last.max(number);
    }
    session.commit();
    session.close().await.unwrap();
    first
}

#[tokio::test]
async fn a_drained_broker_is_replaced_and_no_event_is_lost() {
    let place = place();
    let first = start(place.path(), "data", "127.0.0.1:0").await;
    let addr = first.addr;
    let data = at(place.path(), "data");
    // A live consumer, and one of the kind that knows no extension.
    let mut live = Peer::login(addr, "collector", "s").await;
    live.send_subscribe(&["private"]).await;
    live.settle().await;
    let sensor = Sensor::start(addr);
    sensor.more(2000).await;
    let text = done(&["drain", "--data-dir", &data, "--timeout", "60"]).await.unwrap();
    assert!(text.starts_with("drained: 1 connection open; stop the broker now\n"), "{text}");
    assert!(text.contains("wait in mailboxes, on disk"), "{text}");
    // The port is closed, and the sensor keeps what it has.
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    sensor.more(500).await;
    let (code, stderr) = first.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("draining: nothing more is accepted"), "{stderr}");
    let second = start(place.path(), "data", &addr.to_string()).await;
    sensor.more(500).await;
    let published = sensor.stop().await;
    assert!(published >= 3000);
    assert_eq!(collect(second.addr, published).await, 1, "nothing was there before");
    let (code, stderr) = second.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
}

#[tokio::test]
async fn a_drain_says_what_is_left_when_its_time_is_over() {
    let place = place();
    let broker = start(place.path(), "data", "127.0.0.1:0").await;
    let data = at(place.path(), "data");
    // It goes on publishing, whatever it is told.
    let mut stubborn = Peer::login(broker.addr, "sensor", "s").await;
    stubborn.send(crate::support::publish("sensor", "a", "x")).await;
    let publishing = tokio::spawn(async move {
        loop {
            stubborn.send(crate::support::publish("sensor", "a", "x")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let fault = done(&["drain", "--data-dir", &data, "--timeout", "3"]).await.unwrap_err();
    assert_eq!(fault, "hpfeeds-broker: not drained within 3 s: 1 connection still publishes\n");
    publishing.abort();
    let _ = publishing.await;
    let text = done(&["drain", "--data-dir", &data]).await.unwrap();
    assert_eq!(text, "drained: 0 connections open; stop the broker now\n");
    broker.stop("-TERM").await;
    let (code, stderr) = run(&["drain", "--data-dir", &data]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no broker runs with the data folder"), "{stderr}");
}

/// Of a collector that acknowledges nothing: what it gets up to the end of its connection.
async fn payloads(peer: &mut Peer) -> Vec<String> {
    let mut payloads = Vec::new();
    while let Some(frame) = peer.next().await {
        if let hpfeeds::wire::Frame::Publish { payload, .. } = frame {
            payloads.push(String::from_utf8(payload.to_vec()).unwrap());
        }
    }
    payloads
}

#[tokio::test]
async fn mailboxes_hand_out_nothing_more_in_a_drain_and_it_comes_after_the_restart() {
    let place = place();
    let broker = start(place.path(), "data", "127.0.0.1:0").await;
    let mut collector = Peer::login(broker.addr, "collector", "s").await;
    collector.send_subscribe(&["cowrie.*"]).await;
    collector.settle().await;
    let mut sensor = Peer::login(broker.addr, "sensor", "s").await;
    sensor.send(crate::support::publish("sensor", "cowrie.a", "before")).await;
    assert_eq!(collector.next().await, Some(crate::support::publish("sensor", "cowrie.a", "before")));
    let text = done(&["drain", "--data-dir", &at(place.path(), "data")]).await.unwrap();
    assert!(text.contains("2 connections may still publish"), "{text}");
    assert!(text.contains("collector: at most 1 message comes again, as its collector acknowledges nothing"), "{text}");
    // It does, and the end of its stream confirms that.
    sensor.send(crate::support::publish("sensor", "cowrie.a", "after")).await;
    sensor.asked_to_end().await;
    sensor.confirm().await;
    let ending = tokio::spawn(async move { payloads(&mut collector).await });
    assert_eq!(broker.stop("-TERM").await.0, Some(0));
    assert_eq!(within(ending).await.unwrap(), [""; 0]);
    let broker = start(place.path(), "data", "127.0.0.1:0").await;
    let mut collector = Peer::login(broker.addr, "collector", "s").await;
    collector.send_subscribe(&["cowrie.*"]).await;
    for expected in ["before", "after"] {
        assert_eq!(collector.next().await, Some(crate::support::publish("sensor", "cowrie.a", expected)));
    }
    broker.stop("-TERM").await;
}

#[tokio::test]
async fn a_backup_that_is_taken_while_messages_come_is_whole_and_a_broker_starts_on_it() {
    let place = place();
    let broker = start(place.path(), "data", "127.0.0.1:0").await;
    let (data, copy) = (at(place.path(), "data"), at(place.path(), "copy"));
    let sensor = Sensor::start(broker.addr);
    sensor.more(2000).await;
    // Half of it is delivered before.
    collect(broker.addr, 500).await;
    let mut stored = 0;
    for round in 0..5 {
        let _ = fs::remove_dir_all(&copy);
        stored = sensor.confirmed.load(SeqCst);
        let text = done(&["journal", "backup", &copy, "--data-dir", &data]).await;
        let text = text.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        for line in ["copied: node, 16 bytes", "copied: cursors, ", "copied: journal, ", "journal: "] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
        }
        assert!(!text.contains("not copied"), "{text}");
        sensor.more(500).await;
    }
    let fault = done(&["journal", "backup", &copy, "--data-dir", &data]).await.unwrap_err();
    assert!(fault.contains("exists already: name a folder that does not"), "{fault}");
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!((mode(Path::new(&copy)), mode(&Path::new(&copy).join("node"))), (0o700, 0o600));
    let published = sensor.stop().await;
    // The broker that was copied has everything, and the copy what there was before it was taken.
    collect(broker.addr, published).await;
    broker.stop("-TERM").await;
    let restored = start(place.path(), "copy", "127.0.0.1:0").await;
    // Cursors are stored within a second: what was delivered last may come again, and nothing is missing.
    assert!(stored > 500 && collect(restored.addr, stored).await <= 501, "{stored} were confirmed before the copy");
    let (code, stderr) = restored.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("damaged") && !stderr.contains("another journal"), "{stderr}");
}

#[tokio::test]
async fn a_key_is_rotated_while_its_sensor_publishes_and_a_banned_one_is_out_at_once() {
    let place = place();
    let broker = start(place.path(), "data", "127.0.0.1:0").await;
    let keys = at(place.path(), "keys.json");
    let sensor = Sensor::start(broker.addr);
    sensor.more(500).await;
    let arguments = ["keys", "set", "sensor", "--secret", "new", "--grace", "1h", "--auth", &keys];
    done(&arguments).await.unwrap();
    // Both secrets count: whoever is connected goes on, and the new one gets in.
    let mut new = loop {
        let mut peer = Peer::login(broker.addr, "sensor", "new").await;
        peer.send(crate::support::publish("sensor", "a", "x")).await;
        peer.finish().await;
        match peer.next().await {
            None => break Peer::login(broker.addr, "sensor", "new").await,
            // The file is read within 1.5 s.
            Some(_) => tokio::time::sleep(Duration::from_millis(600)).await,
        }
    };
    sensor.more(500).await;
    let published = sensor.stop().await;
    collect(broker.addr, published).await;
    done(&["keys", "set", "sensor", "--grace", "0", "--auth", &keys]).await.unwrap();
    broker.signal("-HUP").await;
    Peer::login(broker.addr, "sensor", "s").await.expect_error("Authentication failed for sensor").await;
    new.send(crate::support::publish("sensor", "a", "x")).await;
    done(&["keys", "remove", "sensor", "--auth", &keys]).await.unwrap();
    broker.signal("-HUP").await;
    new.expect_error("Authentication failed for sensor").await;
    broker.stop("-TERM").await;
}
