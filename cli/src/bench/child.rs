//! A broker that is started for one run, in a process of its own: what it uses can be measured.

use std::{
    env, fs,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use crate::exit::Failure;

const PROGRAM: &str = "hpfeeds-broker";

/// The key and the limits that the broker must permit.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    pub(super) ident: &'a str,
    pub(super) secret: &'a str,
    pub(super) channel: &'a str,
    pub(super) connections: u64,
    pub(super) max_message: u32,
}

/// The process is ended when this is dropped: it holds nothing that anybody needs.
#[derive(Debug)]
pub(super) struct Broker {
    child: Child,
    addr: SocketAddr,
    /// Its keys, and what it says on stderr.
    _dir: TempDir,
}

impl Broker {
    /// Starts it on a free port of this machine. It listens when this returns.
    pub(super) fn start(program: Option<&Path>, needs: &Needs<'_>) -> Result<Self, Failure> {
        let program = program.map_or_else(beside_this_program, Path::to_path_buf);
        let failed = |cause: &dyn std::fmt::Display| {
            Failure::new(format!("cannot start {}: {cause}", program.display()))
                .and("give --broker PATH, or --host and --port of a broker that runs")
        };
        let dir = tempfile::tempdir().map_err(|cause| failed(&cause))?;
        let mut child = spawn(&program, needs, dir.path()).map_err(|cause| failed(&cause))?;
        let Some(addr) = listening_on(&mut child) else {
            end(&mut child);
            let said = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            return Err(failed(&said.lines().last().unwrap_or("it does not say where it listens")));
        };
        Ok(Self { child, addr, _dir: dir })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// Or only its name, which is then looked for on the PATH.
fn beside_this_program() -> PathBuf {
    let name = format!("{PROGRAM}{}", env::consts::EXE_SUFFIX);
    let beside = env::current_exe().ok().map(|own| own.with_file_name(&name));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| name.into())
}

fn spawn(program: &Path, needs: &Needs<'_>, dir: &Path) -> io::Result<Child> {
    let keys = dir.join("users.json");
    let channels = [needs.channel];
    let key = json!({"owner": "bench", "secret": needs.secret, "pubchans": channels, "subchans": channels});
    fs::write(&keys, json!({ needs.ident: key }).to_string())?;
    // Not to a pipe: nobody would read it.
    let log = File::create(dir.join("log"))?;
    Command::new(program)
        .args(["-e", "tcp:interface=127.0.0.1:port=0", "--auth"])
        .arg(&keys)
        .args(["--max-connections", &needs.connections.max(10_000).to_string()])
        .args(["--max-message", &needs.max_message.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
}

/// The address that the first line says, or nothing when the broker has ended instead.
fn listening_on(child: &mut Child) -> Option<SocketAddr> {
    let mut line = String::new();
    BufReader::new(child.stdout.take()?.take(1024)).read_line(&mut line).ok()?;
    line.trim_end().strip_prefix("listening on ")?.parse().ok()
}
