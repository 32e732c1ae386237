//! `hpfeeds top` against dashboards that answer what a test says, and against others.

mod broker;
mod faults;
mod fleet;
mod once;
mod screen;
mod server;

use std::path::PathBuf;

use assert_cmd::Command;

use self::server::Dashboard;
use crate::support::tool;

/// The answer of a dashboard of two thousand sensors, of which some are in trouble and some are hostile.
const SNAPSHOT: &str = include_str!("snapshot.json");

/// A token that is easy to find where it must not be.
const TOKEN: &str = "0123456789abcdefthetoken";

/// `hpfeeds top`, with the token in the environment.
fn top(args: &[&str]) -> Command {
    let mut command = tool();
    command.arg("top").args(args).env("HPFEEDS_TOP_TOKEN", TOKEN).env_remove("HPFEEDS_TOP_URL").env("TZ", "UTC");
    command
}

/// The same, for a dashboard.
fn top_of(dashboard: &Dashboard, args: &[&str]) -> Command {
    top(&[&["--url", &dashboard.url()], args].concat())
}

/// The exit code, stdout and stderr, none of which may hold the token.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "{stdout}{stderr}");
    (output.status.code(), stdout, stderr)
}

/// It must print nothing, end with this code, and say this.
fn fails(command: &mut Command, code: i32, text: &str) {
    let (got, stdout, stderr) = outcome(command);
    assert_eq!((got, &*stdout), (Some(code), ""), "{stderr}");
    let is_line = stderr.starts_with("hpfeeds: ") && stderr.trim_end().lines().count() == 1;
    assert!(is_line && stderr.contains(text), "{text:?} in {stderr}");
}

/// A file for its owner alone.
fn private_file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.path().join("token");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
