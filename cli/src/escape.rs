//! Text from the network, made safe to show: no byte of it can move the cursor, change colours or
//! reorder a line.

use std::{
    fmt::{self, Write as _},
    io,
};

use hpfeeds::visible::acts_on_a_terminal;

/// Shows bytes as text on one line. Characters that a terminal would act on are escaped as Rust
/// writes it (`\n`, `\u{1b}`), and so are bytes that are not UTF-8 (`\xff`). Backslashes stay as
/// they are: JSON remains JSON.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(at) = rest.find(acts_on_a_terminal) {
                f.write_str(&rest[..at])?;
                let mut characters = rest[at..].chars();
                if let Some(character) = characters.next() {
                    escape(f, character)?;
                }
                rest = characters.as_str();
            }
            f.write_str(rest)?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn escape(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        _ => character.escape_unicode().try_for_each(|part| f.write_char(part)),
    }
}

/// Writes JSON, or a part of it, as it stands, but for characters that a terminal would act on: those
/// as JSON escapes them (`\u009b`). They can only be in strings.
pub(crate) fn write_json(to: &mut (impl io::Write + ?Sized), json: &str) -> io::Result<()> {
    let mut rest = json;
    while let Some(at) = rest.find(acts_on_a_terminal) {
        let (plain, behind) = rest.split_at(at);
        to.write_all(plain.as_bytes())?;
        let mut characters = behind.chars();
        if let Some(character) = characters.next() {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
        }
        rest = characters.as_str();
    }
    to.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        Escaped(bytes).to_string()
    }

    #[test]
    fn readable_text_stays_as_it_is() {
        let text = r#"{"a": "b\\n", "ü": "日本 👩‍💻"}"#;
        assert_eq!(escaped(text.as_bytes()), text);
    }

    #[test]
    fn bytes_that_a_terminal_acts_on_are_escaped() {
        assert_eq!(escaped(b"\x1b[2J\r\n\t\x00\x7f"), r"\u{1b}[2J\r\n\t\u{0}\u{7f}");
        assert_eq!(escaped("\u{9b}31m\u{202e}\u{2028}".as_bytes()), r"\u{9b}31m\u{202e}\u{2028}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_escaped_one_by_one() {
        assert_eq!(escaped(b"a\xff\xc3\xbc\xc3"), r"a\xffü\xc3");
        // A raw C1 control.
        assert_eq!(escaped(b"\x9b"), r"\x9b");
    }
}
