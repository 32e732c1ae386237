//! The cost of a session's spool, beside the same session without one: processor time and bytes written
//! to disk for each message, and the rate of a replay. `cargo bench --features spool --bench spool`, and
//! `-- online` for the rows with this in their name, `--rounds N` (default 9), `--dir DIR` for a folder of
//! the disk to measure (default: the current one).
//!
//! Both sides take turns, and ratios are taken within a round. The processor time is that of the whole
//! process, the spool's thread with it, but for the peer's thread. The bytes are those that the system
//! counts for the process when it makes pages of a file dirty.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails must stop")]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this benchmark needs Linux");
}

#[cfg(target_os = "linux")]
#[path = "session/peer.rs"]
#[allow(dead_code, reason = "what it shares with the session's benchmark")]
mod peer;

#[cfg(target_os = "linux")]
#[path = "support/mod.rs"]
#[allow(dead_code, reason = "only quantiles are wanted")]
mod support;

#[cfg(target_os = "linux")]
fn main() {
    // `cargo test --all-targets` runs benchmarks too, without it.
    if std::env::args().any(|arg| arg == "--bench") {
        linux::bench();
    }
}

#[cfg(target_os = "linux")]
#[allow(clippy::cast_precision_loss, reason = "far more digits are left than the figures have")]
mod linux {
    use std::{
        env,
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        path::Path,
        thread::{self, JoinHandle},
        time::{Duration, Instant},
    };

    use bytes::{Buf as _, Bytes, BytesMut};
    use hpfeeds::{
        ClientSession, SessionBuilder, Spool,
        wire::{
            HEADER_LEN,
            extension::{BrokerFrame, BrokerHello, ClientFrame, ExtensionHeader, ExtensionOpcode, VERSION},
        },
    };
    use rustix::time::{ClockId, clock_gettime};
    use tempfile::TempDir;
    use tokio::{runtime, time::sleep};

    use crate::{
        peer::{BATCH, CHANNEL, FRAME, Handshake, IDENT, batch, encoded, introduce, payload},
        support::quantile,
    };

    const ROUNDS: usize = 9;
    /// Messages in one measurement.
    const MANY: usize = BATCH * 8 * 200;
    const FEW: usize = BATCH * 8 * 50;
    /// Messages of which a program knows the fate before it goes on; far below half of the queue.
    const WINDOW: usize = 2_000;
    /// The bytes a second that a peer reads whose collectors are slow.
    const SLOW: f64 = 1e7;

    /// How long a session may take to write what stands on its disk.
    const CLOSING: Duration = Duration::from_secs(120);

    /// The rows, each with its bound.
    const ROWS: [(&str, Work, &str); 5] = [
        ("online, in windows of 2,000", Work::Windows, "time at most 1.05, 0 B"),
        ("online, as fast as it goes", Work::Flood, ""),
        ("paced by a slow collector", Work::Paced, ""),
        ("a broker that confirms nothing", Work::Plain, ""),
        ("replay", Work::Replay, "rate at least 0.70"),
    ];

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Work {
        Windows,
        Flood,
        Paced,
        Plain,
        Replay,
    }

    /// Nanoseconds and bytes for each message, millions of messages a second.
    #[derive(Clone, Copy)]
    struct Figures {
        cpu: f64,
        rate: f64,
        written: f64,
    }

