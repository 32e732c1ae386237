//! The sensor's process, from the driver's side.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::{
    collector::within,
    disk,
    event::{Line, Moment},
    ledger::{Ledger, LifeNumber},
    sensor::{CHILD, Orders},
};

pub(crate) struct Sensor {
    child: Child,
    life: LifeNumber,
    folder: PathBuf,
    reader: tokio::task::JoinHandle<Vec<Line>>,
}

impl Sensor {
    pub(crate) async fn start(orders: Orders, ledger: &mut Ledger) -> Self {
        let life = ledger.began_sensor(&orders);
        let mut command = tokio::process::Command::new(env::current_exe().unwrap());
        command.env_clear().env(CHILD, orders.text()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within(lines.next_line()).await.unwrap().expect("the sensor starts");
        ledger.tell(life, &first.parse().unwrap());
        let reader = tokio::spawn(read(lines));
        Self { child, life, folder: orders.folder, reader }
    }

    /// SIGKILL, and what its pipe and its folder still hold.
    pub(crate) async fn kill(self, ledger: &mut Ledger) {
        let Self { mut child, life, folder, reader } = self;
        child.start_kill().unwrap();
        within(child.wait()).await.unwrap();
        let at = Moment::now();
        for line in within(reader).await.unwrap() {
            ledger.tell(life, &line);
        }
        ledger.killed_sensor(life, at, disk::numbers(&folder));
    }

    /// Lets it publish no more, and waits until it has nothing left.
    pub(crate) async fn drain(self, ledger: &mut Ledger, patience: Duration) {
        let Self { mut child, life, folder, reader } = self;
        child.stdin.take().unwrap().write_all(b"drain\n").await.unwrap();
        let lines = timeout(patience, reader).await.expect("it drains").unwrap();
        let drained = lines.contains(&Line::Drained);
        let notes: Vec<_> = lines.iter().filter(|line| matches!(line, Line::Note(_) | Line::Stats { .. })).collect();
        assert!(drained, "the last sensor did not drain: {:?}", &notes[notes.len().saturating_sub(20)..]);
        for line in &lines {
            ledger.tell(life, line);
        }
        assert!(within(child.wait()).await.unwrap().success());
        ledger.drained(life, &disk::numbers(&folder));
    }

    /// SIGSTOP and SIGCONT: whatever the broker's state, it does nothing in between.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it lives").to_string();
        assert!(Command::new("/bin/kill").args([signal, &pid]).status().unwrap().success());
    }
}

pub(crate) async fn read(mut lines: Lines<BufReader<ChildStdout>>) -> Vec<Line> {
    let mut read = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        // A line that the kill has cut is not there: each is one write, of fewer bytes than a pipe takes at once.
        read.push(line.parse().unwrap());
    }
    read
}
