//! The NDJSON of `publish --ndjson`: a line as `subscribe --format ndjson` prints it, read back to
//! the message that it was.

use std::{borrow::Cow, fs, path::Path};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, general_purpose::PAD},
};
use bytes::Bytes;
use hpfeeds::Channel;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{connection::Room, save, stdin::Outbound};

/// Base64 with and without its padding, as programs between the two tools may print it.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The fields that a message is made of. Everything else in a line, such as its ident, is left
/// alone.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    sha256: Option<String>,
    size: Option<u64>,
}

/// The meaning of lines.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Where messages go, whatever their lines say; where the lines say when this is empty.
    pub(crate) channels: Vec<Channel>,
    pub(crate) room: Room,
    /// A message without its time is none.
    pub(crate) needs_time: bool,
}

impl Reader {
    /// The longest line that can stand for a message: each byte of a payload takes six at most, as
    /// in `\u0000`, and so do those of names.
    pub(crate) fn longest_line(&self) -> usize {
        self.room.largest_message().saturating_mul(6).saturating_add(64 * 1024)
    }

    /// Reads a line; nothing when it is empty. The error goes on behind `line 3 of stdin`.
    pub(crate) fn parse(&self, line: &[u8]) -> Result<Option<Outbound>, String> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let fields: Fields<'_> = serde_json::from_slice(line).map_err(|cause| fault(&cause))?;
        let channel = self.channel(fields.channel.as_deref())?;
        let time = self.time(fields.time.as_deref())?;
        let largest = match &channel {
            Some(channel) => self.room.of([channel]),
            None => self.room.of(&self.channels),
        };
        let Some(largest) = largest else {
            return Err("has a channel whose name alone is longer than --max-message".to_owned());
        };
        let too_long = |length: u64| {
            format!(
                "has a payload of {length} bytes: at most {largest} fit a message to its channel; raise --max-message \
                 here and on the broker"
            )
        };
        let payload = match fields {
            Fields { payload: Some(text), payload_base64: None, path: None, .. } => text.into_owned().into(),
            Fields { payload: None, payload_base64: Some(text), path: None, .. } => decode(&text)?,
            Fields { payload: None, payload_base64: None, path: Some(path), sha256, size, .. } => {
                if let Some(size) = size.filter(|size| *size > largest as u64) {
                    return Err(too_long(size));
                }
                stored(Path::new(&*path), sha256.as_deref(), size)?
            }
            Fields { payload: None, payload_base64: None, path: None, .. } => {
                return Err("has no payload: payload, payload_base64, or path".to_owned());
            }
            _ => return Err("has more than one of payload, payload_base64 and path".to_owned()),
        };
        if payload.len() > largest {
            return Err(too_long(payload.len() as u64));
        }
        Ok(Some(Outbound { channel, time, payload }))
    }

    fn channel(&self, given: Option<&str>) -> Result<Option<Channel>, String> {
        if !self.channels.is_empty() {
            return Ok(None);
        }
        let name = given.ok_or("has no channel: give one in the line, or for all lines with --chan")?;
        Channel::new(name).map(Some).map_err(|cause| format!("has a channel that {cause}"))
    }

    fn time(&self, given: Option<&str>) -> Result<Option<Timestamp>, String> {
        if !self.needs_time {
            return Ok(None);
        }
        let text = given.ok_or("has no time, by which --speed is to publish it")?;
        text.parse()
            .map(Some)
            .map_err(|_| format!("has the time {:?}, which is not one such as 2026-01-31T12:00:00.5Z", short(text)))
    }
}

/// The words of a parser of JSON, on one line and without the line's number, which is always 1.
fn fault(cause: &serde_json::Error) -> String {
    let words = cause.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    format!("is not a message in JSON: {words} at column {}", cause.column())
}

fn decode(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|cause| format!("has a payload_base64 that is not base64: {cause}"))
}

/// A payload that `subscribe --save-dir` has stored. Its hash must be the line's: a line from
/// elsewhere cannot have another file published.
fn stored(path: &Path, sha256: Option<&str>, size: Option<u64>) -> Result<Bytes, String> {
    let (Some(sha256), Some(size)) = (sha256, size) else {
        return Err("names the path of a payload without its sha256 and size".to_owned());
    };
    let is_it = fs::metadata(path).map(|found| found.is_file() && found.len() == size);
    let bytes = match is_it {
        Ok(true) => fs::read(path),
        Ok(false) => return Err(format!("names {}, which is no file of {size} bytes", path.display())),
        Err(cause) => Err(cause),
    };
    let bytes = bytes.map_err(|cause| format!("names {}, which cannot be read: {cause}", path.display()))?;
    if bytes.len() as u64 != size || save::sha256(&bytes) != sha256.to_ascii_lowercase() {
        return Err(format!("names {}, whose SHA-256 is another than the line's", path.display()));
    }
    Ok(bytes.into())
}

