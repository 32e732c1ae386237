//! The sensor: the process that publishes numbered events with a spool, and prints what becomes of them.

use std::{
    fs::File,
    io::{BufRead as _, Write as _, stdin, stdout},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use fastrand::Rng;
use futures::{StreamExt as _, stream::FuturesUnordered};
use hpfeeds::{Backoff, ClientSession, Publisher, Spool};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::event::{CHANNEL, DENIED_EACH, FORBIDDEN, IDENT, Line, Moment, SECRET, payload};

/// Orders of this process: address, mode, first number, seed, and the spool's folder.
pub(crate) const CHILD: &str = "HPFEEDS_KILL_SENSOR";

/// How long a turn of the clock lasts at least, and as how much it counts at most.
const TURN: Duration = Duration::from_millis(10);
const LONGEST_TURN: Duration = Duration::from_millis(40);

/// How many events wait for their receipts at once, in a life that waits for each.
pub(crate) const PIPELINED: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `publish` returns when the event is on disk.
    WriteThrough,
    /// Events that are unconfirmed for so long go to disk.
    After(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) addr: SocketAddr,
    pub(crate) folder: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) first: u64,
    pub(crate) seed: u64,
}

impl Orders {
    pub(crate) fn text(&self) -> String {
        let after = match self.mode {
            Mode::WriteThrough => 0,
            Mode::After(after) => after.as_millis(),
        };
        format!("{} {after} {} {} {}", self.addr, self.first, self.seed, self.folder.display())
    }

    fn parse(text: &str) -> Self {
        let mut words = text.splitn(5, ' ');
        let mut next = || words.next().expect("five words");
        let (addr, after) = (next().parse().unwrap(), next().parse().unwrap());
        let mode = if after == 0 { Mode::WriteThrough } else { Mode::After(Duration::from_millis(after)) };
        let (first, seed) = (next().parse().unwrap(), next().parse().unwrap());
        Self { addr, mode, first, seed, folder: next().into() }
    }
}

pub(crate) fn say(line: &Line) {
    let mut out = stdout().lock();
    // One write: what is printed is whole, and with the driver once it is in the pipe.
    let text = format!("{line}\n");
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // The driver has gone.
        std::process::exit(1);
    }
}

/// The whole life of the process: until it is killed, or told to drain.
pub(crate) fn run(orders: &str) {
    let orders = Orders::parse(orders);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(publish(orders));
}

async fn publish(orders: Orders) {
    let spool = Spool::dir(&orders.folder);
    let spool = match orders.mode {
        Mode::WriteThrough => spool.write_through(),
        Mode::After(after) => spool.after(after),
    };
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(100));
    let builder = ClientSession::builder(orders.addr, IDENT, SECRET).backoff(backoff);
    let mut session = builder.spool(spool).start().expect("the spool opens");
    say(&Line::Started);
    tokio::spawn(stay_awake(orders.folder.with_extension("awake"), |at, awake| {
        say(&Line::Awake { at, micros: u64::try_from(awake.as_micros()).unwrap() });
    }));
    let mut events = session.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            say(&Line::Note(event.to_string()));
        }
    });
    let draining = orders_to_drain();
    let mut rng = Rng::with_seed(orders.seed);
    let publisher = session.publisher();
    if rng.u8(..4) == 0 {
        wait_for_each(&publisher, &draining, orders.first, &mut rng, channel).await;
    } else {
        flush_sometimes(&publisher, &draining, orders.first, &mut rng).await;
    }
    loop {
        let stats = session.stats();
        let (resent, refused, lost) = (stats.resent, stats.refused, stats.lost);
        say(&Line::Stats { resent, refused, lost });
        if stats.spooled == 0 && stats.unconfirmed == 0 && stats.queued == 0 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // Nothing is left; that some were refused is an error here, too.
    if let Err(error) = session.close().await {
        say(&Line::Note(format!("close: {error}")));
    }
    say(&Line::Drained);
}

