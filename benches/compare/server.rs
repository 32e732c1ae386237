//! A broker as a child process.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    programs,
    protocol::{Protocol, Role},
    relay::Plan,
};

/// How long a broker may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Relay,
    Ours,
    Python,
    Nats,
    Redis,
    Mosquitto,
}

impl Kind {
    pub(crate) const ALL: &'static [Self] =
        &[Self::Relay, Self::Ours, Self::Python, Self::Nats, Self::Redis, Self::Mosquitto];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Ours => "ours",
            Self::Python => "python",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Mosquitto => "mosquitto",
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Relay => Protocol::Blind,
            Self::Ours | Self::Python => Protocol::Hpfeeds,
            Self::Nats => Protocol::Nats,
            Self::Redis => Protocol::Redis,
            Self::Mosquitto => Protocol::Mqtt,
        }
    }
}

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
    /// `more` are arguments besides those that it always gets.
    pub(crate) fn start(kind: Kind, program: &Path, clients: Clients, more: &[String]) -> io::Result<Self> {
        let Clients { publishers, subscribers, size } = clients;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let port = free_port();
        let publishers_port = if kind == Kind::Relay { free_port() } else { port };
        let frame = if publishers == 1 { 1 } else { kind.protocol().delivered(size).frame.len() };
        let plan = Plan { subscribers: (port, subscribers), publishers: (publishers_port, publishers), frame };
        let log = fs::File::create(directory.path().join("log"))?;
        let child = programs::command(kind, program, directory.path(), port, &plan)?
            .args(if kind == Kind::Ours { more } else { &[] })
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, directory, dialer: Dialer { kind, port, publishers_port } })
    }

    /// A client that has authenticated and, if that is its role, subscribed. Waits until the broker has started.
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

    /// For another thread.
    pub(crate) fn dialer(&self) -> Dialer {
        self.dialer
    }

    /// The file that it writes its log to.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The processor time that all its threads have used, in nanoseconds.
    pub(crate) fn cpu(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            sum += first.ok_or_else(|| io::Error::other("/proc/PID/task/TID/schedstat is empty"))?;
        }
        Ok(sum)
    }

    /// How much more that is than before; an error when the broker has ended.
    pub(crate) fn cpu_since(&self, before: u64) -> io::Result<u64> {
        self.memory()?;
        self.cpu()?.checked_sub(before).ok_or_else(|| io::Error::other("a thread of the broker has ended"))
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it has ever been.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
        number.ok_or_else(|| io::Error::other("the broker has ended"))
    }

    /// Waits until it has nothing more to do.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE / 2;
        loop {
            let before = self.cpu()?;
            thread::sleep(Duration::from_millis(100));
            if self.cpu_since(before)? < 500_000 || Instant::now() > deadline {
                return Ok(());
            }
        }
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

/// A port that nobody listens on, below those that the kernel hands out: a client that dials one of those while
/// nobody listens may be given it as its own, and connect to itself.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(15000..32000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
