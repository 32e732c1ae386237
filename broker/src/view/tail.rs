//! The live tail of a page: some of the messages that pass its filters, and how many there are a second.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    fields::Path,
    sources::{SourceFields, Sources},
};
use crate::{
    tap::{Listener, MAX_PAYLOAD, Sample, Tap, Tapped, Wanted},
    util::{clock::unix_ms, glob::Glob},
};

/// The most messages of one event.
const SHOWN: usize = 50;

/// The most fields that one tail looks for.
const MAX_FIELDS: usize = 8;

/// The most bytes of one filter.
const MAX_FILTER: usize = 255;

/// The filters of a tail: a message passes all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    wanted: Wanted,
    /// In lower case. Empty for all messages.
    text: String,
    fields: Vec<(Path, Glob)>,
}

impl Filters {
    /// Sets a filter from a parameter of a query: `None` when it has another name. An empty value is no
    /// filter.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        if !matches!(name, "channel" | "ident" | "text" | "field") {
            return None;
        }
        if value.len() > MAX_FILTER {
            return Some(Err(format!("{name}: at most {MAX_FILTER} bytes")));
        }
        let glob = || (!value.is_empty()).then(|| Glob::new(value));
        match name {
            "channel" => self.wanted.channel = glob(),
            "ident" => self.wanted.ident = glob(),
            "text" => self.text = value.to_lowercase(),
            _ if value.is_empty() => {}
            _ => return Some(self.add_field(value)),
        }
        Some(Ok(()))
    }

    fn add_field(&mut self, text: &str) -> Result<(), String> {
        let (path, value) = text.split_once('=').ok_or("field: NAME=VALUE is wanted, such as peerIP=192.0.2.*")?;
        let path = Path::parse(path).map_err(|fault| format!("field: {fault}"))?;
        if self.fields.len() >= MAX_FIELDS {
            return Err(format!("field: at most {MAX_FIELDS}"));
        }
        self.fields.push((path, Glob::new(value)));
        Ok(())
    }

    /// Whether each message has to be looked into.
    fn looks_inside(&self) -> bool {
        !self.text.is_empty() || !self.fields.is_empty()
    }

    fn pass(&self, message: &Tapped, json: Option<&Value>) -> bool {
        let has_text =
            || self.text.is_empty() || String::from_utf8_lossy(&message.payload).to_lowercase().contains(&self.text);
        let has = |(path, glob): &(Path, Glob)| match json.and_then(|json| path.find(json)) {
            Some(Value::String(text)) => glob.matches(text),
            Some(value) => glob.matches(&value.to_string()),
            None => false,
        };
        self.fields.iter().all(has) && has_text()
    }
}

/// A tail. It listens from its first look on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Tail {
    filters: Filters,
    listener: Option<(Listener, Instant)>,
    sources: Sources,
}

/// The messages since the look before.
#[derive(Debug, Serialize)]
struct TailEvent {
    at: u64,
    /// How many messages pass the filters in a second. With filters that look inside, this is an
    /// estimate where there are more than can be looked into.
    rate: u64,
    shown: usize,
    messages: Vec<Message>,
}

#[derive(Debug, Serialize)]
struct Message {
    at: u64,
    ident: String,
    channel: String,
    /// The length of the payload in bytes.
    size: usize,
    encoding: &'static str,
    payload: String,
    /// The payload is longer than what is shown of it.
    cut: bool,
}

impl Tail {
    pub(crate) fn new(filters: Filters, fields: SourceFields) -> Self {
        Self { filters, listener: None, sources: Sources::new(fields) }
    }

    /// Begins to listen, unless it does.
    pub(crate) fn open(&mut self, tap: &Arc<Tap>) {
        let filters = &self.filters;
        self.listener.get_or_insert_with(|| (tap.listen(filters.wanted.clone()), Instant::now()));
    }

    /// The messages since the look before, as JSON; `None` when there are none.
    pub(crate) fn look(&mut self) -> Option<String> {
        let (listener, since) = self.listener.as_mut()?;
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(std::mem::replace(since, now));
        let sample = listener.take();
        if sample.seen == 0 {
            return None;
        }
        let shown = self.show(sample, elapsed);
        (shown.rate > 0).then(|| serde_json::to_string(&shown).unwrap_or_default())
    }

