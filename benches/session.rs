//! The cost of a session above the socket: receiving and publishing messages of 256 bytes, and receiving from eight
//! sessions at once. `cargo bench --bench session`, and `-- publish` for the rows with this in their name and a colon. With `--once`
//! each row's session does its work once and nothing is measured: for tools that count, such as valgrind.
//!
//! Everything of the session (its task, too) runs on one thread, whose processor time is measured; the peers are
//! threads of their own. Each kind of work and its bare socket take turns, and medians are compared.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails must stop")]

use std::{
    env, fmt,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroU64,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    future::join_all,
    stream::{repeat, select_all},
};
use hpfeeds::{
    ClientSession, Message, merge,
    wire::{Channel, Codec, Frame, Ident, Limits, Nonce, encode_publish},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamMap;
use tokio_util::codec::Decoder as _;

const PAYLOAD: usize = 256;
const CHANNEL: &str = "cowrie.sessions";
/// One digit at the end tells the peers apart.
const IDENT: &str = "sensor-0";
const FRAME: usize = 5 + 1 + IDENT.len() + 1 + CHANNEL.len() + PAYLOAD;
/// Frames in one write of a peer: 64 KiB, as a session reads.
const BATCH: usize = 64 * 1024 / FRAME;
/// Messages in one measurement.
const MESSAGES: usize = BATCH * 8 * 250;
const ROUNDS: usize = 9;
const SESSIONS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Only rows whose name contains the argument; cargo itself adds `--bench`.
    let wanted = env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let rows: Vec<_> = ROWS.iter().filter(|(name, ..)| format!("{name}:").contains(&wanted)).collect();
    if is_once() {
        for (name, work, _) in rows {
            match *work {
                Work::Receive(sessions, how) => runtime.block_on(receive(sessions, how, Check::Order)),
                Work::Publish => runtime.block_on(publish()),
                Work::Nothing => runtime.block_on(select_nothing()),
            };
            println!("{name}: {MESSAGES} messages");
        }
        return;
    }
    // Every byte is looked at once, before anything is measured.
    for (_, work, _) in &rows {
        if let Work::Receive(sessions, how) = *work {
            runtime.block_on(receive(sessions, how, Check::EveryByte));
        }
    }
    let mut times = vec![(Vec::new(), Vec::new(), Vec::new()); rows.len()];
    for _ in 0..ROUNDS {
        for ((_, work, _), (bare, session, above)) in rows.iter().zip(&mut times) {
            let (socket, ours) = match *work {
                Work::Receive(sessions, how) => {
                    (runtime.block_on(read(sessions)), runtime.block_on(receive(sessions, how, Check::Order)))
                }
                Work::Publish => (runtime.block_on(write()), runtime.block_on(publish())),
                Work::Nothing => (0.0, runtime.block_on(select_nothing())),
            };
            bare.push(socket);
            session.push(ours);
            above.push(ours - socket);
        }
    }
    println!("ns of processor time per message of {PAYLOAD} B: median of {ROUNDS} rounds (least - most)");
    println!("{:<34} {:>22} {:>22} {:>22} {:>6}", "", "bare socket", "session", "above", "ratio");
    for ((name, _, goal), (bare, session, above)) in rows.iter().zip(times) {
        let [bare, session, above] = [bare, session, above].map(Spread::of);
        let ratio = session.median / bare.median;
        println!("{name:<34} {bare:>22} {session:>22} {above:>22} {ratio:>6.2}  {goal}");
    }
}

fn is_once() -> bool {
    env::args().any(|arg| arg == "--once")
}

/// The rows: each is measured beside its bare socket in the same round, and has a goal for its cost above that.
const ROWS: [(&str, Work, &str); 7] = [
    ("receive: next()", Work::Receive(1, How::Next), "goal 60"),
    ("publish: publish()", Work::Publish, "goal 80"),
    ("receive: select_all of 8", Work::Receive(SESSIONS, How::SelectAll), ""),
    ("select_all of 8 without sessions", Work::Nothing, ""),
    ("receive: StreamMap of 8", Work::Receive(SESSIONS, How::StreamMap), ""),
    ("receive: select_all of 8, in chunks", Work::Receive(SESSIONS, How::SelectChunks), "goal 60"),
    ("receive: merge of 8", Work::Receive(SESSIONS, How::Merge), "goal 60"),
];

#[derive(Clone, Copy)]
enum Work {
    /// From so many sessions.
    Receive(usize, How),
    Publish,
    /// The cost of `select_all` itself for each item of the size of a message: of streams that always have one, and
    /// nothing to do for it.
    Nothing,
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self { least: times[0], median: times[times.len() / 2], most: times[times.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} ({:.1} - {:.1})", self.median, self.least, self.most))
    }
}

