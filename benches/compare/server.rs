//! A broker as a child process.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

use crate::{
    kind::Kind,
    programs,
    protocol::{Protocol, Role},
    relay::Plan,
    support::process::Process,
};

/// How long a broker may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many clients there will be, and how long a message is: a relay has to be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clients {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) size: usize,
}

/// Stops the broker when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// Its CPU time and memory.
    pub(crate) process: Process,
    directory: TempDir,
    dialer: Dialer,
}

/// Where the broker is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialer {
    kind: Kind,
    port: u16,
    publishers_port: u16,
}

impl Dialer {
    pub(crate) fn protocol(self) -> Protocol {
        self.kind.protocol()
    }

    /// A client that has authenticated and, if that is its role, subscribed.
    pub(crate) fn connect(self, role: Role) -> io::Result<TcpStream> {
        let mut socket = self.dial(role)?;
        self.hello(role, &mut socket)?;
        Ok(socket)
    }

    fn dial(self, role: Role) -> io::Result<TcpStream> {
        let port = if role == Role::Publisher { self.publishers_port } else { self.port };
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
    }

    fn hello(self, role: Role, socket: &mut TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        self.kind.protocol().hello(role, socket)
    }
}

impl Server {
    /// `more` are arguments of our broker, besides those that it always gets.
    pub(crate) fn start(kind: Kind, program: &Path, clients: Clients, more: &[String]) -> io::Result<Self> {
        Self::start_with(kind, program, clients, if matches!(kind, Kind::Ours | Kind::Confirmed) { more } else { &[] })
    }

    /// `more` are arguments of any server.
    pub(crate) fn start_with(kind: Kind, program: &Path, clients: Clients, more: &[String]) -> io::Result<Self> {
        let Clients { publishers, subscribers, size } = clients;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let port = free_port();
        let publishers_port = if kind == Kind::Relay { free_port() } else { port };
        let frame =
            if publishers == 1 && kind == Kind::Relay { 1 } else { kind.protocol().delivered(size).frame.len() };
        let plan = Plan { subscribers: (port, subscribers), publishers: (publishers_port, publishers), frame };
        let log = fs::File::create(directory.path().join("log"))?;
        let child = programs::command(kind, program, directory.path(), port, &plan)?
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let process = Process::of(&child)?;
        Ok(Self { child, process, directory, dialer: Dialer { kind, port, publishers_port } })
    }

    /// A client that has authenticated and, if that is its role, subscribed. Waits until the broker
    /// has started.
    pub(crate) fn connect(&mut self, role: Role) -> io::Result<TcpStream> {
        let deadline = Instant::now() + PATIENCE;
        let mut socket = loop {
            match self.dialer.dial(role) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() > deadline || self.child.try_wait()?.is_some() => {
                    return Err(self.report(&error));
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        self.dialer.hello(role, &mut socket).map_err(|error| self.report(&error))?;
        Ok(socket)
    }

    /// From now on publishers connect to another server, which hands on to this one.
    pub(crate) fn publish_to(&mut self, other: &Self) {
        self.dialer.publishers_port = other.dialer.port;
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.dialer.port)
    }

    /// For another thread.
    pub(crate) fn dialer(&self) -> Dialer {
        self.dialer
    }

    /// The file that it writes its log to.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The most memory that was resident so far, in KiB.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.process.status()?.vmhwm.ok_or_else(|| io::Error::other("the broker has ended"))
    }

    /// Waits until it has nothing more to do.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.process.settle(PATIENCE / 2)
    }

    /// An error, and what the broker has said.
    pub(crate) fn report(&self, error: &io::Error) -> io::Error {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        io::Error::other(format!("{}: {error}\n{}", self.dialer.kind.name(), tail.join("\n")).trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An error when this process may not open so many files; each connection is one.
pub(crate) fn check_file_limit(files: u64) -> io::Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(soft) if soft < files => {
            Err(io::Error::other(format!("the limit of open files is {soft}: run ulimit -n {files} first")))
        }
        _ => Ok(()),
    }
}

/// A port that nobody listens on, below those that the kernel hands out: a client that dials one of
/// those while nobody listens may be given it as its own, and connect to itself.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(15000..32000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
