//! What holds for whatever comes, tried with cases that are made up: the same ones each time, so that nobody meets a
//! failure that others do not see. `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more, or others.

use std::env;

use proptest::test_runner::{Config, RngSeed};

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
