//! The broker under attack, and what has to be true of it afterwards.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    net::{TcpSocket, TcpStream},
    process::{Child, ChildStdout, Command},
};

use crate::{
    pki::{Pki, TlsPeer},
    scrape::{self, Exposed},
    support::{PATIENCE, Peer, publish, subscribe, until, within},
};

pub(crate) const MIB: usize = 1 << 20;

/// `mallory` may do everything; `weak` publishes to `a` and reads `b`.
const KEYS: &str = r#"{
    "honest": {"owner": "honest", "secret": "s3cret", "pubchans": ["honest"], "subchans": ["honest"]},
    "dev": {"owner": "dev", "secret": "dev", "pubchans": ["*"], "subchans": ["*"]},
    "mallory": {"owner": "mallory", "secret": "stolen", "pubchans": ["*"], "subchans": ["*"]},
    "weak": {"owner": "weak", "secret": "stolen", "pubchans": ["a"], "subchans": ["b"]}
}"#;

/// Where honest clients come from, and where attackers do.
const HONEST: [u8; 4] = [127, 99, 0, 1];
pub(crate) const ATTACKER: [u8; 4] = [127, 1, 0, 1];

/// Memory of the process before it does anything, as a debug build: some 20 MiB.
const BASE: usize = 48 * MIB;

/// Memory that the documentation allows the broker, see `Memory` in `--help`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    /// Connections that do nothing, or have not authenticated.
    pub(crate) idle: usize,
    /// Connections in the middle of a TLS handshake.
    pub(crate) handshakes: usize,
    /// Connections in the middle of a message of 1 MiB, or that wait with it: 1 MiB and 256 KiB each.
    pub(crate) active: usize,
    /// Messages queued for subscribers, in bytes.
    pub(crate) queued: usize,
    pub(crate) subscriptions: usize,
    /// Metrics, in bytes.
    pub(crate) metrics: usize,
}

impl Bound {
    fn bytes(self) -> usize {
        BASE + self.idle * 4096
            + self.handshakes * 100 * 1024
            + self.active * (MIB + MIB / 4)
            + 2 * self.queued
            + self.subscriptions * 1024
            + self.metrics
    }
}

/// The state that an attack leaves when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resources {
    descriptors: usize,
    threads: usize,
}

pub(crate) struct Target {
    child: Child,
    pid: u32,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) exporter: SocketAddr,
    pub(crate) pki: Pki,
    _keys: tempfile::TempPath,
    stdout: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<Vec<String>>>,
    sensor: Peer,
    collector: Peer,
    before: Resources,
    exchanges: u64,
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A file of its own, which is removed when this is dropped.
pub(crate) fn file(suffix: &str, text: &str) -> tempfile::TempPath {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    fs::write(&file, text).unwrap();
    file.into_temp_path()
}

