//! One received message in a form that is printed: a line, indented JSON, a JSON object, some of its
//! fields, or its bytes.

use std::{
    io::{self, Write as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hpfeeds::{Message, Origin};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::{
    columns,
    escape::{Escaped, write_json},
    subscribe::{
        field::{Field, Looked},
        json::{self, Layout},
    },
};

/// A form of messages.
#[derive(Debug)]
pub(crate) enum Form {
    /// `[channel] ident: payload`, one line each.
    Line,
    /// The same, with JSON on a line for each member and element.
    Pretty { colour: bool },
    /// A JSON object a line.
    Ndjson,
    /// The bytes of the payload.
    Raw,
    /// Some fields, with tabs between them.
    Columns(Vec<Field>),
    /// Some fields, a JSON object a line.
    Objects(Vec<Field>),
}

/// Where a payload was stored.
pub(crate) struct Saved<'a> {
    pub(crate) path: &'a Path,
    pub(crate) sha256: &'a str,
}

/// Appends a message to `to`. A payload that is stored is not printed as well.
pub(crate) fn format(
    to: &mut Vec<u8>,
    form: &Form,
    looked: &Looked<'_>,
    origin: Option<&Origin>,
    saved: Option<&Saved<'_>>,
) -> io::Result<()> {
    let message = looked.message;
    match form {
        Form::Line => line(to, message, saved),
        Form::Pretty { colour } => pretty(to, looked, saved, *colour),
        Form::Ndjson => record(to, message, origin, saved, Timestamp::now()),
        Form::Raw => to.write_all(&message.2),
        Form::Columns(fields) => columns::line(to, fields, looked),
        Form::Objects(fields) => columns::object(to, fields, looked),
    }
}

/// Writes a message of that time as a JSON object on a line.
pub(crate) fn ndjson(to: impl io::Write, message: &Message, time: Timestamp) -> io::Result<()> {
    record(to, message, None, None, time)
}

/// Objects and arrays are laid out; what else a payload is stands on the line.
fn pretty(to: &mut Vec<u8>, looked: &Looked<'_>, saved: Option<&Saved<'_>>, colour: bool) -> io::Result<()> {
    let laid_out = looked.json().filter(|json| saved.is_none() && json::is_container(json));
    let Some(text) = laid_out else { return line(to, looked.message, saved) };
    let (ident, channel, _) = looked.message;
    write!(to, "[{}] {}: ", Escaped(channel.as_bytes()), Escaped(ident.as_bytes()))?;
    json::write(to, text, Layout::Indented { colour })?;
    to.write_all(b"\n")
}

fn line(to: &mut Vec<u8>, (ident, channel, payload): &Message, saved: Option<&Saved<'_>>) -> io::Result<()> {
    write!(to, "[{}] {}: ", Escaped(channel.as_bytes()), Escaped(ident.as_bytes()))?;
    match saved {
        Some(saved) => {
            writeln!(to, "{} ({} bytes)", Escaped(saved.path.as_os_str().as_encoded_bytes()), payload.len())
        }
        None => writeln!(to, "{}", Escaped(payload)),
    }
}

#[derive(Serialize)]
struct Record<'a> {
    time: String,
    ident: &'a str,
    channel: &'a str,
    /// Where it stands in the broker's journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(flatten)]
    payload: Payload<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Text { payload: &'a str },
    Bytes { payload_base64: String },
    Saved { path: String, sha256: &'a str, size: usize },
}

fn record(
    mut to: impl io::Write,
    (ident, channel, payload): &Message,
    origin: Option<&Origin>,
    saved: Option<&Saved<'_>>,
    time: Timestamp,
) -> io::Result<()> {
    let payload = match (saved, str::from_utf8(payload)) {
        (Some(saved), _) => Payload::Saved {
            path: saved.path.to_string_lossy().into_owned(),
            sha256: saved.sha256,
            size: payload.len(),
        },
        (None, Ok(text)) => Payload::Text { payload: text },
        (None, Err(_)) => Payload::Bytes { payload_base64: STANDARD.encode(payload) },
    };
    let position = origin.map(ToString::to_string);
    let record = Record { time: format!("{time:.3}"), ident, channel, position, payload };
    record.serialize(&mut Serializer::with_formatter(&mut to, Printable(CompactFormatter)))?;
    to.write_all(b"\n")
}

/// JSON that is safe to show.
struct Printable(CompactFormatter);

impl Formatter for Printable {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_json(writer, fragment)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::Bytes;
    use hpfeeds::{Channel, Ident};

    use super::*;

    fn message(payload: &'static [u8]) -> Message {
        (Ident::new("se\x1bnsor").unwrap(), Channel::new("a.b").unwrap(), Bytes::from_static(payload))
    }

    fn printed(payload: &'static [u8], saved: Option<&Saved<'_>>) -> [String; 2] {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        line(&mut one, &message(payload), saved).unwrap();
        record(&mut other, &message(payload), None, saved, "2025-01-02T03:04:05.678901Z".parse().unwrap()).unwrap();
        [one, other].map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn text() {
        let [line, json] = printed("\"ü\"\n\u{9b}\u{e0001}".as_bytes(), None);
        assert_eq!(line, "[a.b] se\\u{1b}nsor: \"ü\"\\n\\u{9b}\\u{e0001}\n");
        let expected = concat!(
            r#"{"time":"2025-01-02T03:04:05.678Z","ident":"se\u001bnsor","channel":"a.b","#,
            r#""payload":"\"ü\"\n\u009b\udb40\udc01"}"#,
            "\n"
        );
        assert_eq!(json, expected);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["payload"], "\"ü\"\n\u{9b}\u{e0001}");
    }

    #[test]
    fn bytes() {
        let [line, json] = printed(b"\x00\xff\xfe", None);
        assert_eq!(line, "[a.b] se\\u{1b}nsor: \\u{0}\\xff\\xfe\n");
        assert!(json.ends_with(r#""payload_base64":"AP/+"}"#.to_owned().as_str()) || json.contains("AP/+"), "{json}");
    }

    #[test]
    fn objects_and_arrays_are_laid_out_and_nothing_else() {
        let printed = |payload: &'static [u8], saved| {
            let (mut text, message) = (Vec::new(), message(payload));
            format(&mut text, &Form::Pretty { colour: false }, &Looked::at(&message), None, saved).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(printed(b" {\"a\":[1]}\n", None), "[a.b] se\\u{1b}nsor: {\n  \"a\": [\n    1\n  ]\n}\n");
        assert_eq!(printed(b"[]", None), "[a.b] se\\u{1b}nsor: []\n");
        for payload in [&b"5"[..], b"\"a\\n\"", b"{\"a\":", b"", b"\xff", b"[1]\n[2]\n"] {
            let mut expected = Vec::new();
            line(&mut expected, &message(payload), None).unwrap();
            assert_eq!(printed(payload, None).as_bytes(), expected);
        }
        let saved = Saved { path: Path::new("d/ab"), sha256: "ab" };
        assert_eq!(printed(b"{}", Some(&saved)), "[a.b] se\\u{1b}nsor: d/ab (2 bytes)\n");
    }

    #[test]
    fn a_stored_payload_is_not_printed() {
        let saved = Saved { path: Path::new("d\x1b/ab"), sha256: "ab" };
        let [line, json] = printed(b"secret", Some(&saved));
        assert_eq!(line, "[a.b] se\\u{1b}nsor: d\\u{1b}/ab (6 bytes)\n");
        assert!(json.contains(r#""path":"d\u001b/ab","sha256":"ab","size":6}"#), "{json}");
    }
}
