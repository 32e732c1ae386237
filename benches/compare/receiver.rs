//! The subscribers: large reads, and each message is checked for its length, its end and its place
//! in the order.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    poller::Poller,
    protocol::{STAMP, Shape},
    sender::{GREETING, NUMBERS, nanos},
};

/// How much is read at once.
const BUFFER: usize = 256 * 1024;

/// How many bytes at the end of the payload are looked at.
const END: usize = 8;

pub(crate) struct Receiver {
    subscribers: Vec<Subscriber>,
    poller: Poller,
    ready: Vec<usize>,
    buffer: Vec<u8>,
    check: Check,
    /// How many subscribers are connected.
    pub(crate) open: usize,
    /// The longest time for which a subscriber got nothing and then something.
    pub(crate) stall: Duration,
}

struct Subscriber {
    socket: TcpStream,
    /// When it got something last.
    last: Instant,
    /// A message that has not arrived whole.
    rest: Vec<u8>,
    /// By publisher, of those whose messages it gets: every so many-th, from a first one on.
    progress: Vec<Progress>,
    first: usize,
    spread: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    greeted: bool,
    /// The number that the next message should have.
    next: u64,
}

/// The shape that a message must have, and the messages that came.
pub(crate) struct Check {
    shape: Shape,
    noise: &'static [u8],
    pub(crate) received: u64,
    /// Messages that are missing between others.
    pub(crate) missing: u64,
    /// Since when the messages' times count, and how many nanoseconds after their time they came.
    pub(crate) delays: Option<(Instant, Vec<u64>)>,
}

impl Receiver {
    pub(crate) fn new(
        sockets: Vec<TcpStream>,
        publishers: usize,
        shape: Shape,
        noise: &'static [u8],
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let spread = shape.routing.map_or(1, |routing| routing.spread);
        let mut subscribers = Vec::new();
        for (key, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            poller.readable(&socket, key)?;
            let progress = vec![Progress::default(); publishers.div_ceil(spread)];
            let (rest, last, first) = (Vec::new(), Instant::now(), if spread == 1 { 0 } else { key });
            subscribers.push(Subscriber { socket, last, rest, progress, first, spread });
        }
        let buffer = vec![0; BUFFER + shape.frame.len()];
        let check = Check { shape, noise, received: 0, missing: 0, delays: None };
        let (open, ready, stall) = (subscribers.len(), Vec::new(), Duration::ZERO);
        Ok(Self { subscribers, poller, ready, buffer, check, open, stall })
    }

    pub(crate) fn check(&mut self) -> &mut Check {
        &mut self.check
    }

    /// Reads what is there, waiting for it if need be; whether there was anything.
    pub(crate) fn turn(&mut self, timeout: Duration) -> io::Result<bool> {
        self.poller.wait(Some(timeout), &mut self.ready)?;
        let now = Instant::now();
        for &key in &self.ready {
            let subscriber = &mut self.subscribers[key];
            self.stall = self.stall.max(now.saturating_duration_since(mem::replace(&mut subscriber.last, now)));
            if !subscriber.read(&mut self.buffer, &mut self.check)? {
                self.poller.remove(&subscriber.socket)?;
                self.open -= 1;
            }
        }
        Ok(!self.ready.is_empty())
    }

    /// Pauses count from now on.
    pub(crate) fn forget_pauses(&mut self) {
        self.stall = Duration::ZERO;
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.last = Instant::now());
    }

    /// Whether every subscriber has got a greeting of each of the first so many publishers.
    pub(crate) fn greeted(&self, publishers: usize) -> bool {
        self.subscribers.iter().all(|subscriber| subscriber.progress.iter().take(publishers).all(|p| p.greeted))
    }
}

impl Subscriber {
    /// Reads once; `false` when the broker has closed the connection.
    fn read(&mut self, buffer: &mut [u8], check: &mut Check) -> io::Result<bool> {
        let held = self.rest.len();
        buffer[..held].copy_from_slice(&self.rest);
        let read = match self.socket.read(&mut buffer[held..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..held + read];
        let used = self.walk(bytes, check)?;
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[used..]);
        Ok(read > 0)
    }

    /// Checks all messages that are there whole, and says where the last one ends.
    fn walk(&mut self, bytes: &[u8], check: &mut Check) -> io::Result<usize> {
        let now = check.delays.as_ref().map(|(epoch, _)| nanos(epoch.elapsed()));
        let mut at = 0;
        while let Some(frame) = bytes.get(at..at + check.shape.frame.len()) {
            if let Some(stamp) = check.stamp(frame) {
                self.count(stamp, now, check)?;
                at += frame.len();
            } else if !check.noise.is_empty() && frame.starts_with(check.noise) {
                // The only noise is the ping of NATS.
                self.socket.write_all(b"PONG\r\n")?;
                at += check.noise.len();
            } else {
                let shown = frame.get(..80).unwrap_or(frame).escape_ascii();
                return Err(io::Error::other(format!("a subscriber got {shown}")));
            }
        }
        Ok(at)
    }

    fn count(&mut self, (number, due): (u64, u64), now: Option<u64>, check: &mut Check) -> io::Result<()> {
        let publisher = usize::try_from(number / NUMBERS).unwrap_or(usize::MAX);
        let number = number % NUMBERS;
        let index = publisher.checked_sub(self.first).filter(|distance| distance % self.spread == 0);
        let progress = index.and_then(|distance| self.progress.get_mut(distance / self.spread));
        let progress = progress.ok_or_else(|| io::Error::other("a subscriber got what is not for it"))?;
        if number == GREETING {
            progress.greeted = true;
            return Ok(());
        }
        if number < progress.next {
            return Err(io::Error::other(format!("message {number} after {}", progress.next - 1)));
        }
        check.missing += number - progress.next;
        check.received += 1;
        progress.next = number + 1;
        if let (Some(now), Some((_, delays))) = (now, &mut check.delays) {
            delays.push(now.saturating_sub(due));
        }
        Ok(())
    }
}

impl Check {
    /// The number and the time in a frame, if it is one of ours: its head, which has its length,
    /// and its end are as they should be.
    fn stamp(&self, frame: &[u8]) -> Option<(u64, u64)> {
        let Shape { frame: expected, payload, routing } = &self.shape;
        let (end, digits) = (expected.len() - END, self.shape.digits());
        if frame[..digits.start] != expected[..digits.start] || frame[end..] != expected[end..] {
            return None;
        }
        let (number, due) = frame[*payload..*payload + STAMP].split_at(STAMP / 2);
        let (number, due) = (u64::from_be_bytes(number.try_into().ok()?), u64::from_be_bytes(due.try_into().ok()?));
        if let Some(routing) = routing {
            let channel = frame[digits].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit.wrapping_sub(b'0')));
            if channel != routing.channel(number / NUMBERS, number % NUMBERS) {
                return None;
            }
        }
        Some((number, due))
    }
}
