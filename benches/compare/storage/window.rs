//! Publishers that keep a fixed number of messages unconfirmed: each answer lets the next one go.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::engine::Engine;
use crate::{poller::Poller, protocol::Role, sender::nanos, server::Server, support::median};

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much is read at once.
const BUFFER: usize = 64 * 1024;

pub(super) struct Window {
    engine: Engine,
    publishers: Vec<Publisher>,
    poller: Poller,
    /// How many messages each may have under way.
    most: usize,
    buffer: Vec<u8>,
    /// How long each waited, in µs, of a publisher that has one under way.
    times: Vec<f64>,
}

struct Publisher {
    socket: TcpStream,
    /// The bytes of as many messages as it may have under way, and of one.
    messages: Vec<u8>,
    length: usize,
    /// Answers that have not arrived whole.
    rest: Vec<u8>,
    /// The newest number that was acknowledged, where it has numbers.
    newest: u64,
    unconfirmed: usize,
    sent: Instant,
}

impl Window {
    pub(super) fn open(engine: Engine, server: &mut Server, publishers: usize, most: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut open = Vec::new();
        for key in 0..publishers {
            let mut socket = server.connect(Role::Idle)?;
            engine.prepare(key, &mut socket)?;
            poller.readable(&socket, key)?;
            let message = engine.message(key);
            let (messages, length, sent) = (message.repeat(most), message.len(), Instant::now());
            open.push(Publisher { socket, messages, length, rest: Vec::new(), newest: 0, unconfirmed: 0, sent });
        }
        Ok(Self { engine, publishers: open, poller, most, buffer: vec![0; BUFFER], times: Vec::new() })
    }

    /// Publishes for a time and waits for the last answers; how many messages were acknowledged.
    pub(super) fn run(&mut self, length: Duration) -> io::Result<u64> {
        let (until, mut acknowledged, mut ready) = (Instant::now() + length, 0, Vec::new());
        self.times.clear();
        for key in 0..self.publishers.len() {
            self.fill(key)?;
        }
        while self.publishers.iter().any(|publisher| publisher.unconfirmed > 0) {
            self.poller.wait(Some(PATIENCE), &mut ready)?;
            if ready.is_empty() {
                return Err(io::Error::other("nothing more is acknowledged"));
            }
            let is_over = Instant::now() > until;
            for &key in &ready {
                acknowledged += self.read(key)?;
                if !is_over {
                    self.fill(key)?;
                }
            }
        }
        Ok(acknowledged)
    }

    /// The median time from a message to its answer, in µs.
    pub(super) fn median(&self) -> Option<f64> {
        median(self.times.clone())
    }

    /// Sends as many as it may now, with one write.
    fn fill(&mut self, key: usize) -> io::Result<()> {
        let publisher = &mut self.publishers[key];
        let more = self.most - publisher.unconfirmed;
        publisher.sent = Instant::now();
        publisher.socket.write_all(&publisher.messages[..more * publisher.length])?;
        publisher.unconfirmed = self.most;
        Ok(())
    }

    /// Reads once; how many messages are acknowledged by that.
    #[allow(clippy::cast_precision_loss, reason = "far more digits are left than the figures have")]
    fn read(&mut self, key: usize) -> io::Result<u64> {
        let publisher = &mut self.publishers[key];
        let read = publisher.socket.read(&mut self.buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        publisher.rest.extend_from_slice(&self.buffer[..read]);
        let (taken, acknowledged) = self.engine.acknowledged(&publisher.rest, &mut publisher.newest)?;
        publisher.rest.drain(..taken);
        let unconfirmed = publisher.unconfirmed as u64;
        let Some(left) = unconfirmed.checked_sub(acknowledged) else {
            return Err(io::Error::other(format!("{acknowledged} of {unconfirmed} messages were acknowledged")));
        };
        publisher.unconfirmed = usize::try_from(left).map_err(io::Error::other)?;
        if self.most == 1 && acknowledged == 1 {
            self.times.push(nanos(publisher.sent.elapsed()) as f64 / 1000.0);
        }
        Ok(acknowledged)
    }
}
