//! A network that loses and delays packets, or passes none: see `link.py`. Broker and clients are in network namespaces
//! that end with the processes in them.

use std::{
    env,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession, Keepalive, SessionEvent};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{interval, timeout},
};

use crate::{Running, can, skip::skip, support::within};

/// Orders of a client process in its namespace: port and role.
const CLIENT: &str = "HPFEEDS_FAULTS_CLIENT";

/// With the keepalive used here, both ends notice within 3 seconds that the other is gone, and the client tries again at
/// least every 2.5. On a machine that is busy it takes longer, but no more than this.
const BOUND: Duration = Duration::from_secs(20);

/// A process that is told what to do, and answers, by lines.
struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    fn start(command: &mut Command) -> Self {
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, stdin, stdout }
    }

    /// The next line that begins like this.
    async fn says(&mut self, begin: &str) -> String {
        loop {
            let line = within(self.stdout.next_line()).await.unwrap().expect(begin);
            // The harness of the tests writes in the same line.
            if let Some(at) = line.find(begin) {
                return line[at..].to_owned();
            }
        }
    }

    async fn told(&mut self, line: &str) {
        self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.says("done").await;
    }
}

struct Network {
    link: Helper,
    clients: Helper,
    broker: Running,
}

impl Network {
    /// `None`, and a word about it, where the machine forbids it.
    async fn start() -> Option<Self> {
        if !can("unshare", &["--net", "true"]).await || !can("test", &["-w", "/dev/net/tun"]).await {
            return None;
        }
        if !can("python3", &["-c", "import fcntl; open('/dev/net/tun', 'rb+', buffering=0)"]).await {
            return None;
        }
        // They end when this process does, in whichever way.
        let hold = || Helper::start(Command::new("unshare").args(["--net", "sh", "-c", "echo ready; exec cat"]));
        let (mut clients, mut brokers) = (hold(), hold());
        clients.says("ready").await;
        brokers.says("ready").await;
        let pids = [&clients, &brokers].map(|helper| helper.child.id().unwrap().to_string());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/link.py");
        let mut link = Helper::start(Command::new("python3").arg(script).args(&pids));
        if timeout(BOUND, link.stdout.next_line()).await.ok().and_then(Result::ok).flatten().as_deref() != Some("ready")
        {
            skip("no network could be made between namespaces");
            return None;
        }
        let mut command = inside(&pids[1]);
        command.arg(env!("CARGO_BIN_EXE_hpfeeds-broker")).args(["--auth=env", "-e"]);
        command.arg("tcp:interface=10.213.0.2:port=0:keepalive=1,1,2");
        command.envs([("HPFEEDS_ME_SECRET", "x"), ("HPFEEDS_ME_PUBCHANS", "*"), ("HPFEEDS_ME_SUBCHANS", "*")]);
        let broker = Running::start(command).await;
        Some(Self { link, clients, broker })
    }

    fn client(&self, role: &str) -> Helper {
        let mut command = inside(&self.clients.child.id().unwrap().to_string());
        command.arg(env::current_exe().unwrap()).args(["--exact", "network::a_client", "--nocapture"]);
        command.env(CLIENT, format!("{} {role}", self.broker.addr.port()));
        Helper::start(&mut command)
    }
}

fn inside(pid: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).kill_on_drop(true);
    command
}

