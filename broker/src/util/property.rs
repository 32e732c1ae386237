//! Configuration of property tests: the same cases each time, so that a failure is one for
//! everybody. `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more, or for others.

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
    // A failing case is printed at its smallest, and becomes a test.
    config.failure_persistence = None;
    config
}
