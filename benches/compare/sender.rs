//! The publishers: frames are encoded before, many are written at once, and only their numbers are
//! patched in. The messages of a publisher that is confirmed must have been acknowledged at the end.

use std::{
    io::{self, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    acks::Acks,
    poller::Poller,
    protocol::{STAMP, Shape},
};

/// The number of a message that only shows that the way is open.
pub(crate) const GREETING: u64 = NUMBERS - 1;
/// A stamp is the publisher times this plus the number of the message.
pub(crate) const NUMBERS: u64 = 1 << 40;

/// How much a publisher writes at once, and how much the kernel may hold for it, unless that is up
/// to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) bytes: usize,
    pub(crate) held: Option<usize>,
}

impl Batch {
    pub(crate) const LARGE: Self = Self { bytes: 128 * 1024, held: None };
    /// For many publishers: a thousand times what the kernel holds by default would be more memory
    /// than it gives to TCP.
    pub(crate) const SMALL: Self = Self { bytes: 16 * 1024, held: Some(16 * 1024) };
    /// For ten thousand.
    pub(crate) const TINY: Self = Self { bytes: 4 * 1024, held: Some(4 * 1024) };

    pub(crate) fn of(publishers: usize) -> Self {
        if publishers >= 100 { Self::SMALL } else { Self::LARGE }
    }
}

/// How long the rest of a message may take after the time is over.
const REST: Duration = Duration::from_secs(2);

pub(crate) struct Sender {
    publishers: Vec<Publisher>,
    shape: Shape,
}

struct Publisher {
    socket: TcpStream,
    id: u64,
    batch: Vec<u8>,
    /// How much of the batch is to be written, and how much has been.
    end: usize,
    written: usize,
    /// The number of the message behind the batch.
    next: u64,
    /// How many to send: as many as there have to be, or have been begun when the time is over.
    most: u64,
    enough: u64,
    /// How many messages were sent that do not count.
    greetings: u64,
    acks: Option<Acks>,
}

/// The messages that have been sent.
pub(crate) struct Sent {
    pub(crate) messages: u64,
    /// The broker did not even read the rest of the messages that had been begun.
    pub(crate) cut: bool,
    /// A publisher was disconnected.
    pub(crate) broken: Option<io::Error>,
}

impl Sender {
    pub(crate) fn new(sockets: Vec<TcpStream>, shape: Shape, most: u64, batch: Batch) -> io::Result<Self> {
        let frames = batch.bytes.div_ceil(shape.frame.len());
        let mut publishers = Vec::new();
        for (socket, id) in sockets.into_iter().zip(0..) {
            if let Some(held) = batch.held {
                SockRef::from(&socket).set_send_buffer_size(held)?;
            }
            let batch = shape.frame.repeat(frames);
            let (greetings, acks) = (0, None);
            let publisher =
                Publisher { socket, id, batch, end: 0, written: 0, next: 0, most, enough: most, greetings, acks };
            publishers.push(publisher);
        }
        Ok(Self { publishers, shape })
    }

    /// From now on everything that is sent as fast as possible has to be acknowledged.
    pub(crate) fn expect_acks(&mut self) {
        self.publishers.iter_mut().for_each(|publisher| publisher.acks = Some(Acks::default()));
    }

    /// One publisher sends one message that does not count.
    pub(crate) fn greet(&mut self, publisher: usize) -> io::Result<()> {
        let publisher = &mut self.publishers[publisher];
        let mut frame = self.shape.frame.clone();
        stamp(&mut frame[self.shape.payload..], publisher.id * NUMBERS + GREETING, 0);
        publisher.greetings += 1;
        publisher.socket.write_all(&frame)
    }

    /// All publishers send as fast as the broker reads, until the time is over or there are enough.
    /// It can be called again: what is returned is what has been sent since the beginning.
    pub(crate) fn run(&mut self, until: Instant) -> Sent {
        let (cut, broken) = match self.pump_all(until) {
            Ok(finished) => (!finished, None),
            Err(error) => (false, Some(error)),
        };
        let whole = |publisher: &Publisher| publisher.begun(&self.shape) - u64::from(publisher.is_between(&self.shape));
        let messages = self.publishers.iter().map(whole).sum();
        self.publishers.iter_mut().for_each(|publisher| publisher.most = publisher.enough);
        Sent { messages, cut, broken }
    }