#[derive(Clone, Copy)]
enum How {
    /// One session, message by message.
    Next,
    /// As `futures` merges streams: it moves a stream to the end of its queue after each item.
    SelectAll,
    /// As `tokio_stream` merges streams: it begins anywhere after each item.
    StreamMap,
    /// As [`SelectAll`](Self::SelectAll), with up to 64 messages an item.
    SelectChunks,
    /// As this library merges sessions.
    Merge,
}

#[derive(Clone, Copy)]
enum Check {
    EveryByte,
    /// The length and the number in the payload: no message is lost, repeated or out of order.
    Order,
}

/// Receives `MESSAGES` from so many sessions.
async fn receive(sessions: usize, how: How, check: Check) -> f64 {
    let (mut streams, mut peers) = (Vec::new(), Vec::new());
    for n in 0..sessions {
        let (addr, peer) = feed(n, MESSAGES / sessions, true);
        let session = ClientSession::builder(addr, "me", "secret").auth_grace(Duration::ZERO);
        streams.push(session.connect().await.unwrap());
        peers.push(peer);
    }
    let mut merged = None;
    let mut seen = Seen { check, next: [0; SESSIONS], messages: 0 };
    let start = cpu();
    for stream in &streams {
        stream.subscribe(CHANNEL).unwrap();
    }
    match how {
        How::Next => {
            let stream = &mut streams[0];
            while seen.messages < MESSAGES {
                seen.message(&stream.next().await.unwrap());
            }
        }
        How::SelectAll => {
            let mut all = select_all(streams.drain(..));
            while seen.messages < MESSAGES {
                seen.message(&all.next().await.unwrap());
            }
        }
        How::StreamMap => {
            let mut all: StreamMap<_, _> = streams.drain(..).enumerate().collect();
            while seen.messages < MESSAGES {
                seen.message(&all.next().await.unwrap().1);
            }
        }
        How::SelectChunks => {
            let mut all = select_all(streams.drain(..).map(|stream| stream.ready_chunks(64)));
            while seen.messages < MESSAGES {
                all.next().await.unwrap().iter().for_each(|message| seen.message(message));
            }
        }
        How::Merge => {
            merged = Some(merge(streams.drain(..)));
            let all = merged.as_mut().unwrap();
            while seen.messages < MESSAGES {
                seen.message(&all.next().await.unwrap().1);
            }
        }
    }
    let time = per_message(start);
    drop((streams, merged));
    // Their tasks close the sockets, and then the peers end.
    tokio::task::spawn_blocking(|| peers.into_iter().for_each(|peer| peer.join().unwrap())).await.unwrap();
    time
}

/// Takes `MESSAGES` items from streams of nothing.
async fn select_nothing() -> f64 {
    // Of its size, and with a value that it never has, as a message.
    let mut all = select_all((0..SESSIONS).map(|_| repeat([NonZeroU64::MIN; size_of::<Message>() / 8])));
    let start = cpu();
    for _ in 0..MESSAGES {
        black_box(all.next().await.unwrap());
    }
    per_message(start)
}

struct Seen {
    check: Check,
    next: [u64; SESSIONS],
    messages: usize,
}

impl Seen {
    fn message(&mut self, (ident, channel, payload): &Message) {
        let n = usize::from(ident.as_bytes()[IDENT.len() - 1] - b'0');
        let number = u64::from_le_bytes(*payload.first_chunk().unwrap());
        assert!(number == self.next[n] && payload.len() == PAYLOAD, "message {} of session {n}", self.next[n]);
        if let Check::EveryByte = self.check {
            assert_eq!((ident.as_str(), channel.as_str()), (&*peer_ident(n), CHANNEL));
            assert_eq!(payload, &self::payload(number));
        }
        self.next[n] += 1;
        self.messages += 1;
    }
}

/// Reads as many bytes as [`receive`] from so many bare sockets, 64 KiB at a time.
async fn read(sockets: usize) -> f64 {
    let (mut streams, mut peers) = (Vec::new(), Vec::new());
    for n in 0..sockets {
        let (addr, peer) = feed(n, MESSAGES / sockets, false);
        streams.push(tokio::net::TcpStream::connect(addr).await.unwrap());
        peers.push(peer);
    }
    let start = cpu();
    join_all(streams.iter_mut().map(async |stream| {
        stream.write_all(b"!").await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let mut missing = MESSAGES / sockets * FRAME;
        while missing > 0 {
            let n = stream.read(&mut buffer).await.unwrap();
            assert_ne!(n, 0);
            missing -= n;
        }
    }))
    .await;
    let time = per_message(start);
    drop(streams);
    for peer in peers {
        peer.join().unwrap();
    }
    time
}

