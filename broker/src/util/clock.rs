//! The wall clock: the time since 1970, which may be set and jump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; zero before.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time in milliseconds since 1970.
pub(crate) fn unix_ms() -> i64 {
    i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX)
}

/// The time in seconds since 1970.
pub(crate) fn unix_seconds() -> u32 {
    u32::try_from(since_1970().as_secs()).unwrap_or(u32::MAX)
}
