//! The broker's process: its keys, certificates and exporter.

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpSocket,
    process::{Child, Command},
    sync::Mutex,
};

use crate::{
    scrape::{Exposed, request},
    support::{Peer, within},
    vanish::Way,
};

#[path = "../support/pki.rs"]
mod pki;

/// How many plain flows there are.
pub(crate) const FLOWS: usize = 3;

/// The secret of everybody.
pub(crate) const SECRET: &str = "s3cret";

/// How long a slow subscriber has to recover.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

pub(crate) const HIGH_MARK: u64 = 4 << 20;

/// Where strangers come from: whoever fails to authenticate holds others at its address up.
pub(crate) const STRANGER: [u8; 4] = [127, 0, 0, 66];
/// And whose key comes and goes.
pub(crate) const SPARE: [u8; 4] = [127, 0, 0, 77];

pub(crate) struct Process {
    child: Child,
    pid: u32,
    folder: TempDir,
    pki: pki::Pki,
    pub(crate) tcp: SocketAddr,
    pub(crate) tls: SocketAddr,
    exporter: SocketAddr,
    /// One scrape at a time: at eight, the exporter cuts the oldest.
    scraping: Mutex<()>,
}

impl Process {
    pub(crate) async fn start() -> Self {
        let (folder, pki) = (tempfile::tempdir().unwrap(), pki::Pki::new());
        fs::write(folder.path().join("users.json"), users(true)).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let tls =
            format!("tls:interface=127.0.0.1:port=0:cert={}:key={}", path(&pki, "cert.pem"), path(&pki, "key.pem"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
        command.args(["-e", "tcp:interface=127.0.0.1:port=0:sendbuf=65536", "-e", &tls]);
        command.args(["--exporter=127.0.0.1:0", "--recheck-keys=1", "--max-buffered=256M"]);
        command.args([format!("--slow-deadline={}", DEADLINE.as_secs()), format!("--high-mark={HIGH_MARK}")]);
        command.arg("--auth").arg(folder.path().join("users.json"));
        command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addrs = Vec::new();
        for begin in ["listening on ", "listening on ", "metrics at http://"] {
            let line = within(lines.next_line()).await.unwrap().expect("it starts");
            let addr = line.strip_prefix(begin).expect(&line).trim_end_matches("/metrics");
            addrs.push(addr.parse().unwrap());
        }
        let pid = child.id().unwrap();
        Self { child, pid, folder, pki, tcp: addrs[0], tls: addrs[1], exporter: addrs[2], scraping: Mutex::default() }
    }

    pub(crate) fn exporter(&self) -> SocketAddr {
        self.exporter
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.pki.path("ca.pem")
    }

    /// A new certificate, in two steps, as certificates are replaced.
    pub(crate) fn issue(&self) {
        self.pki.issue("cert.pem", "key.pem", "localhost");
    }

    /// Replaces the file of keys at once.
    pub(crate) fn write_keys(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder.path().join("users.json")).unwrap();
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let kill = Command::new("/bin/kill").args([signal, &self.pid.to_string()]).status();
        assert!(within(kill).await.unwrap().success());
    }

    /// A connection from an address of one's own.
    pub(crate) async fn connect_from(&self, from: [u8; 4]) -> tokio::net::TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        within(socket.connect(self.tcp)).await.unwrap()
    }

    pub(crate) async fn login(&self, ident: &str) -> Peer {
        Peer::login(self.tcp, ident, SECRET).await
    }

    /// On a connection that the system buffers little for.
    pub(crate) async fn login_narrow(&self, ident: &str) -> Peer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let stream = within(socket.connect(self.tcp)).await.unwrap();
        Peer::greeted(stream).await.authenticate(ident, SECRET).await
    }

    pub(crate) async fn scrape(&self) -> Exposed {
        let _one = self.scraping.lock().await;
        let answer = request(self.exporter, "GET", "/metrics", "").await;
        assert_eq!(answer.status, 200);
        Exposed::parse(&answer.body)
    }

    pub(crate) fn threads(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap().count() as u64
    }

    /// The end of what it has logged.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(crate) async fn stop(mut self) {
        self.signal("-TERM").await;
        assert_eq!(within(self.child.wait()).await.unwrap().code(), Some(0), "{}", self.log());
    }
}

fn path(pki: &pki::Pki, file: &str) -> String {
    pki.path(file).display().to_string()
}

/// Everybody's keys, with or without that of `spare`.
pub(crate) fn users(spare: bool) -> String {
    let mut names: Vec<_> = (0..FLOWS).map(|slot| format!("flow-{slot}")).collect();
    names.extend(["session", "tls", "slow", "stuck", "child"].map(str::to_owned));
    names.extend(Way::ALL.iter().map(|way| format!("{way:?}")));
    let mut text = String::from("{");
    for name in names {
        for (side, publish, subscribe) in [("p", "[\"*\"]", "[]"), ("s", "[]", "[\"*\"]")] {
            entry(&mut text, &format!("{side}.{name}"), publish, subscribe);
        }
    }
    entry(&mut text, "witness", "[]", "[\"*\"]");
    if spare {
        entry(&mut text, "spare", "[\"echo.*\"]", "[\"echo.*\"]");
    }
    text.truncate(text.len() - 1);
    text + "}"
}

fn entry(text: &mut String, ident: &str, publish: &str, subscribe: &str) {
    let fields = format!(r#""owner": "o", "secret": "{SECRET}", "pubchans": {publish}, "subchans": {subscribe}"#);
    write!(text, "\"{ident}\": {{{fields}}},").unwrap();
}
