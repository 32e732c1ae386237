//! Sessions with a spool in random weather: brokers that go and come and acknowledge as they like,
//! programs that are killed, small queues.
//!
//! `HPFEEDS_SPOOL_SEEDS` asks for more.

use std::{collections::BTreeSet, env, time::Duration};

use hpfeeds::{Backoff, ClientSession, Limits};
use tokio::time::{Instant, sleep, timeout};

use super::broker::Broker;
use crate::{
    sim_disk::{Random, SimDisk},
    support::small,
};

/// The time that a message may take to be on disk.
const AFTER: Duration = Duration::from_millis(1010);

fn start(broker: &Broker, disk: &SimDisk) -> ClientSession {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let spool = small(disk).max_bytes(64 << 20);
    broker.session().limits(Limits::new(4000)).send_queue(32 << 10).backoff(backoff).spool(spool).start().unwrap()
}

async fn weather(seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let (broker, mut disk) = (Broker::new(), SimDisk::new(seed));
    broker.set_pipe([2, 8, 64][usize::try_from(random.below(3)).unwrap()] << 10);
    let mut session = start(&broker, &disk);
    let (mut number, mut accepted) = (0_u32, Vec::<(u32, Instant)>::new());
    let mut may_be_lost = BTreeSet::new();
    for _ in 0..60 {
        match random.below(11) {
            0..5 => {
                for _ in 0..random.below(80) {
                    let text = format!("{number} {}", "x".repeat(usize::try_from(random.below(1500)).unwrap()));
                    let published = timeout(Duration::from_secs(600), session.publish("c", text)).await;
                    published.map_err(|_| format!("{number} waits for ever: {:?}", session.stats()))?.unwrap();
                    accepted.push((number, Instant::now()));
                    number += 1;
                }
            }
            5 | 6 => sleep(Duration::from_millis(random.below(3000))).await,
            10 => {
                let stalls = random.below(2) == 0;
                broker.set(|settings| settings.stalls = stalls);
            }
            7 => {
                let after = [Some(0), Some(0), Some(300), Some(1500), None][usize::try_from(random.below(5)).unwrap()];
                broker.set(|settings| settings.ack_after = after.map(Duration::from_millis));
            }
            8 => {
                let is_up = random.below(2) == 0;
                broker.kill(!is_up);
            }
            _ if random.below(3) == 0 => {
                let image = if random.below(2) == 0 { disk.kill() } else { disk.crash(random.next()) };
                drop(session);
                let young = accepted.iter().rev().take_while(|(_, at)| at.elapsed() < AFTER);
                may_be_lost.extend(young.map(|(number, _)| *number));
                disk = image;
                session = start(&broker, &disk);
            }
            _ => broker.set(|settings| settings.down = false),
        }
    }
    broker.set(|settings| (settings.down, settings.stalls) = (false, false));
    broker.set(|settings| settings.ack_after = Some(Duration::ZERO));
    broker.kill(false);
    let flushed = timeout(Duration::from_secs(600), session.flush()).await;
    flushed.map_err(|_| format!("it is never confirmed: {:?}", session.stats()))?.unwrap();
    // Messages of earlier programs are none of the flush's.
    sleep(Duration::from_secs(60)).await;
    let (texts, repeats) = broker.unique();
    let texts: Vec<u32> = texts.iter().map(|text| text.parse().unwrap()).collect();
    // What a killed program had sent and not stored may still be on its way when the next one sends.
    let kept: Vec<u32> = texts.iter().copied().filter(|number| !may_be_lost.contains(number)).collect();
    if let Some((after, before)) = kept.iter().zip(kept.iter().skip(1)).find(|(one, next)| one > next) {
        return Err(format!("{before} comes after {after}"));
    }
    if let Some(lost) = (0..number).find(|number| !may_be_lost.contains(number) && kept.binary_search(number).is_err())
    {
        return Err(format!("{lost} of {number} is lost"));
    }
    if repeats > 0 {
        return Err(format!("{repeats} repeats, and the broker never forgot"));
    }
    let stats = session.stats();
    if (stats.spooled, stats.queued, stats.lost) != (0, 0, 0) || disk.files().keys().any(|name| name.contains(".seg")) {
        return Err(format!("something is left: {stats:?}"));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn random_weather_costs_at_most_what_is_younger_than_after_and_nothing_comes_twice() {
    let seeds = env::var("HPFEEDS_SPOOL_SEEDS").map_or(60, |text| text.parse().expect("a number"));
    let first = env::var("HPFEEDS_SPOOL_FIRST").map_or(0, |text| text.parse().expect("a number"));
    for seed in first..first + seeds {
        weather(seed).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}
