//! The time that `connect()` takes from the broker's INFO until the session is ready: in round trips of
//! a link with a known delay, in virtual time, and in milliseconds on the loopback interface.
//! `cargo bench --bench connect`, and `-- --rounds N` for more or fewer connections.
//!
//! The broker runs on a thread of its own in real time, and on the session's in virtual time. By turns
//! it offers the extension `hpx/1`, whose HELLO is the answer, and does not: then the session waits for
//! ERROR as long as `auth_grace` says.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails must stop")]

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "only a quantile is wanted")]
mod support;

use std::{
    env, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use hpfeeds::{BrokerAddr, ClientSession, Connector, Transport};
use hpfeeds_broker::{Broker, Endpoint};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    net::TcpStream,
    runtime,
    time::{Instant, sleep_until},
};

const ROUNDS: usize = 200;
/// One way.
const DELAYS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(50), Duration::from_millis(300)];

fn main() {
    let (mut rounds, mut args) = (ROUNDS, env::args().skip(1));
    // `cargo test --all-targets` runs benchmarks too, without it.
    if !env::args().any(|arg| arg == "--bench") {
        return;
    }
    while let Some(arg) = args.next() {
        if arg == "--rounds" {
            rounds = args.next().unwrap().parse().unwrap();
        }
    }
    println!("connect(), from INFO to ready\n\nvirtual time: {:<20} {:>16} {:>16}", "one way", "extension", "without");
    for delay in DELAYS {
        let [with, without] = [true, false].map(|extensions| in_virtual_time(extensions, delay));
        println!(
            "              {:<20} {:>16} {:>16}",
            format!("{} ms", delay.as_millis()),
            trips(with, delay),
            trips(without, delay)
        );
    }
    let [with, without] = in_real_time(rounds);
    println!("\nreal time, loopback, {rounds} connections: median (least - most)");
    println!("extension {with}; without {without}");
}

/// One round trip, and what is beyond.
fn trips(time: Duration, one_way: Duration) -> String {
    let trip = one_way * 2;
    match time.checked_sub(trip) {
        Some(rest) => format!("1 trip + {} ms", rest.as_millis()),
        None => format!("{} ms", time.as_millis()),
    }
}

// ---- virtual time ----

fn in_virtual_time(extensions: bool, delay: Duration) -> Duration {
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let broker = Broker::dev_builder().without_endpoint().extensions(extensions).start().await.unwrap();
        let broker = Arc::new(broker);
        let heard = Heard::default();
        let link = Link { broker: broker.clone(), delay, heard: heard.clone() };
        let session = ClientSession::builder(("broker", 10000), "dev", "dev").connector(link).connect().await.unwrap();
        let time = heard.since();
        drop(session);
        time
    })
}

/// A link in memory to a broker.
struct Link {
    broker: Arc<Broker>,
    delay: Duration,
    heard: Heard,
}

impl Connector for Link {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let (ours, near) = duplex(1 << 16);
        let (far, theirs) = duplex(1 << 16);
        self.broker.serve(theirs, ([127, 0, 0, 1], 1).into());
        let (from_session, to_session) = tokio::io::split(near);
        let (from_broker, to_broker) = tokio::io::split(far);
        tokio::spawn(carry(from_session, to_broker, self.delay));
        tokio::spawn(carry(from_broker, to_session, self.delay));
        let timed: Box<dyn Transport> = Box::new(Timed { stream: ours, heard: self.heard.clone() });
        async { Ok(timed) }.boxed()
    }
}

/// Each byte arrives `delay` after it was sent.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin + Send + 'static, delay: Duration) {
    let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ended = to.shutdown().await;
    });
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ended = sender.send((Instant::now() + delay, buffer[..n].to_vec()));
    }
}

// ---- real time ----

/// With the extension and without.
fn in_real_time(rounds: usize) -> [String; 2] {
    let brokers = [true, false].map(serve);
    let mut times: [Vec<f64>; 2] = Default::default();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..rounds {
        for (broker, (addr, times)) in brokers.iter().zip(&mut times).enumerate() {
            // Without it each takes a quarter of a second: few are enough.
            if broker == 0 || round % 20 == 0 {
                times.push(runtime.block_on(connect(*addr)).as_secs_f64() * 1e3);
            }
        }
    }
    times.map(|times| {
        let quantile = |part| support::quantile(times.clone(), part).unwrap();
        format!("{:.2} ms ({:.2} - {:.2})", quantile(0.5), quantile(0.0), quantile(1.0))
    })
}

async fn connect(addr: SocketAddr) -> Duration {
    let heard = Heard::default();
    let dialer = Dialer { addr, heard: heard.clone() };
    let mut session = ClientSession::builder(addr, "dev", "dev").connector(dialer).connect().await.unwrap();
    let time = heard.since();
    session.close().await.unwrap();
    time
}

/// A broker on a thread of its own.
fn serve(extensions: bool) -> SocketAddr {
    let (sender, addr) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let builder = Broker::dev_builder().endpoint(Endpoint::tcp("127.0.0.1", 0)).extensions(extensions);
            let broker = builder.start().await.unwrap();
            sender.send(broker.local_addr()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    addr.recv().unwrap()
}

/// TCP, as a session connects by default, but for its options.
struct Dialer {
    addr: SocketAddr,
    heard: Heard,
}

impl Connector for Dialer {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        async move {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Timed { stream, heard: self.heard.clone() }) as _)
        }
        .boxed()
    }
}

// ---- both ----

/// The time at which the session got its first bytes, which are INFO.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    fn since(&self) -> Duration {
        self.0.lock().unwrap().elapsed()
    }
}

/// A stream that notes when it had something to read first.
struct Timed<S> {
    stream: S,
    heard: Heard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heard.0.lock().get_or_insert_with(Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Transport for Timed<TcpStream> {}

impl Transport for Timed<DuplexStream> {}
