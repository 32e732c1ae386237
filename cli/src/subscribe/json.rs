//! A scanner of JSON that keeps keys, numbers and their order as they stand: for one value of a
//! payload, and for a layout that people can read.

use std::{
    borrow::Cow,
    io::{self, Write as _},
};

use serde::de::IgnoredAny;

use crate::escape::write_json;

/// Containers this deep, and all in them, stay on one line: 1 MiB of brackets is not to become more
/// than 20 MiB of blanks.
const DEEPEST: usize = 16;

const INDENT: &str = "  ";

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// The text of a payload that is JSON, of any depth and without blanks around it. The other functions
/// of this file take such a text, or a value in it.
pub(crate) fn checked(payload: &[u8]) -> Option<&str> {
    let text = str::from_utf8(payload).ok()?;
    // Without recursion: an attacker decides how deep it is.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    Some(text.trim_matches(BLANKS))
}

/// Whether a value is an object or an array.
pub(crate) fn is_container(value: &str) -> bool {
    value.starts_with(['{', '['])
}

/// The value of a key of an object; of a key that is there twice the last one counts, as for most
/// programs.
pub(crate) fn member<'a>(value: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = value.strip_prefix('{')?;
    let mut found = None;
    loop {
        let (name, behind) = split_token(rest)?;
        if name.kind != Kind::Text {
            return found;
        }
        let (_colon, behind) = split_token(behind)?;
        let (value, behind) = split_value(behind);
        if text(name.text) == key {
            found = Some(value);
        }
        match split_token(behind) {
            Some((token, behind)) if token.kind == Kind::Comma => rest = behind,
            _ => return found,
        }
    }
}

/// The element of an array, counted from 0.
pub(crate) fn element(value: &str, number: usize) -> Option<&str> {
    let mut rest = value.strip_prefix('[')?;
    for _ in 0..number {
        rest = split_token(split_value(rest).1).filter(|(token, _)| token.kind == Kind::Comma)?.1;
    }
    Some(split_value(rest).0).filter(|value| !value.is_empty())
}

/// The text of a value: of a string its characters, of an object or array its JSON on one line, and of
/// the others the characters that they are written with.
pub(crate) fn text(value: &str) -> Cow<'_, str> {
    if let Some(inside) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return match serde_json::from_str(value) {
            Ok(text) if inside.contains('\\') => Cow::Owned(text),
            // A lone surrogate is no character: it stays as it is written.
            _ => Cow::Borrowed(inside),
        };
    }
    if is_container(value) {
        let mut line = Vec::new();
        // Nothing fails in memory.
        drop(write(&mut line, value, Layout::Line));
        return String::from_utf8_lossy(&line).into_owned().into();
    }
    Cow::Borrowed(value)
}

/// A layout of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// On one line, without blanks.
    Line,
    /// A line for each member and element.
    Indented { colour: bool },
}

/// Writes a value. Every key and number is there as it was; characters that a terminal would act on
/// are escaped as JSON does it.
pub(crate) fn write(to: &mut Vec<u8>, value: &str, layout: Layout) -> io::Result<()> {
    let colour = layout == Layout::Indented { colour: true };
    let (mut rest, mut depth, mut is_fresh) = (value, 0_usize, false);
    while let Some((token, behind)) = split_token(rest) {
        rest = behind;
        // Behind the bracket that opens, and before the one that closes something.
        if is_fresh != (token.kind == Kind::Close) {
            let outside = if token.kind == Kind::Close { depth.saturating_sub(1) } else { depth };
            line_break(to, layout, depth, outside);
        }
        is_fresh = token.kind == Kind::Open;
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_key = token.kind == Kind::Text && split_token(rest).is_some_and(|(next, _)| next.kind == Kind::Colon);
        let paint = token.kind.paint(is_key).filter(|_| colour);
        if let Some(paint) = paint {
            write!(to, "\x1b[{paint}m")?;
        }
        write_json(to, token.text)?;
        if paint.is_some() {
            to.write_all(b"\x1b[0m")?;
        }
        match (token.kind, layout) {
            (Kind::Colon, Layout::Indented { .. }) => to.push(b' '),
            (Kind::Comma, Layout::Indented { .. }) if depth > DEEPEST => to.push(b' '),
            (Kind::Comma, _) => line_break(to, layout, depth, depth),
            _ => {}
        }
    }
    Ok(())
}

