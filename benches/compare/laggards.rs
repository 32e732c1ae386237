//! Subscribers that do not read what they have subscribed to, or hardly.

use std::{
    fs, io,
    io::Read as _,
    net::TcpStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{protocol::Role, server::Dialer};

/// How many bytes each of them reads in a second.
const RATES: [usize; 2] = [0, 1024];

const STEP: Duration = Duration::from_millis(100);
const STEPS: usize = 10;

/// How long the broker may take to say what became of the last of them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A thread that plays them.
pub(crate) struct Laggards {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Toll>>,
}

/// Disconnects and drops of the slow subscribers, as the broker's log has them.
#[derive(Debug, Default)]
pub(crate) struct Toll {
    pub(crate) subscribers: u64,
    /// How often one was disconnected because it was slow.
    pub(crate) disconnects: u64,
    /// Messages that they did not get because they were slow.
    pub(crate) dropped: u64,
}

impl Laggards {
    pub(crate) fn start(dialer: Dialer, log: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        Self { stop, thread: thread::spawn(move || play(dialer, &log, &until)) }
    }

    /// They disconnect, a little later.
    pub(crate) fn leave(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Their disconnects and drops until they had left.
    pub(crate) fn toll(self) -> io::Result<Toll> {
        self.leave();
        self.thread.join().map_err(|_| io::Error::other("the bad subscribers' thread panicked"))?
    }
}

fn play(dialer: Dialer, log: &PathBuf, stop: &AtomicBool) -> io::Result<Toll> {
    let mut log = Log { file: fs::File::open(log)?, rest: String::new() };
    let mut toll = Toll { subscribers: RATES.len() as u64, ..Toll::default() };
    let mut sockets = RATES.iter().map(|_| dialer.connect(Role::Subscriber)).collect::<io::Result<Vec<_>>>()?;
    let mut buffer = [0; 1024];
    while !stop.load(Relaxed) {
        thread::sleep(STEP);
        for ended in log.ended(&mut toll)? {
            // A subscriber that does not read does not see that it was disconnected.
            for socket in &mut sockets {
                if ended == socket.local_addr()?.to_string() {
                    toll.disconnects += 1;
                    *socket = dialer.connect(Role::Subscriber)?;
                }
            }
        }
        for (socket, rate) in sockets.iter_mut().zip(RATES) {
            sip(socket, &mut buffer[..rate / STEPS])?;
        }
    }
    drop(sockets);
    thread::sleep(LAST_WORDS);
    log.ended(&mut toll)?;
    Ok(toll)
}

/// Reads a little. That the broker has closed is known from its log.
fn sip(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.read(buffer) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The broker's log, read as it grows.
struct Log {
    file: fs::File,
    /// A line that is not there whole.
    rest: String,
}

impl Log {
    /// The addresses of those whose end it tells of, since the last time.
    fn ended(&mut self, toll: &mut Toll) -> io::Result<Vec<String>> {
        self.file.read_to_string(&mut self.rest)?;
        let whole = self.rest.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, rest);
        let mut ended = Vec::new();
        for line in lines.lines().filter(|line| line.contains(" disconnected ")) {
            let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
            if let (Some(peer), Some(dropped)) = (field("peer="), field("dropped=")) {
                toll.dropped += dropped.parse::<u64>().map_err(io::Error::other)?;
                ended.push(peer.to_owned());
            }
        }
        Ok(ended)
    }
}
