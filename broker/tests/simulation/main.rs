//! Simulations: the real broker and real sessions over a simulated network, in virtual time. Everything that happens
//! follows from a seed.
//!
//! `HPFEEDS_SIM_SEED=7` runs that seed alone, twice, and says what it came to; `HPFEEDS_SIM_SEEDS=20000` runs so many. See
//! `docs/dev/testing.md`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod actors;
mod checks;
mod extension;
#[path = "../support/extension.rs"]
mod extension_client;
mod net;
mod record;
mod scenario;
mod stream;
#[path = "../support/mod.rs"]
mod support;
mod tap;
mod world;

use std::{
    env, panic,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use world::{PANICS, Summary, run};

/// How many are run by default.
const SEEDS: u64 = 1000;

/// How many are run twice.
const TWICE: u64 = 20;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Tokio catches the panics of tasks: they are counted where they happen.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

fn replay(seed: u64) -> String {
    format!("HPFEEDS_SIM_SEED={seed} cargo test -p hpfeeds-broker --test simulation")
}

#[test]
fn nothing_is_lost_and_no_one_let_in() {
    count_panics();
    if let Some(seed) = number("HPFEEDS_SIM_SEED") {
        let (first, second) = (run(seed), run(seed));
        println!("{:#?}\n{first:#?}", scenario::Scenario::new(seed));
        assert_eq!(first, second, "the same seed must lead to the same");
        assert!(first.is_ok(), "see above; replay: {}", replay(seed));
        return;
    }
    let (seeds, begun) = (number("HPFEEDS_SIM_SEEDS").unwrap_or(SEEDS), Instant::now());
    let (next, failed, total) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Summary::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            // Seeds that fail later will fail again.
            if seed >= seeds || failed.lock().unwrap().len() >= 10 {
                return;
            }
            match run(seed) {
                Ok(summary) => total.lock().unwrap().add(&summary),
                Err(fault) => failed.lock().unwrap().push((seed, fault)),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    println!("{seeds} seeds in {:?}: {:?}", begun.elapsed(), total.into_inner().unwrap());
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    for (seed, fault) in &failed {
        println!("seed {seed} fails:\n    {fault}\n  replay: {}", replay(*seed));
    }
    assert!(failed.is_empty(), "{} seeds fail, see above", failed.len());
}

#[test]
fn the_same_seed_leads_to_the_same() {
    count_panics();
    if number("HPFEEDS_SIM_SEED").is_some() {
        return;
    }
    let first: Vec<_> = (0..TWICE).map(run).collect();
    for (seed, first) in first.into_iter().enumerate() {
        assert_eq!(first, run(seed as u64), "seed {seed}");
    }
}