/// Not a test, unless it is told: a session that is subscribed to its own channel. If it is `busy`, it publishes a number
/// there every 5 ms; and says what happens to it, until its stdin ends. An `idle` one is helped by keepalive alone.
#[tokio::test]
async fn a_client() {
    let Ok(orders) = env::var(CLIENT) else { return };
    let (port, role) = orders.split_once(' ').unwrap();
    let seconds = Duration::from_secs;
    let keepalive = Keepalive { idle: seconds(1), interval: seconds(1), retries: 2 };
    let builder = ClientSession::builder(("10.213.0.2", port.parse::<u16>().unwrap()), "me", "x")
        .backoff(Backoff::new(Duration::from_millis(50), Duration::from_millis(500)))
        .handshake_timeout(seconds(2))
        .keepalive(keepalive);
    let builder = if role == "idle" { builder } else { builder.unacknowledged_timeout(seconds(3)) };
    let mut session = builder.start().unwrap();
    let mut events = session.events();
    session.subscribe(role).unwrap();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut ticks = interval(Duration::from_millis(5));
    let (mut published, mut received, mut last, mut over) = (0_u64, 0_u64, None, role == "idle");
    loop {
        tokio::select! {
            _ = ticks.tick(), if !over => {
                if session.try_publish(role, published.to_string()).is_ok() {
                    published += 1;
                }
            }
            message = session.next() => {
                let number: u64 = std::str::from_utf8(&message.unwrap().2).unwrap().parse().unwrap();
                assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                (received, last) = (received + 1, Some(number));
                if number.is_multiple_of(100) {
                    println!("got {number}");
                }
            }
            event = events.next() => match event {
                Some(SessionEvent::Connected { .. }) => println!("connected"),
                Some(SessionEvent::Disconnected { cause, .. }) => println!("disconnected: {cause}"),
                _ => {}
            },
            line = lines.next_line(), if !over || role == "idle" => {
                assert_eq!(line.unwrap(), None);
                if role == "idle" {
                    return;
                }
                over = true;
            }
        }
        if over && role != "idle" && last == published.checked_sub(1) {
            session.close().await.unwrap();
            println!("published {published}, received {received}");
            return;
        }
    }
}

#[tokio::test]
async fn on_a_bad_network_nothing_is_lost_and_the_order_is_kept() {
    let Some(mut network) = Network::start().await else { return };
    // In percent, and ms: packets overtake each other.
    network.link.told("2 10 15 1").await;
    let mut client = network.client("busy");
    client.says("connected").await;
    client.says("got 500").await;
    drop(client.stdin.take());
    let mut end = String::new();
    while !end.starts_with("published") {
        end = within(client.stdout.next_line()).await.unwrap().expect("an end");
        assert!(!end.starts_with("disconnected"), "{end}");
    }
    let numbers: Vec<u64> = end.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    assert!(numbers[0] == numbers[1] && numbers[0] > 500, "{end}");
    println!("{end}");
}

#[tokio::test]
async fn after_a_partition_both_ends_notice_and_the_client_is_back() {
    let Some(mut network) = Network::start().await else { return };
    network.link.told("0 5 0 0").await;
    let (mut busy, mut idle) = (network.client("busy"), network.client("idle"));
    idle.says("connected").await;
    busy.says("got 100").await;
    network.link.told("partition").await;
    let start = Instant::now();
    let (busy_lost, idle_lost) = tokio::join!(async { (busy.says("disconnected").await, start.elapsed()) }, async {
        (idle.says("disconnected").await, start.elapsed())
    },);
    // The broker, too, of whoever has nothing outstanding.
    let line = network.broker.logged("reason=Connection timed out").await;
    let broker_lost = start.elapsed();
    for (what, elapsed) in [(&busy_lost.0, busy_lost.1), (&idle_lost.0, idle_lost.1), (&line, broker_lost)] {
        assert!(elapsed < BOUND, "after {elapsed:?}: {what}");
    }
    network.link.told("0 5 0 0").await;
    let healed = Instant::now();
    tokio::join!(busy.says("connected"), idle.says("connected"));
    let back = healed.elapsed();
    assert!(back < BOUND, "{back:?}");
    // Its subscription is back as well, and its numbers go on in order: what was on its way in the connection that was given
    // up does not arrive later. The system would have sent it again within some seconds; a number takes 5 ms.
    let first = busy.says("got ").await;
    let first: u64 = first.rsplit(' ').next().unwrap().parse().unwrap();
    busy.says(&format!("got {}", first + 2000)).await;
    println!(
        "noticed after {:?} (busy), {:?} (idle), {broker_lost:?} (broker); back after {back:?}",
        busy_lost.1, idle_lost.1
    );
}