/// Begins a line in a container of this depth, with so much indentation.
fn line_break(to: &mut Vec<u8>, layout: Layout, depth: usize, indent: usize) {
    if depth <= DEEPEST && layout != Layout::Line {
        to.push(b'\n');
        to.extend(INDENT.bytes().cycle().take(indent * INDENT.len()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    Comma,
    Colon,
    /// A string, with its quotes.
    Text,
    /// A number, true, false or null.
    Other,
}

impl Kind {
    /// The colour, as a terminal knows it.
    fn paint(self, is_key: bool) -> Option<&'static str> {
        match self {
            Self::Text if is_key => Some("36"),
            Self::Text => Some("32"),
            Self::Other => Some("33"),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

/// The first token, and what stands behind it.
fn split_token(text: &str) -> Option<(Token<'_>, &str)> {
    let text = text.trim_start_matches(BLANKS);
    let first = text.bytes().next()?;
    let (kind, end) = match first {
        b'{' | b'[' => (Kind::Open, 1),
        b'}' | b']' => (Kind::Close, 1),
        b',' => (Kind::Comma, 1),
        b':' => (Kind::Colon, 1),
        b'"' => (Kind::Text, end_of_string(text)),
        _ => {
            let is_end = |char| matches!(char, '{' | '[' | '}' | ']' | ',' | ':' | '"') || BLANKS.contains(&char);
            (Kind::Other, text.find(is_end).unwrap_or(text.len()))
        }
    };
    let (token, rest) = text.split_at_checked(end)?;
    Some((Token { kind, text: token }, rest))
}

/// The end of the string that a text begins with, behind its second quote.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The first value, and what stands behind it. Empty where a bracket closes instead.
fn split_value(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(BLANKS);
    let (mut rest, mut depth) = (text, 0_usize);
    while let Some((token, behind)) = split_token(rest) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close if depth == 0 => break,
            Kind::Close => depth -= 1,
            _ => {}
        }
        rest = behind;
        if depth == 0 {
            break;
        }
    }
    text.split_at_checked(text.len() - rest.len()).unwrap_or((text, ""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn laid_out(payload: &str, layout: Layout) -> String {
        let mut written = Vec::new();
        write(&mut written, checked(payload.as_bytes()).unwrap(), layout).unwrap();
        String::from_utf8(written).unwrap()
    }

    fn pretty(payload: &str) -> String {
        laid_out(payload, Layout::Indented { colour: false })
    }

    #[test]
    fn a_payload_is_json_as_a_whole_or_not_at_all() {
        for payload in ["{}", " [1, 2]\r\n", "\"a\"", "1e999", "null", "\t{\"a\":{\"b\":[]}}"] {
            assert_eq!(checked(payload.as_bytes()), Some(payload.trim()), "{payload:?}");
        }
        for payload in ["", " ", "{", "{}{}", "[1,]", "{a:1}", "'a'", "{\"a\":\"\n\"}", "NaN", "\u{feff}{}", "\u{a0}1"]
        {
            assert_eq!(checked(payload.as_bytes()), None, "{payload:?}");
        }
        assert_eq!(checked(b"\"\xff\""), None);
        let deep = "[".repeat(400_000) + &"]".repeat(400_000);
        assert_eq!(checked(deep.as_bytes()), Some(&*deep));
    }

    #[test]
    fn keys_and_numbers_are_shown_as_they_are() {
        let odd = r#"{"b":1.0,"a":123456789012345678901234567890,"a":-0.10e+3,"":{},"c":[],"d":[[1],{"e":null}]}"#;
        let expected = r#"{
  "b": 1.0,
  "a": 123456789012345678901234567890,
  "a": -0.10e+3,
  "": {},
  "c": [],
  "d": [
    [
      1
    ],
    {
      "e": null
    }
  ]
}"#;
        assert_eq!(pretty(odd), expected);
        assert_eq!(pretty(expected), expected);
        assert_eq!(laid_out(expected, Layout::Line), odd);
        assert_eq!(pretty(r#""a\"b{[,:]}\\""#), r#""a\"b{[,:]}\\""#);
    }

    #[test]
    fn characters_that_a_terminal_acts_on_are_escaped_as_json_does_it() {
        let hostile = "{\"\u{9b}31m\": \"\u{202e}\\u001b[2J\u{7f}\u{e0001}\"}";
        let shown = pretty(hostile);
        assert_eq!(shown, "{\n  \"\\u009b31m\": \"\\u202e\\u001b[2J\\u007f\\udb40\\udc01\"\n}");
        let values = [hostile, &shown].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(values[0], values[1]);
    }

    #[test]
    fn colours_stand_around_whole_tokens() {
        let shown = laid_out(r#"{"a":["b",1,true]}"#, Layout::Indented { colour: true });
        let expected = "{\n  \x1b[36m\"a\"\x1b[0m: [\n    \x1b[32m\"b\"\x1b[0m,\n    \x1b[33m1\x1b[0m,\n    \
                        \x1b[33mtrue\x1b[0m\n  ]\n}";
        assert_eq!(shown, expected);
    }

    #[test]
    fn depth_has_its_price_and_no_more() {
        let deep = "[".repeat(300_000) + "1,2" + &"]".repeat(300_000);
        let shown = pretty(&deep);
        assert_eq!(shown.lines().count(), 2 * DEEPEST + 1);
        assert!(shown.len() < 2 * deep.len() && shown.contains("[1, 2]"));
        let wide = "[".repeat(DEEPEST) + &"0,".repeat(100_000) + "0" + &"]".repeat(DEEPEST);
        assert!(pretty(&wide).len() < 20 * wide.len());
    }

    #[test]
    fn a_value_is_found_by_its_key_or_number() {
        let value =
            checked(br#" {"a": {"b": [1, "x\ny", {"c": 7.50}]}, "k\u0065y": 1, "key": "last", "e": []} "#).unwrap();
        let b = member(member(value, "a").unwrap(), "b").unwrap();
        assert_eq!(b, r#"[1, "x\ny", {"c": 7.50}]"#);
        assert_eq!(element(b, 0), Some("1"));
        assert_eq!(element(b, 1).map(text).as_deref(), Some("x\ny"));
        assert_eq!(element(b, 2).and_then(|value| member(value, "c")), Some("7.50"));
        assert_eq!(text(b), r#"[1,"x\ny",{"c":7.50}]"#);
        assert_eq!(member(value, "key").map(text).as_deref(), Some("last"));
        assert_eq!((element(b, 3), member(b, "c"), element(value, 0)), (None, None, None));
        let empty = member(value, "e").unwrap();
        assert_eq!(
            (element(empty, 0), element(empty, 1), member("{}", "a"), member("1", "a")),
            (None, None, None, None)
        );
    }

    #[test]
    fn a_string_without_meaning_stays_as_it_is_written() {
        assert_eq!(text(r#""\ud800""#), r"\ud800");
        assert_eq!(text(r#""""#), "");
        assert_eq!(text("\"\u{fc}\\u00fc\""), "üü");
    }

    /// A random value, with blanks where they may be.
    fn random(random: &mut fastrand::Rng, depth: u32) -> String {
        let blank = |random: &mut fastrand::Rng| " \t\r\n".repeat(random.usize(..2));
        let many = random.usize(..4);
        let value = match random.u32(..if depth == 0 { 5 } else { 7 }) {
            0 => random
                .choice(["0", "-1.50", "1e9", "12345678901234567890123", "true", "false"])
                .unwrap_or("0")
                .to_owned(),
            1 => "null".to_owned(),
            2..5 => {
                let odd = "\"\\{[,:".chars().take(many);
                serde_json::to_string(&(0..many).map(|_| random.char(..)).chain(odd).collect::<String>()).unwrap()
            }
            5 if many == 0 => format!("[{}]", blank(random)),
            5 => {
                let elements: Vec<_> = (0..many).map(|_| self::random(random, depth - 1)).collect();
                format!("[{}]", elements.join(","))
            }
            _ => {
                let names = ["a", "b", "a", "\\u0061"].into_iter().take(many);
                let members: Vec<_> = names
                    .map(|name| format!("{}\"{name}\" :{}", blank(random), self::random(random, depth - 1)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }
        };
        blank(random) + &value + &blank(random)
    }

    /// Compares a value with what a parser makes of it, and all that is in it.
    fn compare(value: &str, parsed: &serde_json::Value) {
        use serde_json::Value;

        assert_eq!(&serde_json::from_str::<Value>(value).unwrap(), parsed);
        for layout in [Layout::Line, Layout::Indented { colour: false }] {
            let shown = laid_out(value, layout);
            assert_eq!(&serde_json::from_str::<Value>(&shown).unwrap(), parsed, "{value} {shown}");
            assert!(shown.chars().all(|char| char == '\n' || !hpfeeds::visible::acts_on_a_terminal(char)), "{shown:?}");
        }
        match parsed {
            Value::String(expected) => assert_eq!(text(value), *expected),
            Value::Array(elements) => {
                for (at, expected) in elements.iter().enumerate() {
                    compare(element(value, at).unwrap(), expected);
                }
                assert_eq!(element(value, elements.len()), None);
            }
            Value::Object(members) => {
                for (name, expected) in members {
                    compare(member(value, name).unwrap(), expected);
                }
                assert_eq!(member(value, "c"), None);
            }
            _ => {}
        }
    }

    #[test]
    fn values_are_those_that_a_parser_finds() {
        let mut source = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let payload = random(&mut source, 5);
            compare(checked(payload.as_bytes()).unwrap(), &serde_json::from_str(&payload).unwrap());
        }
    }

    #[test]
    fn texts_that_are_no_json_lead_nowhere_and_end() {
        let mut source = fastrand::Rng::with_seed(2);
        for _ in 0..20_000 {
            let tokens = ["{", "}", "[", "]", ",", ":", "\"", "\\", "a", "1", " ", "\u{fc}"];
            let odd: String = (0..source.usize(..12)).map(|_| tokens[source.usize(..tokens.len())]).collect();
            let mut shown = Vec::new();
            write(&mut shown, &odd, Layout::Indented { colour: true }).unwrap();
            let found = [member(&odd, "a"), element(&odd, 0), element(&odd, 3)];
            assert!(found.into_iter().flatten().all(|value| odd.contains(value)) && text(&odd).len() <= 4 * odd.len());
        }
    }
}