    pub(super) fn bench() {
        let (mut wanted, mut rounds, mut dir, mut args) = (String::new(), ROUNDS, ".".to_owned(), env::args().skip(1));
        while let Some(arg) = args.next() {
            match &*arg {
                "--rounds" => rounds = args.next().unwrap().parse().unwrap(),
                "--dir" => dir = args.next().unwrap(),
                option if option.starts_with('-') => {}
                _ => wanted = arg,
            }
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows: Vec<_> = ROWS.iter().filter(|(name, ..)| name.contains(&wanted)).collect();
        let mut figures = vec![Vec::new(); rows.len()];
        for round in 0..rounds {
            for ((name, work, _), figures) in rows.iter().zip(&mut figures) {
                let folder = tempfile::tempdir_in(&dir).unwrap();
                // Each is the first in every second round.
                let mut sides = [round % 2 == 1, round % 2 == 0].map(|spooled| {
                    let folder = spooled.then_some(&folder);
                    (spooled, runtime.block_on(measure(*work, folder)))
                });
                sides.sort_by_key(|(spooled, _)| *spooled);
                let [(_, without), (_, with)] = sides;
                eprintln!("{name}: {:.0} and {:.0} ns, {:.1} B written", without.cpu, with.cpu, with.written);
                figures.push((without, with));
            }
        }
        println!("{:<32} {:>12} {:>25} {:>12} {:>25} {:>12}", "", "ns", "ratio", "M/s", "ratio", "written");
        for ((name, _, bound), figures) in rows.iter().zip(figures) {
            let of = |figure: &dyn Fn(&(Figures, Figures)) -> f64| {
                [0.5, 0.25, 0.75].map(|part| quantile(figures.iter().map(figure).collect(), part).unwrap())
            };
            let [cpu, ..] = of(&|(without, _)| without.cpu);
            let [cpu_spooled, ..] = of(&|(_, with)| with.cpu);
            let [rate, ..] = of(&|(without, _)| without.rate);
            let [rate_spooled, ..] = of(&|(_, with)| with.rate);
            let [written, ..] = of(&|(_, with)| with.written);
            let times = of(&|(without, with)| with.cpu / without.cpu);
            let rates = of(&|(without, with)| with.rate / without.rate);
            let shown = |[middle, least, most]: [f64; 3]| format!("{middle:.2} ({least:.2} to {most:.2})");
            println!(
                "{name:<32} {:>12} {:>25} {:>12} {:>25} {written:>10.1} B  {bound}",
                format!("{cpu:.0} {cpu_spooled:.0}"),
                shown(times),
                format!("{rate:.2} {rate_spooled:.2}"),
                shown(rates),
            );
        }
        println!(
            "\nns of processor time for a message of 256 B, without the spool and with it; millions of messages a"
        );
        println!(
            "second; bytes written to disk for each message with it: medians of {rounds} rounds. Ratios are with the"
        );
        println!("spool to without, and their middle half. A replay is beside publishing from memory.");
    }

    async fn measure(work: Work, folder: Option<&TempDir>) -> Figures {
        let messages = if work == Work::Paced { FEW } else { MANY };
        if let (Work::Replay, Some(folder)) = (work, folder) {
            fill(folder.path(), messages).await;
        }
        let handshake = if work == Work::Plain { Handshake::Plain } else { Handshake::Extended };
        let (addr, peer) = drain(handshake, messages, (work == Work::Paced).then_some(SLOW));
        let start = Instant::now();
        let cpu = process_cpu();
        let mut session = builder(addr, folder.map(TempDir::path)).connect().await.unwrap();
        // What opening it writes is not counted.
        let written = bytes_written();
        if work != Work::Replay || folder.is_none() {
            publish(&session, messages, work).await;
        }
        if work != Work::Plain {
            session.flush().await.unwrap();
            // Its files go a moment after the last message is confirmed.
            while session.stats().spooled > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        let (rate, bytes) = (messages as f64 / start.elapsed().as_secs_f64() / 1e6, bytes_written() - written);
        session.close().await.unwrap();
        let peers = peer.join().unwrap();
        let count = messages as f64;
        Figures { cpu: (process_cpu() - cpu - peers) as f64 / count, rate, written: bytes as f64 / count }
    }

    async fn publish(session: &ClientSession, messages: usize, work: Work) {
        let payloads: Vec<Bytes> = (0..BATCH as u64).map(payload).collect();
        for (n, payload) in (1..).zip(payloads.iter().cycle().take(messages)) {
            session.publish(CHANNEL, payload.clone()).await.unwrap();
            if n % WINDOW == 0 {
                match work {
                    Work::Windows => drop(session.flush().await.unwrap()),
                    // As fast as the others are, or so.
                    Work::Plain => sleep(Duration::from_millis(5)).await,
                    Work::Flood | Work::Paced | Work::Replay => {}
                }
            }
        }
    }

    /// Leaves messages in the spool, as a program does whose broker is away.
    async fn fill(folder: &Path, messages: usize) {
        // A port that nobody listens on any more.
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut session = builder(addr, Some(folder)).close_timeout(Duration::ZERO).start().unwrap();
        publish(&session, messages, Work::Flood).await;
        let error = session.close().await.unwrap_err();
        assert_eq!(error.spooled(), messages as u64, "{error}");
    }

    fn builder(addr: SocketAddr, folder: Option<&Path>) -> SessionBuilder {
        let builder = ClientSession::builder(addr, IDENT, "secret").auth_grace(Duration::ZERO).close_timeout(CLOSING);
        match folder {
            Some(folder) => builder.spool(Spool::dir(folder.join("spool"))),
            None => builder,
        }
    }

    /// A peer that compares every message with what must come, answers each HELLO and acknowledges each
    /// read; it accepts connections until it has all messages and the last has ended. Returns its
    /// processor time.
    fn drain(handshake: Handshake, messages: usize, rate: Option<f64>) -> (SocketAddr, JoinHandle<i64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let mut peer = Peer { handshake, rate, expected: batch(0), total: 0, start: Instant::now() };
            while peer.total < messages {
                peer.serve(listener.accept().unwrap().0);
            }
            assert_eq!(peer.total, messages, "messages that came");
            nanos(ClockId::ThreadCPUTime)
        });
        (addr, peer)
    }

