//! Parsers of command-line values: sizes, times, counts and names, with the tool's own bounds on
//! them.

use std::{num::NonZeroU64, time::Duration};

use hpfeeds::{units, wire::NameError};

/// A hundred years, the longest time: a clock that adds more to its own time can overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Reads a time in seconds that is not zero; more than a hundred years count as a hundred years.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    match units::seconds(text)? {
        Duration::ZERO => Err("no time at all: give seconds, such as 10 or 0.5"),
        time => Ok(time.min(FOREVER)),
    }
}

/// Reads the size in bytes of a message, at least 1.
pub(crate) fn size(text: &str) -> Result<u32, &'static str> {
    match units::message_size(text)? {
        0 => Err("no size at all: give at least 1 byte"),
        bytes => Ok(bytes),
    }
}

/// Reads a number of bytes, at least 1.
pub(crate) fn bytes(text: &str) -> Result<u64, &'static str> {
    match units::size(text)? {
        0 => Err("no size at all: give at least 1 byte"),
        bytes => Ok(bytes),
    }
}

/// Reads a number of messages, at least 1.
pub(crate) fn count(text: &str) -> Result<NonZeroU64, &'static str> {
    let count: u64 = text.parse().map_err(|_| "not a number of messages such as 10")?;
    NonZeroU64::new(count).ok_or("no message at all: give at least 1, or leave it out to receive without end")
}

/// Reads a number of events in a second: from one in a hundred seconds to a thousand.
#[cfg(feature = "demo")]
pub(crate) fn rate(text: &str) -> Result<f64, &'static str> {
    let rate: f64 = text.parse().map_err(|_| "not a number of events a second such as 4 or 0.5")?;
    if (0.01..=1000.0).contains(&rate) { Ok(rate) } else { Err("not between 0.01 and 1000 events a second") }
}

/// Reads a name of 1 to 255 bytes. An empty one counts as not given, and is reported as missing.
pub(crate) fn name(text: &str) -> Result<String, NameError> {
    match text {
        "" => Ok(String::new()),
        _ => hpfeeds::Ident::new(text).map(String::from),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn zero_and_too_large_values_are_errors_that_say_so() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("0"), Err("no size at all: give at least 1 byte"));
        assert_eq!(size("4G"), Err("too large: a frame holds less than 4G"));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("0"), Err("no time at all: give seconds, such as 10 or 0.5"));
        // A deadline adds it to the time of now.
        assert_eq!(seconds("1e19"), Ok(FOREVER));
        assert!(std::time::Instant::now().checked_add(FOREVER).is_some());
        assert!(count("0").is_err_and(|words| words.starts_with("no message at all: give at least 1")));
    }
}
