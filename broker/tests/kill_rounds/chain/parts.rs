//! The programs of the chain, with one port and one folder each for all of their lives.

use std::{
    env, fs,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::{
    children,
    plain::PLAIN,
    written::{Kill, Part},
};
use crate::{
    collector::within,
    event::{CHANNEL, COLLECTOR, IDENT, Line, Moment, SECRET},
    victim,
};

/// A process that can be killed, with what it prints in lines.
pub(super) struct Process {
    child: Child,
    pub(super) lines: Option<JoinHandle<Vec<Line>>>,
}

impl Process {
    pub(super) async fn kill(&mut self, part: Part) -> Kill {
        let from = Moment::now();
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
        Kill { part, from, until: Moment::now() }
    }

    /// Lets a sensor try no more; all that it has tried is confirmed when it ends.
    pub(super) async fn drain(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"drain\n").await.unwrap();
        assert!(within(self.child.wait()).await.unwrap().success());
    }
}

fn program(folder: &Path, log: &str) -> Command {
    let log = OpenOptions::new().create(true).append(true).open(folder.join(log)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command
}

/// Starts one that prints its address first.
async fn start(mut command: Command) -> (Process, SocketAddr) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().expect("it starts; see its log");
    let addr = line.strip_prefix("listening on ").expect(&line).parse().unwrap();
    (Process { child, lines: None }, addr)
}

/// The broker that stores, for one mailbox.
pub(super) async fn broker(folder: &Path, port: u16) -> (Process, SocketAddr) {
    let users = folder.join("users.json");
    let key = |ident: &str, publish: &[&str], subscribe: &[&str]| {
        format!(
            r#""{ident}": {{"owner": "o", "secret": "{SECRET}", "pubchans": {publish:?}, "subchans": {subscribe:?}}}"#
        )
    };
    let [sensor, plain] = [IDENT, PLAIN].map(|ident| key(ident, &[CHANNEL], &[]));
    fs::write(&users, format!("{{{sensor}, {plain}, {}}}", key(COLLECTOR, &[], &[CHANNEL]))).unwrap();
    let mut command = program(folder, "broker.log");
    command.args([format!("--bind=127.0.0.1:{port}"), format!("--mailbox={COLLECTOR}={CHANNEL}")]);
    command.args(["--log-level=warn", "--auth"]).arg(users).arg("--data-dir").arg(folder.join("broker"));
    start(command).await
}

/// The relay, with the keys of both sensors.
pub(super) async fn relay(folder: &Path, port: u16, parent: SocketAddr) -> (Process, SocketAddr) {
    let mut command = program(folder, "relay.log");
    command.args(["relay".to_owned(), format!("--parent={parent}"), format!("--bind=127.0.0.1:{port}")]);
    for ident in [IDENT, PLAIN] {
        command.arg(format!("--key={ident}")).env(format!("HPFEEDS_{}_SECRET", ident.to_uppercase()), SECRET);
    }
    command.arg("--log-level=warn").arg("--data-dir").arg(folder.join("relay"));
    start(command).await
}

/// Where the collector writes.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("collected")
}

pub(super) fn collector(folder: &Path, addr: SocketAddr) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env_clear().env(children::COLLECTOR_ORDERS, format!("{addr} {}", file(folder).display()));
    let child = command.kill_on_drop(true).stdin(Stdio::piped()).spawn().unwrap();
    Process { child, lines: None }
}

pub(super) fn sensor(addr: SocketAddr, first: u64, seed: u64) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env_clear().env(children::SENSOR_ORDERS, format!("{addr} {first} {seed}"));
    let mut child = command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Process { child, lines: Some(tokio::spawn(victim::read(lines))) }
}

/// The screen of `relay status`.
pub(super) async fn relay_status(folder: &Path) -> String {
    let mut command = program(folder, "relay.log");
    command.args(["relay", "status", "--data-dir"]).arg(folder.join("relay"));
    String::from_utf8(within(command.output()).await.unwrap().stdout).unwrap()
}
