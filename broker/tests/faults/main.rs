//! Faults of the system under a broker: it is killed, stopped, short of disk and descriptors, its network
//! fails. Real processes; what needs root, a package or a feature of the kernel says so and is skipped without it; with
//! `HPFEEDS_TEST_REQUIRE=1` that is a failure.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod clock;
mod descriptors;
mod disk;
mod journal;
mod kill;
mod network;
#[path = "../../../tests/support/skip.rs"]
mod skip;
mod still;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use skip::skip;
use support::within;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// A broker's process.
struct Running {
    child: Child,
    addr: SocketAddr,
    /// Kept open: it may still print there.
    stdout: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    /// Returns when it listens.
    async fn start(mut command: Command) -> Self {
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within(stdout.next_line()).await.unwrap().expect("it listens");
        let addr = line.strip_prefix("listening on ").expect(&line).parse().unwrap();
        Self { child, addr, stdout, log }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Reads the log up to the line that has this.
    async fn logged(&mut self, part: &str) -> String {
        loop {
            let line = within(self.log.next_line()).await.unwrap().expect(part);
            if line.contains(part) {
                return line;
            }
        }
    }

    async fn signal(&self, signal: &str) {
        run("/bin/kill", &[signal, &self.pid().to_string()]).await;
    }
}

fn broker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    command.args(arguments).env_clear();
    command
}

/// Runs a command that must succeed.
async fn run(program: &str, arguments: &[&str]) {
    let output = within(Command::new(program).args(arguments).output()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
}

/// Whether a command succeeds; otherwise the test is skipped.
async fn can(program: &str, arguments: &[&str]) -> bool {
    let why = match within(Command::new(program).args(arguments).output()).await {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(cause) => cause.to_string(),
    };
    skip(&format!("{program} {}: {why}", arguments.join(" ")));
    false
}

/// The command-line tool, when it has been built beside the broker: `cargo test --workspace` does that.
fn tool() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_hpfeeds-broker")).with_file_name("hpfeeds");
    if !path.exists() {
        skip("the tool hpfeeds is not built: cargo build -p hpfeeds-cli");
        return None;
    }
    Some(path)
}

fn users(ident: &str) -> String {
    format!(r#"{{"{ident}": {{"owner": "o", "secret": "s", "pubchans": ["*"], "subchans": ["*"]}}}}"#)
}

/// The lowest descriptor that a process does not use: with this limit, it can open nothing.
fn unused(pid: u32) -> usize {
    (0..1_000_000).find(|number| !Path::new(&format!("/proc/{pid}/fd/{number}")).is_symlink()).unwrap()
}
