//! A broker to talk to, peers behind it, and the tool as a process whose output can be awaited.

mod broker;
mod process;
mod scripted;

use std::time::Duration;

use assert_cmd::Command;

pub(crate) use broker::{Peer, TestBroker};
pub(crate) use process::Running;
pub(crate) use scripted::{Scripted, error, greet, message, read_frame};

/// A bound for what takes milliseconds: reached only when something hangs.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A secret that is easy to find where it must not be.
pub(crate) const SECRET: &str = "hunter2-is-the-secret";

/// The largest payload of a message from `sensor` on a channel, under the default maximum.
pub(crate) fn largest(channel: &str) -> usize {
    (1 << 20) - 1 - "sensor".len() - 1 - channel.len()
}

/// The tool, without anything from our own environment, that must end soon.
pub(crate) fn tool() -> Command {
    let mut command = Command::from_std(bare_tool());
    command.timeout(SOON);
    command
}

pub(crate) fn bare_tool() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hpfeeds"));
    for name in ["HPFEEDS_URL", "HPFEEDS_HOST", "HPFEEDS_PORT", "HPFEEDS_IDENT", "HPFEEDS_SECRET"] {
        command.env_remove(name);
    }
    command
}

/// Its exit code, and what it said on stderr.
pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// It must end with this code and this text on stderr.
pub(crate) fn fails(command: &mut Command, code: i32, text: &str) {
    let (got, stderr) = outcome(command);
    assert_eq!(got, Some(code), "{stderr}");
    assert!(stderr.starts_with("hpfeeds: ") && stderr.contains(text), "{text:?} in {stderr}");
}
