//! Words for times, sizes, names and commands, the same in all actions.

use std::time::Duration;

use crate::escape::Escaped;

/// The most characters of a text from the network that are shown.
const MAX_SHOWN: usize = 200;

/// A time as people say it: `<1 ms`, `21 ms`, `1.5 s`, `2 min`.
pub(crate) fn time(time: Duration) -> String {
    match time.as_millis() {
        0 => "<1 ms".to_owned(),
        millis @ 1..1000 => format!("{millis} ms"),
        1000..120_000 => {
            let text = format!("{:.1}", time.as_secs_f64());
            format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
        }
        _ => format!("{} min", time.as_secs() / 60),
    }
}

/// A long time in the past or future: `3 hours`, `6 days`.
pub(crate) fn days(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A size in bytes: `24 B`, `64 KiB`, `1 MiB`, or exact where it is no whole number of them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

/// A text from the network, on one line, escaped and at most 200 characters long.
pub(crate) fn shown(text: &[u8]) -> String {
    let escaped = Escaped(text.get(..4 * MAX_SHOWN).unwrap_or(text)).to_string();
    match escaped.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &escaped[..at]),
        None => escaped,
    }
}

/// A name as a word of a shell command, quoted where that is needed. Characters that a terminal
/// would act on are escaped, so that such a name has to be typed otherwise.
pub(crate) fn word(name: &str) -> String {
    let name = shown(name.as_bytes());
    let plain = |char: char| char.is_ascii_alphanumeric() || "._-@%+=:,/".contains(char);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        name
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

/// The same, unless the name is cut or escaped: then it would be another one.
#[cfg(feature = "top")]
pub(crate) fn exact_word(name: &str) -> Option<String> {
    (shown(name.as_bytes()) == name).then(|| word(name))
}

/// A command, which is not broken into several lines.
pub(crate) fn command(words: &[&str]) -> String {
    words.join(" ").replace(' ', "\u{a0}")
}

/// The command of `hpfeeds-broker keys` for a key.
pub(crate) fn keys(action: &str, ident: &str, more: &[&str]) -> String {
    let ident = word(ident);
    let words: Vec<_> = ["hpfeeds-broker", "keys", action, &ident].into_iter().chain(more.iter().copied()).collect();
    command(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        for (millis, expected) in [
            (0, "<1 ms"),
            (1, "1 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1540, "1.5 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), expected);
        }
        for (seconds, expected) in [(59, "0 min"), (7_199, "119 min"), (7_200, "2 hours"), (172_800, "2 days")] {
            assert_eq!(days(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, expected) in
            [(24, "24 B"), (1024, "1 KiB"), (1025, "1025 B"), (65_536, "64 KiB"), (1 << 20, "1 MiB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn texts_from_the_network_are_escaped_and_cut() {
        assert_eq!(shown("\u{1b}[2J\u{202e}\n\u{9b}ü".as_bytes()), r"\u{1b}[2J\u{202e}\n\u{9b}ü");
        let long = shown(&vec![0xff; 1 << 20]);
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
        assert!(long.starts_with(r"\xff\xff"));
    }

    #[test]
    fn names_in_commands_are_quoted_where_a_shell_needs_it() {
        for (name, expected) in [
            ("sensor-17", "sensor-17"),
            ("", "''"),
            ("-x", "'-x'"),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", r"'it'\''s'"),
            ("a\nb", r"'a\nb'"),
        ] {
            assert_eq!(word(name), expected);
        }
        assert_eq!(keys("show", "a b", &[]), "hpfeeds-broker\u{a0}keys\u{a0}show\u{a0}'a\u{a0}b'");
    }
}