    /// Whether all messages that were begun have been written.
    fn pump_all(&mut self, until: Instant) -> io::Result<bool> {
        let mut poller = Poller::new()?;
        for (key, publisher) in self.publishers.iter().enumerate() {
            publisher.socket.set_nonblocking(true)?;
            poller.writable(&publisher.socket, key)?;
        }
        let (mut ready, mut open, mut stopped) = (Vec::new(), self.publishers.len(), false);
        while open > 0 {
            poller.wait(Some(Duration::from_millis(20)), &mut ready)?;
            let now = Instant::now();
            if now > until && !stopped {
                stopped = true;
                self.publishers.iter_mut().for_each(|publisher| publisher.stop(&self.shape));
            }
            if now > until + REST {
                return Ok(false);
            }
            for &key in &ready {
                let publisher = &mut self.publishers[key];
                if publisher.pump(&self.shape)? {
                    poller.remove(&publisher.socket)?;
                    open -= 1;
                }
            }
        }
        for publisher in &mut self.publishers {
            publisher.await_acks(&self.shape)?;
        }
        Ok(true)
    }

    /// The first publisher sends so many messages a second, however long each takes: those that are
    /// late carry the time at which they were due. It can be called again, as [`run`](Self::run) can.
    pub(crate) fn pace(&mut self, rate: u32, epoch: Instant, until: Instant) -> Sent {
        let mut due = Instant::now();
        let interval = Duration::from_secs(1) / rate;
        let Sender { publishers, shape } = self;
        let Some(Publisher { socket, batch, next: messages, .. }) = publishers.first_mut() else {
            return Sent { messages: 0, cut: false, broken: None };
        };
        // Otherwise the kernel lets each sleep be 50 µs too long. Without it the figures are only
        // worse.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        while due < until {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut end = 0;
            let now = Instant::now();
            for frame in batch.chunks_exact_mut(shape.frame.len()) {
                if due > now {
                    break;
                }
                stamp(&mut frame[shape.payload..], *messages, nanos(due.saturating_duration_since(epoch)));
                (*messages, due, end) = (*messages + 1, due + interval, end + frame.len());
            }
            if let Err(error) = socket.write_all(&batch[..end]) {
                return Sent { messages: *messages, cut: false, broken: Some(error) };
            }
        }
        Sent { messages: *messages, cut: false, broken: None }
    }
}

impl Publisher {
    /// Writes once; whether everything has been written.
    fn pump(&mut self, shape: &Shape) -> io::Result<bool> {
        if self.written == self.end {
            if self.next >= self.most {
                return Ok(true);
            }
            self.refill(shape);
        }
        match self.socket.write(&self.batch[self.written..self.end]) {
            Ok(n) => self.written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if let Some(acks) = &mut self.acks {
            acks.read(&mut self.socket)?;
        }
        Ok(self.written == self.end && self.next >= self.most)
    }

    /// Waits until all that was sent is acknowledged.
    fn await_acks(&mut self, shape: &Shape) -> io::Result<()> {
        let sent = self.greetings + self.begun(shape);
        let Some(acks) = &mut self.acks else {
            return Ok(());
        };
        self.socket.set_nonblocking(false)?;
        while acks.number < sent {
            acks.read(&mut self.socket)?;
        }
        if acks.number == sent {
            Ok(())
        } else {
            Err(io::Error::other(format!("{} of {sent} acknowledged", acks.number)))
        }
    }

    fn refill(&mut self, shape: &Shape) {
        (self.end, self.written) = (0, 0);
        for frame in self.batch.chunks_exact_mut(shape.frame.len()) {
            if self.next == self.most {
                break;
            }
            stamp(&mut frame[shape.payload..], self.id * NUMBERS + self.next, 0);
            if let Some(routing) = shape.routing {
                write_decimal(&mut frame[shape.digits()], routing.channel(self.id, self.next));
            }
            self.next += 1;
            self.end += frame.len();
        }
    }

    /// Nothing more after the message that has been begun.
    fn stop(&mut self, shape: &Shape) {
        self.most = self.begun(shape);
        self.next = self.most;
        self.end = self.written.next_multiple_of(shape.frame.len());
    }

    /// Whether the last of them has been written only in part.
    fn is_between(&self, shape: &Shape) -> bool {
        self.written % shape.frame.len() != 0
    }

    /// How many messages have been written, at least in part.
    fn begun(&self, shape: &Shape) -> u64 {
        self.next - ((self.end - self.written) / shape.frame.len()) as u64
    }
}

fn stamp(payload: &mut [u8], number: u64, due: u64) {
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload[8..STAMP].copy_from_slice(&due.to_be_bytes());
}

/// With leading zeros.
fn write_decimal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        let [low, ..] = (number % 10).to_le_bytes();
        *digit = b'0' + low;
        number /= 10;
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
