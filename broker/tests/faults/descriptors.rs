//! A broker without file descriptors to spare.

use std::{fs, time::Duration};

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    process::Command,
    time::{Instant, timeout},
};

use crate::{
    Running, broker, run,
    skip::skip,
    support::{Peer, number, numbered, publish, within},
    unused, users,
};

#[path = "../support/pki.rs"]
mod pki;

/// A broker with keys in JSON, a certificate and an exporter; and two clients.
struct Scene {
    running: Running,
    /// Its files.
    _folder: TempDir,
    _pki: pki::Pki,
    subscriber: Peer,
    publisher: Peer,
    sent: u64,
}

impl Scene {
    async fn start() -> Self {
        let (folder, pki) = (tempfile::tempdir().unwrap(), pki::Pki::new());
        let keys = folder.path().join("users.json");
        fs::write(&keys, users("bob")).unwrap();
        let (cert, key) = (pki.path("cert.pem"), pki.path("key.pem"));
        let tls = format!("tls:interface=127.0.0.1:port=0:cert={}:key={}", cert.display(), key.display());
        let arguments = ["-e", "tcp:interface=127.0.0.1:port=0", "-e", &tls, "--exporter=127.0.0.1:0"];
        let running = Running::start(broker(&[&arguments[..], &["--auth", keys.to_str().unwrap()]].concat())).await;
        let mut subscriber = Peer::login(running.addr, "bob", "s").await;
        subscriber.send(crate::support::subscribe("bob", "c")).await;
        subscriber.settle().await;
        let mut publisher = Peer::login(running.addr, "bob", "s").await;
        publisher.settle().await;
        Self { running, _folder: folder, _pki: pki, subscriber, publisher, sent: 0 }
    }

    /// They exchange a message.
    async fn exchange(&mut self) {
        self.publisher.send(publish("bob", "c", numbered(self.sent, 100))).await;
        assert_eq!(number(&self.subscriber.next().await.unwrap()), self.sent);
        self.sent += 1;
    }

    /// How many descriptors it may have.
    async fn limit(&self, count: usize) {
        run("prlimit", &[&format!("--pid={}", self.running.pid()), &format!("--nofile={count}:")]).await;
    }

    async fn exhaust(&self) {
        // Descriptors that are open already stay.
        self.limit(unused(self.running.pid())).await;
    }
}

/// Whether limits can be changed: the soft one, up to the hard one.
async fn allowed() -> bool {
    let found = within(Command::new("prlimit").arg("--version").output()).await;
    let allowed = found.is_ok_and(|output| output.status.success());
    if !allowed {
        skip("prlimit is not installed (scripts/test does that)");
    }
    allowed
}

#[tokio::test]
async fn connected_clients_are_served_and_new_ones_wait() {
    if !allowed().await {
        return;
    }
    let mut scene = Scene::start().await;
    scene.exhaust().await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(within(TcpStream::connect(scene.running.addr)).await.unwrap());
    }
    let mut greeting = [0; 13];
    assert!(timeout(Duration::from_millis(300), waiting[19].read_exact(&mut greeting)).await.is_err());
    scene.running.logged("cannot accept connections").await;
    let (start, mut lines) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        scene.exchange().await;
        while let Ok(Ok(Some(line))) = timeout(Duration::from_millis(10), scene.running.log.next_line()).await {
            assert!(line.contains("cannot accept connections") && line.contains("Too many open files"), "{line}");
            lines += 1;
        }
    }
    let seconds = start.elapsed().as_secs() + 1;
    assert!(lines <= seconds, "{lines} lines in {seconds} s");
    // Without anybody's help, as soon as there are some.
    scene.limit(1000).await;
    for stream in &mut waiting {
        within(stream.read_exact(&mut greeting)).await.unwrap();
    }
    Peer::login(scene.running.addr, "bob", "s").await.settle().await;
    scene.exchange().await;
}

/// It keeps the file open that it has asked before, and opens another when several ask at once.
#[tokio::test]
async fn a_database_that_cannot_be_opened_is_said_and_tried_again() {
    if !allowed().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let auth = path.to_str().unwrap();
    let add = broker(&["keys", "add", "bob", "--secret", "s", "--publish=*", "--subscribe=*", "--auth", auth]).output();
    assert!(within(add).await.unwrap().status.success());
    let mut running = Running::start(broker(&["--bind=127.0.0.1:0", "--auth", auth])).await;
    // Descriptors of connections that are there, and one more, which is the last.
    let mut peers = Vec::new();
    for _ in 0..8 {
        peers.push(Peer::connect(running.addr).await);
    }
    let limit = format!("--nofile={}:", unused(running.pid()));
    run("prlimit", &[&format!("--pid={}", running.pid()), &limit]).await;
    // The first lookup uses the file that is open, and waits for this: the others have to open another.
    let mut locked = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut locked).await.unwrap();
    let (mut admitted, mut failed) = (0, 0);
    for peer in &mut peers {
        let auth = peer.auth("bob", "s");
        peer.ident = "bob".to_owned();
        peer.send(auth).await;
    }
    let line = running.logged("cannot look up the key").await;
    assert!(line.contains(auth), "{line}");
    sqlx::raw_sql("COMMIT").execute(&mut locked).await.unwrap();
    for peer in &mut peers {
        peer.framed.get_mut().set_nodelay(true).unwrap();
        let echo = [crate::support::subscribe("bob", "c"), publish("bob", "c", "in")];
        let _ = tokio::io::AsyncWriteExt::write_all(peer.framed.get_mut(), &crate::support::bytes(echo)).await;
        match peer.next().await {
            Some(hpfeeds::wire::Frame::Error { message }) => {
                assert_eq!(message, "Authentication failed for bob");
                failed += 1;
            }
            Some(_) => admitted += 1,
            None => panic!("an end without a word"),
        }
    }
    println!("{admitted} admitted, {failed} could not be looked up");
    assert!(admitted > 0, "the file that is open already answers");
    assert!(failed > 0, "the client that the log names hears of it");
    drop(peers);
    run("prlimit", &[&format!("--pid={}", running.pid()), "--nofile=1000:"]).await;
    Peer::login(running.addr, "bob", "s").await.settle().await;
}
