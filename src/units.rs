//! Sizes and times as people write them: one parser for the command lines of both programs.
//!
//! Not part of the library's interface; it may change at any time.

use std::time::Duration;

/// Reads a size in bytes: a whole number with an optional k, M or G (1024 each, in either case),
/// after which B or iB may stand, as in `65536`, `64k`, `10M` or `1GiB`. Zero is a size.
///
/// The error has no value in it and ends without a full stop, for a command-line parser that names
/// both.
pub fn size(text: &str) -> Result<u64, &'static str> {
    const WANTED: &str = "not a size such as 65536, 64k, 10M or 1GiB";
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_start_matches(|char: char| char.is_ascii_digit());
    let shift = match number {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(WANTED),
    };
    let digits = &lower[..lower.len() - number.len()];
    if digits.is_empty() {
        return Err(WANTED);
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or("too large")
}

/// Reads the size in bytes of a message, which must fit a frame: less than 4 GiB. Zero is a size.
pub fn message_size(text: &str) -> Result<u32, &'static str> {
    u32::try_from(size(text)?).map_err(|_| "too large: a frame holds less than 4G")
}

/// Reads a number of seconds, such as `10` or `0.5`. Zero is a time. Everything longer than a
/// [`Duration`] can be is an error; so is a negative number.
pub fn seconds(text: &str) -> Result<Duration, &'static str> {
    const WANTED: &str = "not a number of seconds such as 10 or 0.5";
    let number: f64 = text.parse().map_err(|_| WANTED)?;
    if number.is_nan() || number < 0.0 {
        return Err(WANTED);
    }
    Duration::try_from_secs_f64(number).map_err(|_| "too long: at most 1e19 seconds")
}

/// Reads a whole number of seconds, or of minutes, hours or days with a letter: `3600`, `30m`, `12h`,
/// `7d`. Zero is a time.
pub fn period(text: &str) -> Result<Duration, &'static str> {
    let (digits, seconds) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 24 * 3600),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "not a time such as 3600, 30m, 12h or 7d")?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or("too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_end_in_a_unit_of_1024_in_either_case() {
        let cases = [
            ("0", 0),
            ("17", 17),
            ("1B", 1),
            ("64k", 65536),
            ("1K", 1024),
            ("1KB", 1024),
            ("10m", 10 << 20),
            ("10MiB", 10 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("1gb", 1 << 30),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "B", "-1", "+1", "1.5M", "1T", "1 M", "1é", "é", "1i", "1KK", "1BB", "1iB"] {
            assert_eq!(size(text), Err("not a size such as 65536, 64k, 10M or 1GiB"), "{text}");
        }
        for text in ["99999999999999999999", "99999999999999G"] {
            assert_eq!(size(text), Err("too large"), "{text}");
        }
    }

    #[test]
    fn messages_are_shorter_than_4_gib() {
        assert_eq!(message_size("10m"), Ok(10 << 20));
        assert_eq!(message_size("4294967295"), Ok(u32::MAX));
        assert_eq!(message_size("4G"), Err("too large: a frame holds less than 4G"));
        assert_eq!(message_size("ten"), size("ten").map(|_| 0));
    }

    #[test]
    fn periods_end_in_a_letter_or_are_seconds() {
        for (text, seconds) in [("0", 0), ("17", 17), ("17s", 17), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(period(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "1.5h", "-1", "1w", "1é"] {
            assert_eq!(period(text), Err("not a time such as 3600, 30m, 12h or 7d"), "{text}");
        }
        assert_eq!(period("99999999999999999d"), Err("too long"));
    }

    #[test]
    fn times_are_seconds_and_too_long_ones_are_errors_that_say_so() {
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("1e19"), Ok(Duration::from_secs(10_000_000_000_000_000_000)));
        for text in ["", "-1", "-inf", "1s", "NaN", "soon"] {
            assert_eq!(seconds(text), Err("not a number of seconds such as 10 or 0.5"), "{text}");
        }
        for text in ["1e300", "inf"] {
            assert_eq!(seconds(text), Err("too long: at most 1e19 seconds"), "{text}");
        }
    }
}