/// Set when the driver says so. The process ends when the driver has gone.
pub(crate) fn orders_to_drain() -> Arc<AtomicBool> {
    let draining = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let draining = draining.clone();
        move || {
            let orders = stdin().lock().lines().next();
            if orders.is_none() {
                // The driver has gone.
                std::process::exit(1);
            }
            draining.store(true, SeqCst);
        }
    });
    draining
}

/// The clock of this process: it goes on while timers fire, threads run and a file can be made durable, which is all that
/// a spool needs.
pub(crate) async fn stay_awake(path: PathBuf, tell: impl Fn(Moment, Duration)) {
    let (mut awake, mut last) = (Duration::ZERO, Instant::now());
    loop {
        sleep(TURN).await;
        let path = path.clone();
        let written = spawn_blocking(move || {
            let mut file = File::create(path)?;
            file.write_all(b"awake")?;
            file.sync_all()
        });
        written.await.expect("the thread ends").expect("the disk works");
        let now = Instant::now();
        awake += (now - last).min(LONGEST_TURN);
        last = now;
        tell(Moment::now(), awake);
    }
}

/// Publishes, and flushes every now and then, when what was accepted before is confirmed or refused.
async fn flush_sometimes(publisher: &Publisher, draining: &AtomicBool, first: u64, rng: &mut Rng) {
    let accepted = AtomicU64::new(first - 1);
    let publishing = async {
        let mut denied = FuturesUnordered::new();
        for number in first.. {
            if draining.load(SeqCst) {
                break;
            }
            if number % DENIED_EACH == 0 {
                denied.push(confirm(publisher, FORBIDDEN, number));
            } else {
                publisher.publish(CHANNEL, payload(number)).await.expect("the session goes on");
                say(&Line::Accepted { number, at: Moment::now() });
                accepted.store(number, SeqCst);
            }
            pause(rng, async { while denied.next().await.is_some() {} }).await;
        }
        while denied.next().await.is_some() {}
    };
    let flush = async || {
        let number = accepted.load(SeqCst);
        publisher.flush().await.expect("the session goes on");
        say(&Line::Flushed { number, at: Moment::now() });
    };
    let flushing = async {
        loop {
            flush().await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = publishing => {}
        () = flushing => {}
    }
    flush().await;
}

/// The channel of a number: now and then one that is denied.
fn channel(number: u64) -> &'static str {
    if number.is_multiple_of(DENIED_EACH) { FORBIDDEN } else { CHANNEL }
}

/// Publishes, with the receipt of each event.
pub(crate) async fn wait_for_each(
    publisher: &Publisher,
    draining: &AtomicBool,
    first: u64,
    rng: &mut Rng,
    channel: impl Fn(u64) -> &'static str,
) {
    let mut waiting = FuturesUnordered::new();
    for number in first.. {
        if draining.load(SeqCst) {
            break;
        }
        waiting.push(confirm(publisher, channel(number), number));
        while waiting.len() as u64 >= PIPELINED {
            waiting.next().await;
        }
        pause(rng, async { while waiting.next().await.is_some() {} }).await;
    }
    while waiting.next().await.is_some() {}
}

async fn confirm(publisher: &Publisher, channel: &str, number: u64) {
    say(&Line::Tried { number, at: Moment::now() });
    let result = publisher.publish_confirmed(channel, payload(number)).await;
    let at = Moment::now();
    match result {
        Ok(_receipt) => say(&Line::Confirmed { number, at }),
        Err(_) if channel == FORBIDDEN => say(&Line::Refused { number, at }),
        Err(error) => say(&Line::Note(format!("{number}: {error}"))),
    }
}

/// Bursts, with pauses in which receipts are read.
async fn pause(rng: &mut Rng, meanwhile: impl Future<Output = ()>) {
    if rng.u8(..12) == 0 {
        let length = Duration::from_millis(rng.u64(1..15));
        let meanwhile = async {
            meanwhile.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sleep(length) => {}
            () = meanwhile => {}
        }
    }
}
