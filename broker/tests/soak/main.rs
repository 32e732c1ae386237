//! A broker under everything at once, for as long as one likes: `scripts/soak MINUTES`.
//!
//! It runs in rounds: load, then silence. When it is silent, what the exporter has counted is compared with what the
//! clients themselves know (see `ledger.rs`), and what the process holds is noted. At the end it must hold no more than
//! it did after the warm-up (see `growth.rs`).
#![allow(clippy::unwrap_used, reason = "a panic is how it fails")]

mod flows;
mod growth;
mod ledger;
mod noise;
mod process;
#[path = "../support/scrape.rs"]
#[allow(clippy::duplicate_mod, reason = "each test binary has its own")]
mod scrape;
#[path = "../../../tests/support/skip.rs"]
mod skip;
#[path = "../support/mod.rs"]
mod support;
mod vanish;
mod witness;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    growth::Growth,
    ledger::{Counted, Ledger},
    process::Process,
    skip::skip,
    witness::Witness,
};

/// How long the load of a round lasts, and its last clients after that at most.
const LOAD: Duration = Duration::from_secs(6);
const LAST_CLIENTS: Duration = Duration::from_secs(90);

/// How long the broker may take to notice that everybody has gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Every so many rounds, subscribers vanish while they are published to. Only the broker knows what they were to
/// get, so in such a round the sums have bounds; in all others they are exact.
const RACING: usize = 3;

/// The ledger that all clients share.
struct Context {
    process: Process,
    ledger: Ledger,
    /// Subscribers may vanish in the middle.
    racing: AtomicBool,
    until: Mutex<Instant>,
    /// When the next message may be published.
    slot: Mutex<Instant>,
    /// The time from one message to the next.
    gap: Duration,
}

impl Context {
    async fn is_over(&self) -> bool {
        Instant::now() >= *self.until.lock().await
    }

    fn racing(&self) -> bool {
        self.racing.load(Relaxed)
    }

    /// Waits until so many messages may be published: all clients together keep to one rate.
    async fn pace(&self, messages: u32) {
        let at = {
            let mut slot = self.slot.lock().await;
            let at = (*slot).max(Instant::now());
            *slot = at + self.gap * messages;
            at
        };
        sleep_until(at).await;
    }
}

fn main() {
    if let Ok(orders) = env::var(vanish::CHILD) {
        return vanish::child(&orders);
    }
    let Some(length) = setting("HPFEEDS_SOAK_SECONDS") else {
        return skip("HPFEEDS_SOAK_SECONDS is not set (scripts/soak MINUTES sets it)");
    };
    let rate = setting("HPFEEDS_SOAK_RATE").unwrap_or(2000.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(soak(Duration::from_secs_f64(length), rate));
}

fn setting(name: &str) -> Option<f64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

async fn soak(length: Duration, rate: f64) {
    let started = Instant::now();
    let context = Arc::new(Context {
        process: Process::start().await,
        ledger: Ledger::default(),
        racing: AtomicBool::new(false),
        until: Mutex::new(started),
        slot: Mutex::new(started),
        gap: Duration::from_secs_f64(1.0 / rate),
    });
    let mut witness = Witness::start(&context.process).await;
    let mut growth = Growth::default();
    let mut before = Counted::default();
    let mut totals = ledger::Totals::default();
    let mut round = 0;
    while round < 3 || started.elapsed() < length {
        round += 1;
        let racing = round % RACING == 0;
        context.racing.store(racing, Relaxed);
        *context.until.lock().await = Instant::now() + LOAD;
        load(&context).await;
        let counted = silence(&context, &witness).await;
        let result = context.ledger.settle(&counted, &before, &witness.take());
        growth.note(&counted, context.process.threads());
        println!("{:5} s  {}  {}", started.elapsed().as_secs(), result, growth);
        totals.add(&result);
        before = counted;
    }
    witness.close().await;
    growth.check();
    println!("{totals}\n{}", growth.report());
    Arc::into_inner(context).expect("nobody else").process.stop().await;
    println!("soaked for {} s: nothing is lost, and nothing has grown", started.elapsed().as_secs());
}

/// Everybody at once, until the time is over and the last has gone.
async fn load(context: &Arc<Context>) {
    let mut clients = JoinSet::new();
    for slot in 0..process::FLOWS {
        clients.spawn(flows::raw(context.clone(), slot));
    }
    clients.spawn(flows::session(context.clone(), "session", false));
    clients.spawn(flows::session(context.clone(), "tls", true));
    clients.spawn(flows::slow(context.clone()));
    clients.spawn(flows::stuck(context.clone()));
    for way in vanish::Way::ALL {
        clients.spawn(vanish::subscriber(context.clone(), way));
        clients.spawn(vanish::publisher(context.clone(), way));
    }
    clients.spawn(vanish::killed(context.clone()));
    clients.spawn(noise::strangers(context.clone()));
    clients.spawn(noise::denied(context.clone()));
    clients.spawn(noise::scraper(context.clone()));
    clients.spawn(noise::keys(context.clone()));
    clients.spawn(noise::certificates(context.clone()));
    let all = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(cause) = ended {
                panic!("a client failed: {cause}\n{}", context.process.log());
            }
        }
    };
    timeout(LOAD + LAST_CLIENTS, all).await.expect("some client hangs");
}

/// Waits until the broker knows that all but the witness have gone, and the witness has heard everything.
async fn silence(context: &Context, witness: &Witness) -> Counted {
    let quiet = async {
        loop {
            let exposed = context.process.scrape().await;
            let value = |name: &str| exposed.sum(name).unwrap();
            let open = value("hpfeeds_broker_client_connections") - 1.0;
            let busy = value("hpfeeds_broker_queued_bytes") + value("hpfeeds_broker_stalled_publishers");
            let counted = Counted::read(&exposed);
            if open + busy == 0.0 && counted.received == witness.heard() {
                return counted;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    if let Ok(counted) = timeout(SILENCE, quiet).await {
        return counted;
    }
    let (heard, counted) = (witness.heard(), Counted::read(&context.process.scrape().await));
    panic!("it does not go quiet: the witness has heard {heard} of {counted:?}\n{}", context.process.log());
}