    /// The top sources since the beginning, as JSON.
    pub(crate) fn top_sources(&self) -> Option<String> {
        serde_json::to_string(&self.sources.top()).ok()
    }

    fn show(&mut self, sample: Sample, elapsed: Duration) -> TailEvent {
        let (mut messages, mut passes, looked) = (Vec::new(), 0, sample.messages.len() as u64);
        for message in sample.messages {
            let json = json(&message);
            if !self.filters.pass(&message, json.as_ref()) {
                continue;
            }
            passes += 1;
            if let Some(json) = &json {
                self.sources.add(json);
            }
            if messages.len() < SHOWN {
                messages.push(Message::of(message, json.is_some()));
            }
        }
        // Messages that were not looked into are taken to be like the rest.
        let all =
            if self.filters.looks_inside() { (sample.seen * passes).div_ceil(looked.max(1)) } else { sample.seen };
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = all.saturating_mul(1000).div_ceil(millis);
        TailEvent { at: unix_ms().unsigned_abs(), rate, shown: messages.len(), messages }
    }
}

/// The payload as JSON, if it is an object or a list and whole.
fn json(message: &Tapped) -> Option<Value> {
    let first = message.payload.iter().find(|byte| !byte.is_ascii_whitespace());
    let may_be = message.size == message.payload.len() && matches!(first, Some(b'{' | b'['));
    may_be.then(|| serde_json::from_slice(&message.payload).ok()).flatten()
}

impl Message {
    fn of(message: Tapped, is_json: bool) -> Self {
        let Tapped { at, ident, channel, size, mut payload } = message;
        let cut = size > payload.len();
        if cut && payload.len() == MAX_PAYLOAD {
            // A character that the cut goes through is no reason to take text for something else.
            let end = payload.len() - unfinished(&payload);
            payload.truncate(end);
        }
        let (encoding, payload) = match String::from_utf8(payload) {
            Ok(text) if is_json => ("json", text),
            Ok(text) => ("text", text),
            Err(bytes) => ("base64", base64(bytes.as_bytes())),
        };
        Self { at, ident, channel, size, encoding, payload, cut }
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(cause) if cause.error_len().is_none() => bytes.len() - cause.valid_up_to(),
        _ => 0,
    }
}

