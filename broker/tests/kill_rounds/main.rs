//! SIGKILL in turn, of a sensor's process and of a broker's, with real files: `scripts/kill-rounds`.
//!
//! The sensor publishes numbered events through a session with a spool, and prints what became of them. A collector
//! stays and counts numbers. At the end the sums must agree (see `ledger.rs`). All moments come from one seed, which is
//! printed.
#![allow(clippy::unwrap_used, reason = "a panic is how it fails")]

mod broker;
mod chain;
mod check;
mod collector;
mod disk;
mod event;
mod ledger;
mod sensor;
#[path = "../../../tests/support/skip.rs"]
mod skip;
mod victim;

use std::{env, path::Path, process::ExitCode, time::Duration};

use fastrand::Rng;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::{
    broker::Broker,
    collector::Collector,
    event::Moment,
    ledger::Ledger,
    sensor::{Mode, Orders},
    skip::skip,
    victim::Sensor,
};

/// The rounds between two lines that tell how far it is.
const REPORT: usize = 50;

/// How long the last sensor may take to deliver what is left.
const DRAIN: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if let Ok(orders) = env::var(sensor::CHILD) {
        sensor::run(&orders);
        return ExitCode::SUCCESS;
    }
    if chain::is_part() {
        return ExitCode::SUCCESS;
    }
    let Some(rounds) = setting("HPFEEDS_KILL_ROUNDS") else {
        skip("HPFEEDS_KILL_ROUNDS is not set (scripts/kill-rounds ROUNDS sets it)");
        return ExitCode::SUCCESS;
    };
    let seed = setting("HPFEEDS_KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{rounds} rounds with the seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept(Some(folder));
    let (rounds, rng) = (usize::try_from(rounds).unwrap(), Rng::with_seed(seed));
    let result = if env::var_os("HPFEEDS_KILL_CHAIN").is_some() {
        runtime.block_on(chain::kill(rounds, rng, kept.path()))
    } else {
        runtime.block_on(kill(rounds, rng, kept.path()))
    };
    if let Err(fault) = result {
        println!("with the seed {seed}: {fault}");
        return ExitCode::FAILURE;
    }
    kept.remove();
    ExitCode::SUCCESS
}

fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

/// The folder of spool and logs, which stays when a check fails.
struct Kept(Option<TempDir>);

impl Kept {
    fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }

    fn remove(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take() {
            eprintln!("spool and logs are kept in {}", folder.keep().display());
        }
    }
}

async fn kill(rounds: usize, mut rng: Rng, folder: &Path) -> Result<(), String> {
    let started = Instant::now();
    let mut ledger = Ledger::default();
    let mut mark = ledger.began_broker(Moment::now());
    let mut broker = Broker::start(folder, 0).await;
    let mut collector = Collector::start(broker.addr());
    collector.hears(broker.addr(), mark).await;
    let mut sensor = start_sensor(&mut rng, &mut ledger, folder, &broker).await;
    for round in 1..=rounds {
        // Mostly while everything is under way; now and then when most is older than all that may be lost.
        let long = rng.u8(..8) == 0;
        sleep(if long { millis(&mut rng, 1500, 2500) } else { millis(&mut rng, 5, 120) }).await;
        if round % 2 == 1 {
            sensor.kill(&mut ledger).await;
            sleep(millis(&mut rng, 0, 30)).await;
            sensor = start_sensor(&mut rng, &mut ledger, folder, &broker).await;
        } else {
            ledger.killed_broker(broker.kill().await);
            sleep(if long { millis(&mut rng, 1000, 3000) } else { millis(&mut rng, 0, 100) }).await;
            if long {
                // It dies, and starts, while there is no broker.
                sensor.kill(&mut ledger).await;
                sensor = start_sensor(&mut rng, &mut ledger, folder, &broker).await;
                sleep(millis(&mut rng, 0, 500)).await;
            }
            // The collector is to be there first: what nobody has subscribed to is routed to nobody.
            sensor.stop();
            mark = ledger.began_broker(Moment::now());
            broker = Broker::start(folder, broker.addr().port()).await;
            collector.hears(broker.addr(), mark).await;
            sensor.go_on();
        }
        if round % REPORT == 0 {
            ledger.hear(collector.take());
            println!("{round:5} rounds, {:4} s: {ledger}", started.elapsed().as_secs());
        }
    }
    sensor.drain(&mut ledger, DRAIN).await;
    collector.hears(broker.addr(), mark + 1).await;
    ledger.hear(collector.take());
    broker.kill().await;
    println!("{ledger}");
    check::check(&ledger)?;
    println!("{rounds} rounds in {} s: the sums agree", started.elapsed().as_secs());
    Ok(())
}

async fn start_sensor(rng: &mut Rng, ledger: &mut Ledger, folder: &Path, broker: &Broker) -> Sensor {
    let mode = match rng.u8(..4) {
        0 | 1 => Mode::WriteThrough,
        2 => Mode::After(Duration::from_millis(20)),
        _ => Mode::After(Duration::from_millis(200)),
    };
    let orders =
        Orders { addr: broker.addr(), folder: folder.join("spool"), mode, first: ledger.free(), seed: rng.u64(..) };
    Sensor::start(orders, ledger).await
}

pub(crate) fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}
