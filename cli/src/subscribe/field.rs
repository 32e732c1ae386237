//! Names of fields, as `--where` and `--fields` have them, and what a message has of them.

use std::{borrow::Cow, cell::OnceCell};

use hpfeeds::Message;

use super::json;

/// The name of a field: `ident`, `channel`, `payload`, or a place in a payload that is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// As it was given.
    pub(crate) name: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ident,
    Channel,
    Payload,
    Json(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Element(usize),
}

/// A message whose payload is read as JSON once, when that is needed.
pub(crate) struct Looked<'a> {
    pub(crate) message: &'a Message,
    json: OnceCell<Option<&'a str>>,
}

impl<'a> Looked<'a> {
    pub(crate) fn at(message: &'a Message) -> Self {
        Self { message, json: OnceCell::new() }
    }

    /// The payload, if it is JSON.
    pub(crate) fn json(&self) -> Option<&'a str> {
        *self.json.get_or_init(|| json::checked(&self.message.2))
    }
}

/// The value of a field in a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Bytes(&'a [u8]),
    /// A value of a payload that is JSON, as it is written there.
    Json(&'a str),
}

impl<'a> Value<'a> {
    /// The text that it is compared by: the characters of a string, and other values as JSON on one line.
    pub(crate) fn text(&self) -> Cow<'a, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Json(value) => match json::text(value) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
        }
    }
}

impl Field {
    pub(crate) fn ident() -> Self {
        Self { name: "ident".to_owned(), place: Place::Ident }
    }

    pub(crate) fn channel() -> Self {
        Self { name: "channel".to_owned(), place: Place::Channel }
    }

    /// Whether it is the payload as a whole.
    pub(crate) fn is_payload(&self) -> bool {
        self.place == Place::Payload
    }

    /// Its value; nothing when the payload is no JSON, or has no such place.
    pub(crate) fn of<'a>(&self, looked: &Looked<'a>) -> Option<Value<'a>> {
        let (ident, channel, payload) = looked.message;
        match &self.place {
            Place::Ident => Some(Value::Bytes(ident.as_bytes())),
            Place::Channel => Some(Value::Bytes(channel.as_bytes())),
            Place::Payload => Some(Value::Bytes(payload)),
            Place::Json(steps) => {
                let found = steps.iter().try_fold(looked.json()?, |value, step| match step {
                    Step::Key(key) => json::member(value, key),
                    Step::Element(number) => json::element(value, *number),
                });
                found.map(Value::Json)
            }
        }
    }

    /// Reads a name up to one of these characters, outside of brackets, or to the end.
    pub(crate) fn parse<'a>(text: &'a str, until: &[char]) -> Result<(Self, &'a str), String> {
        let (mut rest, mut steps) = (text, Vec::new());
        loop {
            if let Some(inside) = rest.strip_prefix('[') {
                let (step, behind) = bracket(inside)?;
                steps.push(step);
                rest = behind;
            } else if steps.is_empty() || rest.starts_with('.') {
                let key = if steps.is_empty() { rest } else { rest.strip_prefix('.').unwrap_or(rest) };
                let is_end = |char| matches!(char, '.' | '[') || until.contains(&char);
                let (key, behind) = key.split_at_checked(key.find(is_end).unwrap_or(key.len())).unwrap_or((key, ""));
                if key.is_empty() {
                    return Err("a part of the name is empty".to_owned());
                }
                steps.push(Step::Key(key.to_owned()));
                rest = behind;
            } else if rest.is_empty() || rest.starts_with(until) {
                break;
            } else {
                return Err("a . or [ is missing behind a ]".to_owned());
            }
        }
        let name = text.strip_suffix(rest).unwrap_or(text).to_owned();
        Ok((Self { name, place: Place::of(steps) }, rest))
    }

    /// Reads names with commas between them.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let (mut rest, mut fields) = (text, Vec::<Self>::new());
        loop {
            let (field, behind) = Self::parse(rest, &[','])?;
            if fields.contains(&field) {
                return Err(format!("{} is there twice", field.name));
            }
            fields.push(field);
            match behind.strip_prefix(',') {
                Some(behind) => rest = behind,
                None => return Ok(fields),
            }
        }
    }
}

impl Place {
    fn of(mut steps: Vec<Step>) -> Self {
        let first = match steps.first() {
            Some(Step::Key(key)) => key.as_str(),
            _ => "",
        };
        match (first, steps.len()) {
            ("ident", 1) => Self::Ident,
            ("channel", 1) => Self::Channel,
            ("payload", 1) => Self::Payload,
            // So that every key of a payload can be named.
            ("payload", _) => {
                steps.remove(0);
                Self::Json(steps)
            }
            _ => Self::Json(steps),
        }
    }
}

