//! PostgreSQL and MariaDB are killed under a load of authentications, and come back.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::SinkExt as _;
use hpfeeds::wire::Frame;
use hpfeeds_broker::{
    Broker, Endpoint, Exposition, SqlStore,
    keys::{Change, Entry, Keys},
};
use sqlx::{Connection as _, MySqlConnection, PgConnection};
use tempfile::TempDir;

use crate::{
    databases,
    support::{Peer, numbered, publish, subscribe},
};

/// How much of each thing must happen before the next step: the load is on.
const ENOUGH: u64 = 50;

/// A bound for what takes a second or two: reached only when something hangs.
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    MariaDb,
}

struct Server {
    kind: Kind,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Server {
    async fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The server is another user than the test, if that is root, and has its socket and temporary files there.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Self::spawn(kind, folder.path(), port);
        let mut server = Self { kind, folder, port, child };
        server.answers().await;
        server
    }

    fn spawn(kind: Kind, folder: &Path, port: u16) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/services");
        let mut command = Command::new(script);
        let name = match kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mariadb",
        };
        command.env("TMPDIR", folder).arg(name).arg(folder.join("server")).arg(port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Postgres => "postgresql",
            Kind::MariaDb => "mysql",
        };
        format!("{scheme}://hpfeeds:p%40ss%2Fword@127.0.0.1:{}/keys", self.port)
    }

    async fn is_up(&self) -> bool {
        match self.kind {
            Kind::Postgres => PgConnection::connect(&self.url()).await.is_ok(),
            Kind::MariaDb => MySqlConnection::connect(&self.url()).await.is_ok(),
        }
    }

    /// Waits until it serves. It refuses to start while the processes of a killed one are still ending.
    async fn answers(&mut self) {
        soon(async {
            while !self.is_up().await {
                if self.child.try_wait().unwrap().is_some() {
                    self.child = Self::spawn(self.kind, self.folder.path(), self.port);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already dead is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it hangs")
}

#[derive(Default)]
struct Counts {
    admitted: AtomicU64,
    refused: AtomicU64,
    exchanged: AtomicU64,
}

impl Counts {
    /// Waits until `counter` has grown by [`ENOUGH`].
    async fn grows(counter: &AtomicU64) {
        let until = counter.load(Relaxed) + ENOUGH;
        soon(async {
            while counter.load(Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_stops_nobody_who_is_connected_and_comes_back() {
    if databases::server("HPFEEDS_TEST_POSTGRES").is_some() {
        outage(Kind::Postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_mariadb_stops_nobody_who_is_connected_and_comes_back() {
    if databases::server("HPFEEDS_TEST_MYSQL").is_some() {
        outage(Kind::MariaDb).await;
    }
}

async fn outage(kind: Kind) {
    let mut server = Server::start(kind).await;
    let address: hpfeeds_broker::DatabaseAddress = format!("database+{}", server.url()).parse().unwrap();
    let sensor = Entry {
        ident: "sensor".to_owned(),
        owner: "sensor".to_owned(),
        secret: "s".to_owned(),
        publish: vec!["load".to_owned()],
        subscribe: vec!["load".to_owned()],
        ..Entry::default()
    };
    Keys::sql(address.clone()).apply(&[Change::Add(sensor)]).await.unwrap();
    let broker = Broker::dev_builder().auth(SqlStore::open(address).await.unwrap());
    let broker = broker.auth_failure_delay(Duration::ZERO).endpoint(Endpoint::tcp("127.0.0.1", 0));
    let broker = broker.start().await.unwrap();
    let addr = broker.local_addr();

    let counts = Arc::new(Counts::default());
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let counts = counts.clone();
        load.spawn(async move {
            loop {
                let mut peer = Peer::login(addr, "sensor", "s").await;
                for frame in [subscribe("sensor", "load"), publish("sensor", "load", "in")] {
                    // Refused already: the answer says so.
                    let _ = soon(peer.framed.send(frame)).await;
                }
                match peer.next().await {
                    Some(Frame::Error { message }) => {
                        assert_eq!(message, "Authentication failed for sensor");
                        assert_eq!(peer.next().await, None);
                        counts.refused.fetch_add(1, Relaxed);
                    }
                    Some(Frame::Publish { .. }) => _ = counts.admitted.fetch_add(1, Relaxed),
                    other => panic!("neither in nor out: {other:?}"),
                }
            }
        });
    }
    let mut subscriber = Peer::subscriber(&broker, &["c"]).await;
    let mut publisher = Peer::dev(&broker).await;
    let exchange = counts.clone();
    load.spawn(async move {
        for number in 0.. {
            let frame = publish("dev", "c", numbered(number, 100));
            publisher.send(frame.clone()).await;
            assert_eq!(subscriber.next().await, Some(frame));
            exchange.exchanged.fetch_add(1, Relaxed);
        }
    });

    Counts::grows(&counts.admitted).await;
    let before = counts.refused.load(Relaxed);
    assert_eq!(before, 0, "refused while the database was there");
    for _ in 0..2 {
        server.kill();
        Counts::grows(&counts.refused).await;
        // While it is away, whoever is connected goes on.
        Counts::grows(&counts.exchanged).await;
        server.answers().await;
        Counts::grows(&counts.admitted).await;
    }
    let (admitted, refused) = (counts.admitted.load(Relaxed), counts.refused.load(Relaxed));
    println!("{admitted} admitted, {refused} refused, {} exchanged", counts.exchanged.load(Relaxed));
    assert!(load.try_join_next().is_none(), "some of the load has ended");
    load.shutdown().await;
    // Each of them is counted, under a name that has been proved before. Some may have left before they heard of it.
    let metrics = broker.metrics(Exposition::Prometheus);
    for sample in [
        r#"hpfeeds_broker_connection_error_total{ident="sensor",category="error-checking-ident"} "#,
        r#"hpfeeds_broker_handshake_failures_total{reason="lookup-failed"} "#,
    ] {
        let count = metrics.lines().find_map(|line| line.strip_prefix(sample)).expect(sample).parse::<u64>().unwrap();
        assert!((refused..=refused + 16).contains(&count), "{sample}{count}: {refused} were refused");
    }
}