/// Publishes `MESSAGES`, until the peer has read them all.
async fn publish() -> f64 {
    let (addr, peer) = drain(true);
    let session = ClientSession::builder(addr, IDENT, "secret").auth_grace(Duration::ZERO);
    let mut session = session.connect().await.unwrap();
    let payloads: Vec<Bytes> = (0..BATCH as u64).map(payload).collect();
    let start = cpu();
    for payload in payloads.iter().cycle().take(MESSAGES) {
        session.publish(CHANNEL, payload.clone()).await.unwrap();
    }
    session.close().await.unwrap();
    let time = per_message(start);
    assert_eq!(peer.join().unwrap(), MESSAGES * FRAME);
    time
}

/// Writes the same bytes as [`publish`] to a bare socket, 64 KiB at a time.
async fn write() -> f64 {
    let (addr, peer) = drain(false);
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let batch = batch(0);
    let start = cpu();
    for _ in 0..MESSAGES / BATCH {
        stream.write_all(&batch).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let time = per_message(start);
    assert_eq!(peer.join().unwrap(), MESSAGES * FRAME);
    time
}

/// A peer that sends messages, numbered from 0, as soon as it is asked for any.
fn feed(n: usize, messages: usize, handshake: bool) -> (SocketAddr, JoinHandle<()>) {
    accept(move |mut socket| {
        if handshake {
            greet(&mut socket);
        }
        assert_ne!(socket.read(&mut [0; 1024]).unwrap(), 0);
        let mut batch = batch(n);
        for first in (0..messages).step_by(BATCH) {
            for (frame, number) in batch.chunks_exact_mut(FRAME).zip(first as u64..) {
                frame[FRAME - PAYLOAD..][..8].copy_from_slice(&number.to_le_bytes());
            }
            socket.write_all(&batch).unwrap();
        }
        // A session whose broker goes away would connect again.
        while socket.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    })
}

/// A peer that reads to the end, compares every byte with what must come, and returns how many there were.
fn drain(handshake: bool) -> (SocketAddr, JoinHandle<usize>) {
    accept(move |mut socket| {
        if handshake {
            greet(&mut socket);
        }
        let expected = batch(0);
        let mut buffer = vec![0; 256 * 1024];
        let mut total = 0;
        loop {
            let n = socket.read(&mut buffer).unwrap();
            if n == 0 {
                return total;
            }
            let mut read = &buffer[..n];
            while !read.is_empty() {
                let expected = &expected[total % expected.len()..];
                let (now, later) = read.split_at(read.len().min(expected.len()));
                assert!(now == &expected[..now.len()], "wrong bytes from {total}");
                total += now.len();
                read = later;
            }
        }
    })
}

fn accept<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// The broker's side of the handshake; any secret will do.
fn greet(socket: &mut TcpStream) {
    let mut bytes = BytesMut::new();
    let info = Frame::Info { name: "peer".into(), nonce: Nonce::new([1, 2, 3, 4]) };
    info.encode(&mut bytes, Limits::default()).unwrap();
    socket.write_all(&bytes).unwrap();
    bytes.clear();
    // Byte by byte: what follows AUTH is not ours.
    loop {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        bytes.extend_from_slice(&byte);
        if let Some(frame) = Codec::default().decode(&mut bytes).unwrap() {
            assert!(matches!(frame, Frame::Auth { .. }));
            return;
        }
    }
}

fn peer_ident(n: usize) -> String {
    format!("{}{n}", &IDENT[..IDENT.len() - 1])
}

fn payload(number: u64) -> Bytes {
    let mut payload = [0xa5; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    Bytes::copy_from_slice(&payload)
}

fn batch(n: usize) -> BytesMut {
    let (ident, channel) = (Ident::new(peer_ident(n)).unwrap(), Channel::new(CHANNEL).unwrap());
    let mut bytes = BytesMut::new();
    for number in 0..BATCH as u64 {
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, &payload(number)).unwrap();
    }
    assert_eq!(bytes.len(), BATCH * FRAME);
    bytes
}

/// The processor time of this thread, in nanoseconds; 0 when nothing is measured: valgrind does not survive the question.
fn cpu() -> i64 {
    if is_once() {
        return 0;
    }
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a second fit")]
fn per_message(start: i64) -> f64 {
    (cpu() - start) as f64 / MESSAGES as f64
}