/// Base64 with the usual alphabet and padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::{collection::vec, prelude::any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::util::property::cases;

    fn message(payload: &[u8]) -> Tapped {
        let (ident, channel) = ("one".to_owned(), "a".to_owned());
        Tapped { at: 1, ident, channel, size: payload.len(), payload: payload.to_vec() }
    }

    fn tail(parameters: &[(&str, &str)]) -> Tail {
        let mut filters = Filters::default();
        for (name, value) in parameters {
            filters.set(name, value).unwrap().unwrap();
        }
        Tail::new(filters, SourceFields::with(&[]).unwrap())
    }

    fn payloads(parameters: &[(&str, &str)], of: &[&str]) -> Vec<String> {
        let messages: Vec<_> = of.iter().map(|payload| message(payload.as_bytes())).collect();
        let sample = Sample { seen: messages.len() as u64, messages };
        let shown = tail(parameters).show(sample, Duration::from_secs(1));
        assert_eq!((shown.shown, shown.rate), (shown.messages.len(), shown.messages.len() as u64));
        shown.messages.into_iter().map(|message| message.payload).collect()
    }

    #[test]
    fn texts_and_fields_are_looked_for_in_payloads() {
        let one = r#"{"peerIP":"192.0.2.1","port":22,"a":{"b":[true]}}"#;
        let two = r#"{"peerIP":"192.0.2.11","port":2222,"login":"Root"}"#;
        let all = [one, two, "plain ROOT", ""];
        for (parameters, expected) in [
            (&[][..], &all[..]),
            (&[("text", ""), ("field", "")], &all),
            (&[("text", "root")], &[two, "plain ROOT"]),
            (&[("field", "peerIP=192.0.2.1")], &[one]),
            (&[("field", "peerIP=192.0.2.*")], &[one, two]),
            (&[("field", "peerIP=192.0.2.*"), ("field", "port=22")], &[one]),
            (&[("field", "a.b[0]=true")], &[one]),
            (&[("field", "port=22"), ("text", "root")], &[]),
            (&[("field", "login=*"), ("text", "root")], &[two]),
            (&[("field", "x=*")], &[]),
        ] {
            assert_eq!(payloads(parameters, &all), expected, "{parameters:?}");
        }
        let mut filters = Filters::default();
        assert_eq!(filters.set("q", "x"), None);
        for (name, value) in [("field", "x"), ("field", "=x"), ("field", "a[=x"), ("text", &*"x".repeat(256))] {
            assert!(filters.set(name, value).unwrap().is_err(), "{name}={value}");
        }
        for _ in 0..MAX_FIELDS {
            filters.set("field", "a=b").unwrap().unwrap();
        }
        assert!(filters.set("field", "a=b").unwrap().is_err());
    }

    #[test]
    fn fifty_messages_are_shown_of_more_and_all_are_counted() {
        let sample = |payloads: &[&str]| {
            let messages: Vec<_> = (0..100).map(|n| message(payloads[n % payloads.len()].as_bytes())).collect();
            Sample { seen: 1000, messages }
        };
        let shown = tail(&[]).show(sample(&["x"]), Duration::from_millis(500));
        assert_eq!((shown.shown, shown.rate), (50, 2000));
        // Each fourth of those that were looked into passes.
        let shown = tail(&[("text", "y")]).show(sample(&["x", "x", "y", "x"]), Duration::from_millis(500));
        assert_eq!((shown.shown, shown.rate), (25, 500));
    }

    #[test]
    fn payloads_are_shown_as_what_they_are() {
        let long = "é".repeat(MAX_PAYLOAD / 2 + 1);
        let cut = Tapped {
            size: long.len() + 1,
            payload: format!("x{long}").as_bytes()[..MAX_PAYLOAD].to_vec(),
            ..message(b"")
        };
        for (message, is_json, expected) in [
            (message(b"[1]"), true, ("json", "[1]".to_owned(), false)),
            (message(b"{"), false, ("text", "{".to_owned(), false)),
            (message("\u{202e}\0<script>".as_bytes()), false, ("text", "\u{202e}\0<script>".to_owned(), false)),
            (message(b"\xff\xfe"), false, ("base64", "//4=".to_owned(), false)),
            (message(b""), false, ("text", String::new(), false)),
            (cut, false, ("text", format!("x{}", "é".repeat(MAX_PAYLOAD / 2 - 1)), true)),
        ] {
            assert_eq!(json(&message).is_some(), is_json);
            let Message { encoding, payload, cut, .. } = Message::of(message, is_json);
            assert_eq!((encoding, payload, cut), expected);
        }
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn a_tail_listens_from_its_first_look_until_it_is_dropped() {
        let (tap, mut tail) = (Arc::<Tap>::default(), tail(&[]));
        assert_eq!((tail.look(), tap.is_open()), (None, false));
        tail.open(&tap);
        tail.open(&tap);
        tap.offer(b"\0\0\0\x0c\x03\x02me\x01aHi");
        let json: Value = serde_json::from_str(&tail.look().unwrap()).unwrap();
        let row = &json["messages"][0];
        assert_eq!((&row["ident"], &row["channel"], &row["payload"]), (&"me".into(), &"a".into(), &"Hi".into()));
        assert_eq!((tail.look(), tap.is_open()), (None, true));
        drop(tail);
        assert!(!tap.is_open());
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_payload_is_shown_on_one_line(payload in vec(any::<u8>(), 0..40), more in 0..2_usize, json_like in any::<bool>()) {
            let payload = if json_like { [b"{\"peerIP\":\"".as_slice(), &payload, b"\"}"].concat() } else { payload };
            let message = || Tapped { size: payload.len() + more, ..message(&payload) };
            let mut tail = tail(&[("text", "a"), ("field", "peerIP=*")]);
            tail.show(Sample { seen: 1, messages: vec![message()] }, Duration::ZERO);
            let event = TailEvent { at: 0, rate: 1, shown: 1, messages: vec![Message::of(message(), false)] };
            let text = serde_json::to_string(&event).unwrap();
            prop_assert!(!text.contains(['\n', '\r']));
            let row = &serde_json::from_str::<Value>(&text).unwrap()["messages"][0];
            if let Ok(whole) = std::str::from_utf8(&payload) {
                prop_assert_eq!(&row["payload"], whole);
            } else {
                prop_assert_eq!(&row["encoding"], "base64");
            }
        }
    }
}