    struct Peer {
        handshake: Handshake,
        rate: Option<f64>,
        expected: BytesMut,
        total: usize,
        start: Instant,
    }

    impl Peer {
        /// Serves one connection to its end.
        fn serve(&mut self, mut socket: TcpStream) {
            introduce(&mut socket, self.handshake);
            let (mut received, mut buffer) = (BytesMut::new(), vec![0; 256 * 1024]);
            // The number of the next message, and whether it is to be acknowledged.
            let (mut next, mut confirms) = (1, false);
            loop {
                let n = socket.read(&mut buffer).unwrap();
                if n == 0 {
                    return;
                }
                received.extend_from_slice(&buffer[..n]);
                let before = next;
                loop {
                    if received.get(HEADER_LEN - 1) == Some(&(ExtensionOpcode::Hello as u8)) {
                        let Some(hello) = hello(&mut socket, &mut received) else { break };
                        (next, confirms) = (hello, true);
                        continue;
                    }
                    let Some(frame) = received.get(..FRAME) else { break };
                    let at = self.total % BATCH * FRAME;
                    assert!(frame == &self.expected[at..at + FRAME], "message {} is another", self.total);
                    received.advance(FRAME);
                    (self.total, next) = (self.total + 1, next + 1);
                }
                if confirms && next > before {
                    socket.write_all(&encoded(&BrokerFrame::Ack { number: next - 1 })).unwrap();
                }
                if let Some(rate) = self.rate {
                    let due = Duration::from_secs_f64((self.total * FRAME) as f64 / rate);
                    thread::sleep(due.saturating_sub(self.start.elapsed()));
                }
            }
        }
    }

    /// Answers HELLO if all of it is there; says which number comes next.
    fn hello(socket: &mut TcpStream, received: &mut BytesMut) -> Option<u64> {
        let header = ExtensionHeader::parse(received).unwrap()?;
        let ClientFrame::Hello(hello) = ClientFrame::parse(header.opcode, header.body(received)?).unwrap() else {
            panic!("not HELLO")
        };
        let (flags, next) = (hello.flags, hello.next);
        received.advance(header.length);
        let answer = BrokerHello { version: VERSION, flags, ..BrokerHello::default() };
        socket.write_all(&encoded(&BrokerFrame::Hello(answer))).unwrap();
        Some(next)
    }

    fn process_cpu() -> i64 {
        nanos(ClockId::ProcessCPUTime)
    }

    fn nanos(clock: ClockId) -> i64 {
        let time = clock_gettime(clock);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    }

    fn bytes_written() -> u64 {
        procfs::process::Process::myself().and_then(|process| process.io()).unwrap().write_bytes
    }
}