/// Reads what stands in brackets: a number, or a key in quotes.
fn bracket(text: &str) -> Result<(Step, &str), String> {
    const FAULT: &str = "in brackets stands a number such as [0], or a key in quotes such as [\"a.b\"]";
    if text.starts_with('"') {
        let mut keys = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let key = keys.next().and_then(Result::ok).ok_or(FAULT)?;
        let rest = text.get(keys.byte_offset()..).and_then(|rest| rest.strip_prefix(']')).ok_or(FAULT)?;
        return Ok((Step::Key(key), rest));
    }
    let (number, rest) = text.split_once(']').ok_or(FAULT)?;
    // Without a sign.
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| is_number).ok_or(FAULT)?;
    Ok((Step::Element(number), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
pub(super) mod tests {
    use bytes::Bytes;
    use hpfeeds::{Channel, Ident};

    use super::*;

    pub(crate) fn message(payload: &[u8]) -> Message {
        (Ident::new("sensor-1").unwrap(), Channel::new("a.b").unwrap(), Bytes::copy_from_slice(payload))
    }

    fn value(name: &str, payload: &[u8]) -> Option<String> {
        let (field, rest) = Field::parse(name, &[]).unwrap();
        assert_eq!((field.name.as_str(), rest), (name, ""));
        let message = message(payload);
        let text = field.of(&Looked::at(&message))?.text().into_owned();
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    #[test]
    fn a_name_leads_to_a_value() {
        let payload =
            br#"{"peerIP":"192.0.2.1","n":[1.50,["x"]],"a.b":{"":2,"c]":null},"ident":"own","payload":{"x":3}}"#;
        for (name, expected) in [
            ("ident", "sensor-1"),
            ("channel", "a.b"),
            ("peerIP", "192.0.2.1"),
            ("n[0]", "1.50"),
            ("n[1][0]", "x"),
            ("n", r#"[1.50,["x"]]"#),
            (r#"["a.b"]["c]"]"#, "null"),
            (r#"["a.b"][""]"#, "2"),
            ("payload.ident", "own"),
            ("payload.payload.x", "3"),
        ] {
            assert_eq!(value(name, payload).as_deref(), Some(expected), "{name}");
        }
        for name in ["peerip", "n[2]", "n.x", "ident.x", "a.b", "[0]", "peerIP[0]"] {
            assert_eq!(value(name, payload), None, "{name}");
        }
        assert_eq!(value("payload[1].a", br#"[0,{"a":true}]"#).as_deref(), Some("true"));
        assert_eq!(value("[1].a", br#"[0,{"a":true}]"#).as_deref(), Some("true"));
    }

    #[test]
    fn a_payload_that_is_no_json_has_no_places() {
        for payload in [&b"a=1"[..], b"", b"\xff", b"{\"a\":1"] {
            assert_eq!(value("a", payload), None);
            assert_eq!(value("payload", payload), Some(String::from_utf8_lossy(payload).into_owned()));
        }
    }

    #[test]
    fn names_end_where_they_are_told_to() {
        let (field, rest) = Field::parse(r#"a["x=y"].b!=c"#, &['=', '!']).unwrap();
        assert_eq!((field.name.as_str(), rest), (r#"a["x=y"].b"#, "!=c"));
        let fields = Field::parse_list(r#"ident,a.b[0],["x,y"]"#).unwrap();
        assert_eq!(fields.iter().map(|field| &*field.name).collect::<Vec<_>>(), ["ident", "a.b[0]", r#"["x,y"]"#]);
    }

    #[test]
    fn a_name_that_makes_no_sense_says_why() {
        for (text, fault) in [
            ("", "empty"),
            ("a,", "empty"),
            (",a", "empty"),
            ("a..b", "empty"),
            (".a", "empty"),
            ("a.", "empty"),
            ("a[x]", "in brackets"),
            ("a[-1]", "in brackets"),
            ("a[+1]", "in brackets"),
            ("a[]", "in brackets"),
            ("a[", "in brackets"),
            ("a[\"b]", "in brackets"),
            ("a[0]b", "missing behind a ]"),
            ("a[99999999999999999999]", "in brackets"),
            ("a,b,a", "a is there twice"),
        ] {
            let said = Field::parse_list(text).unwrap_err();
            assert!(said.contains(fault), "{text}: {said}");
        }
    }
}
