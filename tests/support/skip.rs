//! Skipping of a test that cannot be run on this machine.

use std::{
    env,
    io::{self, Write as _},
};

/// The test is skipped, as this is missing: it returns after this call. With `HPFEEDS_TEST_REQUIRE` that is a failure.
///
/// Not with `eprintln!`, of which nothing is seen when a test passes.
#[track_caller]
pub(crate) fn skip(missing: &str) {
    assert!(env::var_os("HPFEEDS_TEST_REQUIRE").is_none(), "HPFEEDS_TEST_REQUIRE lets no test be skipped: {missing}");
    let _ = writeln!(io::stderr(), "skipped: {missing}");
}
