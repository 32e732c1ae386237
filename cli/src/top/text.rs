//! Text for cells of a terminal: escaped, measured and cut; numbers, sizes and ages in few columns.

use jiff::{Timestamp, tz::TimeZone};
use unicode_width::UnicodeWidthChar as _;

use hpfeeds::visible::acts_on_a_terminal;

/// The most characters of a text that are looked at: nothing shown is longer.
const LONGEST: usize = 1000;

/// How text is written.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) colour: bool,
    /// Text is UTF-8; ASCII otherwise.
    pub(super) unicode: bool,
    /// The zone of times of the day.
    pub(super) zone: TimeZone,
}

impl Look {
    /// Text from the network as it may stand in a cell: on one line, each character one or two columns
    /// wide. Controls and what is invisible, reorders text or joins with its neighbour is escaped as
    /// Rust writes it; without UTF-8 everything but ASCII is.
    pub(super) fn plain(&self, text: &str) -> String {
        let mut plain = String::new();
        for character in text.chars().take(LONGEST) {
            match character {
                '\n' => plain.push_str("\\n"),
                '\r' => plain.push_str("\\r"),
                '\t' => plain.push_str("\\t"),
                ' '..='~' => plain.push(character),
                _ if self.unicode && !acts_on_a_terminal(character) && columns(character) > 0 => plain.push(character),
                _ => plain.extend(character.escape_unicode()),
            }
        }
        plain
    }

    /// Our own text: with the ASCII forms of its symbols, if so wanted.
    pub(super) fn own(&self, text: &str) -> String {
        if self.unicode { text.to_owned() } else { text.replace('·', "|").replace('…', "~").replace('–', "-") }
    }

    /// The text, cut to so many columns; the end of one that is cut shows it.
    pub(super) fn cut(&self, text: &str, room: usize) -> String {
        if width(text) <= room {
            return text.to_owned();
        }
        let mut cut = String::new();
        let mut used = 1;
        for character in text.chars() {
            used += columns(character);
            if used > room {
                break;
            }
            cut.push(character);
        }
        if room > 0 {
            cut.push(if self.unicode { '…' } else { '~' });
        }
        cut
    }

    /// A moment in milliseconds since 1970 as the time of the day.
    pub(super) fn clock(&self, millis: u64) -> String {
        let moment = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        moment.map_or_else(|| "?".to_owned(), |at| at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string())
    }
}

/// The columns that a character takes; none for what joins with another one.
fn columns(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// The columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// A number with commas: `1,204,500`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in at most nine columns: `9,999,999`, `12.3M`.
pub(super) fn short(value: u64) -> String {
    if value < 10_000_000 { number(value) } else { scaled(value, 1000, ["", "k", "M", "G", "T", "P", "E"]) }
}

/// A number of bytes: `512 B`, `1.2 MiB`.
pub(super) fn bytes(value: u64) -> String {
    scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// Three digits or four, and the unit.
fn scaled(value: u64, step: u64, units: [&str; 7]) -> String {
    let (mut whole, mut rest, mut at) = (value, 0, 0);
    while whole >= step && at + 1 < units.len() {
        (whole, rest, at) = (whole / step, whole % step, at + 1);
    }
    if at == 0 || whole >= 100 {
        format!("{whole}{}", units[at])
    } else {
        format!("{whole}.{}{}", rest * 10 / step, units[at])
    }
}

/// A rate: `3,412`, `0.4`.
pub(super) fn rate(rate: f64) -> String {
    if rate.is_nan() || rate < 0.05 {
        "0".to_owned()
    } else if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        short(whole(rate))
    }
}

/// The whole part of a number that is not negative.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` takes the nearest there is")]
pub(super) fn whole(number: f64) -> u64 {
    number as u64
}

/// A time in seconds: `4 s`, `12 min`, `3 h`, `2 d`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A long time in seconds, more exactly: `3 d 4 h`, `4 h 12 min`.
pub(super) fn long_span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => span(seconds),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(unicode: bool) -> Look {
        Look { colour: false, unicode, zone: TimeZone::UTC }
    }

    #[test]
    fn hostile_text_moves_no_cursor_and_hides_nothing() {
        let hostile = "a\u{1b}[2J\n\u{9b}\u{202e}b\u{200b}\u{200d}\u{feff}c\u{301}\u{e0041}日";
        let shown = look(true).plain(hostile);
        assert_eq!(
            shown, r"a\u{1b}[2J\n\u{9b}\u{202e}b\u{200b}\u{200d}\u{feff}c\u{301}\u{e0041}日",
            "what is not to be seen is written out"
        );
        assert!(shown.chars().all(|character| columns(character) > 0));
        assert_eq!(look(false).plain("sensör-日"), r"sens\u{f6}r-\u{65e5}");
        assert_eq!(look(true).plain(&"x".repeat(5000)).len(), LONGEST);
    }

    #[test]
    fn text_is_cut_at_columns_and_not_within_a_character() {
        let look = look(true);
        assert_eq!((look.cut("sensor", 6), look.cut("sensor", 5)), ("sensor".to_owned(), "sens…".to_owned()));
        assert_eq!((look.cut("日本語", 5), look.cut("日本語", 4)), ("日本…".to_owned(), "日…".to_owned()));
        assert_eq!((look.cut("日", 1), look.cut("日", 0)), ("…".to_owned(), String::new()));
        assert_eq!(super::tests::look(false).cut("sensor", 5), "sens~");
        assert_eq!((width("日本"), width("a·b")), (4, 3));
    }

    #[test]
    fn numbers_have_the_unit_that_suits_them() {
        for (value, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_204_500, "1,204,500")] {
            assert_eq!(number(value), expected);
        }
        for (value, expected) in [(9_999_999, "9,999,999"), (12_345_678, "12.3M"), (u64::MAX, "18.4E")] {
            assert_eq!(short(value), expected);
        }
        for (value, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_300_000, "1.2 MiB"), (u64::MAX, "15.9 EiB")]
        {
            assert_eq!(bytes(value), expected);
        }
        for (value, expected) in
            [(0.0, "0"), (0.42, "0.4"), (9.94, "9.9"), (3412.7, "3,412"), (f64::NAN, "0"), (f64::INFINITY, "18.4E")]
        {
            assert_eq!(rate(value), expected);
        }
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        for (seconds, expected) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(span(seconds), expected);
        }
        for (seconds, expected) in
            [(59, "59 s"), (3_599, "59 min"), (15_120, "4 h 12 min"), (273_600, "3 d 4 h"), (86_400, "1 d 0 h")]
        {
            assert_eq!(long_span(seconds), expected);
        }
        assert_eq!(look(true).clock(1_000_000_000_000), "01:46:40");
        assert_eq!(look(true).clock(u64::MAX), "?");
    }
}
