//! What holds for whatever comes, tried with cases that are made up: the same ones each time, so that nobody meets a
//! failure that others do not see. `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more, or others.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acl;
mod rate;
mod scan;

use std::env;

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed},
};

pub(crate) fn cases(number: u32) -> Config {
    let mut config = Config::default();
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = number;
    }
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(0x0068_7066_6565_6473);
    }
    // What fails is printed at its smallest, and becomes a test.
    config.failure_persistence = None;
    config
}

/// The letters of names that show all that patterns can: nothing else has a meaning.
const LETTERS: [char; 3] = ['a', '.', '*'];

/// A channel or pattern of a few of these.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&LETTERS[..]), 1..6).prop_map(String::from_iter)
}

/// Every name of up to so many of these letters, and so every channel that texts of fewer can tell apart.
fn names(longest: usize) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut start = 0;
    for _ in 0..longest {
        let end = names.len();
        for at in start..end {
            names.extend(LETTERS.iter().map(|letter| format!("{}{letter}", names[at])).collect::<Vec<_>>());
        }
        start = end;
    }
    names.split_off(1)
}

/// Whether a text stands for a channel, in the words of [`Pattern`](hpfeeds::wire::Pattern)'s documentation.
fn stands_for(text: &str, channel: &str) -> bool {
    let below = |prefix: &str| channel.starts_with(prefix) && channel != prefix;
    text == "*"
        || text == channel
        || text.strip_suffix('*').is_some_and(|prefix| prefix.ends_with('.') && below(prefix))
}