impl Target {
    /// With the limits that it has by default, but for what is said here.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::with_keys(KEYS, arguments).await
    }

    pub(crate) async fn with_keys(keys: &str, arguments: &[&str]) -> Self {
        // The usual soft limit is a thousand.
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let pki = Pki::new();
        let keys = file(".json", keys);
        let path = |name: &str| pki.path(name).to_str().unwrap().to_owned();
        let tls = format!("tls:interface=127.0.0.1:port=0:cert={}:key={}", path("cert.pem"), path("key.pem"));
        let mut all = vec!["-e", "tcp:interface=127.0.0.1:port=0", "-e", &tls, "--exporter", "127.0.0.1:0"];
        all.extend(["--auth", keys.to_str().unwrap()]);
        all.extend(arguments);
        let mut child = command(&all).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addrs = Vec::new();
        for start in ["listening on ", "listening on ", "metrics at http://"] {
            let line = within(stdout.next_line()).await.unwrap().expect("a line");
            let addr = line.strip_prefix(start).expect(&line).trim_end_matches("/metrics");
            addrs.push(addr.parse().unwrap());
        }
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        tokio::spawn(async move {
            let mut line = Vec::new();
            while let Ok(1..) = stderr.read_until(b'\n', &mut line).await {
                let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(text.trim_end_matches('\n').to_owned());
            }
        });
        let (sensor, collector) = pair(addrs[0]).await;
        let pid = child.id().unwrap();
        let mut target = Self {
            child,
            pid,
            plain: addrs[0],
            tls: addrs[1],
            exporter: addrs[2],
            pki,
            _keys: keys,
            stdout,
            log,
            sensor,
            collector,
            before: Resources { descriptors: 0, threads: 0 },
            exchanges: 0,
        };
        target.exchange().await;
        target.before = target.resources();
        target
    }

    /// The next line that it prints.
    pub(crate) async fn next_line(&mut self) -> String {
        within(self.stdout.next_line()).await.unwrap().expect("a line")
    }

    /// Checks while an attack lasts: honest clients that were there before exchange messages. Returns how long that
    /// took, at best: others may keep the machine busy.
    pub(crate) async fn exchange(&mut self) -> Duration {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            exchange(&mut self.sensor, &mut self.collector, self.exchanges).await;
            self.exchanges += 1;
            best = best.min(begun.elapsed());
            if best < Duration::from_secs(1) {
                return best;
            }
        }
        panic!("an honest pair needs {best:?} for a message");
    }

    /// Clients that come now, with TLS or without, have no disadvantage.
    pub(crate) async fn admits(&self) {
        let (mut sensor, mut collector) = pair(self.plain).await;
        exchange(&mut sensor, &mut collector, 0).await;
        drop((sensor, collector));
        TlsPeer::dev(self.tls, &self.pki.client(None)).await.settle().await;
    }

    /// Checks after an attack, and prints its cost.
    pub(crate) async fn survives(&mut self, attack: &str, bound: Bound) {
        let exchanged = self.exchange().await;
        self.admits().await;
        let before = self.before;
        until(|| self.resources().descriptors <= before.descriptors).await;
        let after = self.resources();
        // Threads that read files or print metrics stay a few seconds.
        assert!(after.threads <= before.threads + 3, "{before:?} {after:?}");
        let (peak, bound) = (self.memory("VmHWM:"), bound.bytes());
        assert!(peak <= bound, "{attack}: {} MiB at the peak, where {} are allowed", peak / MIB, bound / MIB);
        self.is_calm().await;
        let lines = self.log();
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
        println!(
            "figures: {attack}: peak {} MiB of at most {}, an honest message {exchanged:.0?}, {} lines in the log",
            peak / MIB,
            bound / MIB,
            lines.len(),
        );
    }

    /// Waits until there is nobody but the honest pair, nothing is queued, and nobody waits for that.
    async fn is_calm(&self) {
        const NAMES: [&str; 3] = ["client_connections", "queued_bytes", "stalled_publishers"];
        let mut left = [None; 3];
        let waiting = async {
            while left != [Some(2), Some(0), Some(0)] {
                sleep(Duration::from_millis(20)).await;
                let metrics = self.metrics().await;
                left = NAMES.map(|name| metrics.sum(&format!("hpfeeds_broker_{name}")).map(whole));
            }
        };
        let calm = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
        assert!(calm, "{NAMES:?}: {left:?}");
    }

    /// It has not been hurt: it also ends as it should.
    pub(crate) async fn stops(self) -> Vec<String> {
        self.terminate();
        self.ended().await
    }

    /// The log of a broker that has ended as it should.
    pub(crate) async fn ended(mut self) -> Vec<String> {
        assert_eq!(within(self.child.wait()).await.unwrap().code(), Some(0));
        until(|| self.log().last().is_some_and(|line| line.contains("stopped"))).await;
        let lines = self.log();
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
        lines
    }

    pub(crate) fn terminate(&self) {
        let pid = self.pid.to_string();
        let status = std::process::Command::new("/bin/kill").args(["-TERM", &pid]).status();
        assert!(status.unwrap().success());
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) async fn metrics(&self) -> Exposed {
        let answer = scrape::request(self.exporter, "GET", "/metrics", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Exposed::parse(&answer.body)
    }

    /// One that counts something.
    pub(crate) async fn metric(&self, selector: &str) -> usize {
        self.metrics().await.sum(selector).map(whole).unwrap_or_default()
    }

    /// Waits until a metric has reached a value.
    pub(crate) async fn reaches(&self, selector: &str, value: usize) {
        within(async {
            while self.metric(selector).await < value {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Processor time of the broker so far.
    pub(crate) async fn cpu(&self) -> f64 {
        self.metrics().await.sum("process_cpu_seconds_total").unwrap()
    }

    /// Bytes.
    pub(crate) fn memory(&self, field: &str) -> usize {
        self.status(field) * 1024
    }

    fn resources(&self) -> Resources {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the broker is alive").count();
        Resources { descriptors, threads: self.status("Threads:") }
    }

    fn status(&self, field: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the broker is alive");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// A publisher and a subscriber that do as they should.
pub(crate) async fn pair(addr: SocketAddr) -> (Peer, Peer) {
    let mut peers = [login(HONEST, addr, "honest", "s3cret").await, login(HONEST, addr, "honest", "s3cret").await];
    peers[1].send(subscribe("honest", "honest")).await;
    peers[1].send(publish("honest", "honest", "here")).await;
    assert_eq!(peers[1].next().await, Some(publish("honest", "honest", "here")));
    peers.into()
}

async fn exchange(sensor: &mut Peer, collector: &mut Peer, number: u64) {
    let message = publish("honest", "honest", number.to_string());
    sensor.send(message.clone()).await;
    // Other pairs use the channel, too.
    while collector.next().await.expect("a message") != message {}
}

/// Connects from an address of the loopback interface.
pub(crate) async fn dial(from: impl Into<IpAddr>, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.into(), 0).into()).unwrap();
    within(socket.connect(to)).await.unwrap()
}

pub(crate) async fn login(from: impl Into<IpAddr>, to: SocketAddr, ident: &str, secret: &str) -> Peer {
    Peer::greeted(dial(from, to).await).await.authenticate(ident, secret).await
}

/// Everything that the broker says until it ends the connection, be it with a reset.
pub(crate) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// A count as an integer.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
pub(crate) fn whole(value: f64) -> usize {
    value as usize
}

/// How many lines have a part.
pub(crate) fn count(log: &[String], part: &str) -> usize {
    log.iter().filter(|line| line.contains(part)).count()
}

/// How many lines of one kind and address there may have been since then: see `limits/log_sampler.rs`.
pub(crate) fn periods(begun: Instant) -> usize {
    usize::try_from(begun.elapsed().as_secs()).unwrap() / 10 + 1
}

/// Resets a connection.
#[allow(clippy::needless_pass_by_value, reason = "it is closed here")]
pub(crate) fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// How many connections a test may hold: fewer than it wants where the system allows fewer, which is said.
pub(crate) fn held(wanted: usize) -> usize {
    // Descriptors of the test itself, and of other tests of this process.
    const RESERVE: u64 = 1500;
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let allowed = usize::try_from(limit - RESERVE.min(limit / 2)).unwrap();
    if allowed < wanted {
        println!("only {allowed} connections instead of {wanted}: the limit of open files is {limit}");
    }
    wanted.min(allowed)
}

/// Waits, but not for longer than anything may take.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time.min(PATIENCE)).await;
}