/// The beginning of a text from the input, for an error on one line.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn reader(needs_time: bool) -> Reader {
        let ident = hpfeeds::Ident::new("me").unwrap();
        Reader { channels: vec![], room: Room::new(ident, 64), needs_time }
    }

    fn fails(line: &str, words: &str) {
        let why = reader(true).parse(line.as_bytes()).unwrap_err();
        assert!(why.contains(words), "{words:?} in {why:?}");
        assert!(!why.contains('\n'), "{why:?}");
    }

    fn payload(line: &str) -> Bytes {
        reader(false).parse(line.as_bytes()).unwrap().unwrap().payload
    }

    #[test]
    fn a_line_is_the_message_that_it_was() {
        let line =
            r#"{"time":"2025-01-02T03:04:05.678Z","ident":"other","channel":"ü","payload":"\"\u0000\n\udb40\udc01"}"#;
        let message = reader(true).parse(line.as_bytes()).unwrap().unwrap();
        assert_eq!(message.channel.unwrap(), "ü");
        assert_eq!(message.time.unwrap().to_string(), "2025-01-02T03:04:05.678Z");
        assert_eq!(message.payload, "\"\0\n\u{e0001}");
        assert_eq!(payload(r#"{"channel":"a","payload_base64":"AP/+"}"#), b"\0\xff\xfe".as_slice());
        assert_eq!(payload(r#"{"channel":"a","payload_base64":"/w"}"#), b"\xff".as_slice());
        assert_eq!(payload(r#"{"payload":"","channel":"a"}"#), "");
        // A program between the tools may add fields, and leave out those that are not used.
        assert_eq!(payload("{\"channel\":\"a\", \"payload\":\"x\", \"ident\":7, \"more\":[{}]} \r"), "x");
        assert_eq!(reader(true).parse(b" \t\r").unwrap(), None);
    }

    #[test]
    fn channels_that_are_given_hold_for_every_line() {
        let mut reader = reader(false);
        reader.channels = vec![Channel::new("a").unwrap(), Channel::new("longer").unwrap()];
        for line in [r#"{"channel":"b","payload":"x"}"#, r#"{"channel":"","payload":"x"}"#, r#"{"payload":"x"}"#] {
            assert_eq!(reader.parse(line.as_bytes()).unwrap().unwrap().channel, None);
        }
        // The longest of them decides: 64 bytes less the names with their lengths.
        let line = |length| format!(r#"{{"payload":"{}"}}"#, "x".repeat(length));
        assert!(reader.parse(line(64 - 3 - 7).as_bytes()).is_ok());
        assert!(
            reader
                .parse(line(64 - 3 - 6).as_bytes())
                .unwrap_err()
                .starts_with("has a payload of 55 bytes: at most 54 fit")
        );
    }

    #[test]
    fn a_line_that_is_wrong_says_why() {
        let time = r#""time":"2025-01-02T03:04:05Z""#;
        fails("one", "is not a message in JSON: expected value at column 1");
        fails(r#"{"channel":"a","payload":"cut off"#, "EOF while parsing a string at column 33");
        fails("[1]", "is not a message in JSON");
        fails(r#"{"channel":"a"} {}"#, "trailing characters");
        fails(r#"{"channel":"a","payload":{"a":1}}"#, "invalid type: map, expected");
        fails(r#"{"channel":"a","payload":"x","payload":"y"}"#, "duplicate field `payload`");
        fails(r#"{"payload":"x"}"#, "has no channel");
        fails(r#"{"channel":"","payload":"x"}"#, "has a channel that is empty");
        fails(&format!(r#"{{"channel":"{}"}}"#, "x".repeat(256)), "has a channel that is 256 bytes long");
        fails(r#"{"channel":"a","payload":"x"}"#, "has no time");
        fails(r#"{"channel":"a","time":"yesterday","payload":"x"}"#, "has the time \"yesterday\"");
        fails(&format!(r#"{{"channel":"a",{time}}}"#), "has no payload");
        fails(&format!(r#"{{"channel":"a",{time},"payload":null}}"#), "has no payload");
        fails(&format!(r#"{{"channel":"a",{time},"payload":"","payload_base64":""}}"#), "more than one of payload");
        fails(&format!(r#"{{"channel":"a",{time},"payload_base64":"%"}}"#), "not base64: Invalid");
        fails(&format!(r#"{{"channel":"a",{time},"payload":"{}"}}"#, "x".repeat(60)), "at most 59 fit a message");
        fails(&format!(r#"{{"channel":"a",{time},"path":"/etc/passwd"}}"#), "without its sha256 and size");
        assert!(reader(false).parse(b"{\"channel\":\"a\",\"payload\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_stored_payload_is_published_when_its_hash_is_the_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (path, sha256) = save::SaveDir::new(dir.path().into()).unwrap().store(b"\x00payload").unwrap();
        let line = |size: u64, sha256: &str| {
            serde_json::json!({"channel": "a", "path": path, "sha256": sha256, "size": size}).to_string()
        };
        assert_eq!(payload(&line(8, &sha256)), b"\x00payload".as_slice());
        let fails = |line: &str, words| {
            let why = reader(false).parse(line.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{words:?} in {why:?}");
        };
        fails(&line(7, &sha256), "which is no file of 7 bytes");
        fails(&line(8, &sha256.replace('a', "b")), "whose SHA-256 is another");
        fails(&line(1000, &sha256), "has a payload of 1000 bytes: at most 59 fit");
        fs::remove_file(&path).unwrap();
        fails(&line(8, &sha256), "which cannot be read: No such file");
    }
}
