//! The cost of a session above the socket: receiving and publishing messages of 256 bytes, and receiving from eight
//! sessions at once; and of the extension `hpx/1`, beside the same work without it. `cargo bench --bench session`, and
//! `-- publish` for the rows with this in their name and a colon, `-- --rounds N` for more or fewer rounds. With `--once`
//! each row's session does its work once and nothing is measured: for tools that count, such as valgrind.
//!
//! Everything of the session (its task, too) runs on one thread, whose processor time is measured; the peers are
//! threads of their own. Each kind of work and its bare socket take turns, and medians are compared.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails must stop")]

mod extended;
mod peer;

use std::{env, fmt, hint::black_box, num::NonZeroU64, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    future::join_all,
    stream::{repeat, select_all},
};
use hpfeeds::{ClientSession, Confirm, Message, merge};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};
use tokio_stream::StreamMap;

use self::peer::{BATCH, CHANNEL, FRAME, Handshake, IDENT, PAYLOAD, batch, drain, feed, payload, peer_ident};

/// Messages in one measurement.
const MESSAGES: usize = BATCH * 8 * 250;
const ROUNDS: usize = 9;
const SESSIONS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Cargo itself adds `--bench`.
    let (mut wanted, mut rounds, mut args) = (String::new(), ROUNDS, env::args().skip(1));
    while let Some(arg) = args.next() {
        match &*arg {
            "--rounds" => rounds = args.next().unwrap().parse().unwrap(),
            option if option.starts_with('-') => {}
            _ => wanted = arg,
        }
    }
    // Only rows whose name contains the argument.
    let is_wanted = |name: &str| format!("{name}:").contains(&wanted);
    let rows: Vec<_> = ROWS.iter().filter(|(name, ..)| is_wanted(name)).collect();
    if !rows.is_empty() {
        compare_with_sockets(&runtime, &rows, rounds);
    }
    extended::run(&runtime, is_wanted, rounds);
}

/// The table of sessions beside bare sockets.
fn compare_with_sockets(runtime: &Runtime, rows: &[&(&str, Work, &str)], rounds: usize) {
    let receive = |sessions, how, check| runtime.block_on(receive(sessions, how, check, Handshake::Plain));
    let publish = || runtime.block_on(publish(Handshake::Plain, Confirm::Off, Publishing::Plain));
    if is_once() {
        for (name, work, _) in rows {
            match *work {
                Work::Receive(sessions, how) => receive(sessions, how, Check::Order),
                Work::Publish => publish(),
                Work::Nothing => runtime.block_on(select_nothing()),
            };
            println!("{name}: {MESSAGES} messages");
        }
        return;
    }
    // Every byte is looked at once, before anything is measured.
    for (_, work, _) in rows {
        if let Work::Receive(sessions, how) = *work {
            receive(sessions, how, Check::EveryByte);
        }
    }
    let mut times = vec![(Vec::new(), Vec::new(), Vec::new()); rows.len()];
    for _ in 0..rounds {
        for ((_, work, _), (bare, session, above)) in rows.iter().zip(&mut times) {
            let (socket, ours) = match *work {
                Work::Receive(sessions, how) => {
                    (runtime.block_on(read(sessions)), receive(sessions, how, Check::Order))
                }
                Work::Publish => (runtime.block_on(write()), publish()),
                Work::Nothing => (0.0, runtime.block_on(select_nothing())),
            };
            bare.push(socket);
            session.push(ours);
            above.push(ours - socket);
        }
    }
    println!("ns of processor time per message of {PAYLOAD} B: median of {rounds} rounds (least - most)");
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
        let digits = f.precision().unwrap_or(1);
        let text = format!("{:.digits$} ({:.digits$} - {:.digits$})", self.median, self.least, self.most);
        // Not `pad`, which would cut it at the precision.
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
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
async fn receive(sessions: usize, how: How, check: Check, handshake: Handshake) -> f64 {
    let (mut streams, mut peers) = (Vec::new(), Vec::new());
    for n in 0..sessions {
        let (addr, peer) = feed(n, MESSAGES / sessions, handshake);
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
        let (addr, peer) = feed(n, MESSAGES / sockets, Handshake::Nothing);
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

/// How messages are handed to a session.
#[derive(Clone, Copy)]
enum Publishing {
    /// One after the other, by `publish()`.
    Plain,
    /// So many at once by `publish_confirmed()`, and all receipts before the next.
    Receipts(usize),
}

/// Publishes `MESSAGES`, until the peer has read them all.
async fn publish(handshake: Handshake, confirm: Confirm, how: Publishing) -> f64 {
    let (addr, peer) = drain(handshake);
    let session = ClientSession::builder(addr, IDENT, "secret").auth_grace(Duration::ZERO).confirm(confirm);
    let mut session = session.connect().await.unwrap();
    let payloads: Vec<Bytes> = (0..BATCH as u64).map(payload).collect();
    let mut payloads = payloads.iter().cycle().take(MESSAGES);
    let start = cpu();
    match how {
        Publishing::Plain => {
            for payload in payloads {
                session.publish(CHANNEL, payload.clone()).await.unwrap();
            }
        }
        Publishing::Receipts(window) => loop {
            let window = payloads.by_ref().take(window);
            let receipts = join_all(window.map(|payload| session.publish_confirmed(CHANNEL, payload.clone()))).await;
            if receipts.is_empty() {
                break;
            }
            for receipt in receipts {
                receipt.unwrap();
            }
        },
    }
    session.close().await.unwrap();
    let time = per_message(start);
    assert_eq!(peer.join().unwrap(), MESSAGES * FRAME);
    time
}

/// Writes the same bytes as [`publish`] to a bare socket, 64 KiB at a time.
async fn write() -> f64 {
    let (addr, peer) = drain(Handshake::Nothing);
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
