//! The JSON of a broker's dashboard, as far as it is shown: what a newer broker adds is ignored, and
//! what an older one lacks is empty.

use serde::Deserialize;

/// The answer of `/api/v1/snapshot`. Times are in seconds since 1970 unless they say milliseconds; each
/// text may hold any character.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    /// In milliseconds.
    pub(super) at: u64,
    /// The start of the broker. No answer of a dashboard is without it.
    pub(super) started: u64,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) connections: u64,
    pub(super) max_connections: u64,
    pub(super) states: States,
    pub(super) rates: Rates,
    pub(super) books: Books,
    pub(super) difference: i64,
    pub(super) journal: Option<Journal>,
    pub(super) sensors: List<Sensor>,
    pub(super) consumers: List<Consumer>,
    pub(super) channels: List<Channel>,
    pub(super) incidents: List<Incident>,
    pub(super) mailboxes: List<Mailbox>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct List<T> {
    /// All rows that there are, and those that the filter lets pass.
    pub(super) total: usize,
    pub(super) matching: usize,
    #[serde(bound(deserialize = "T: Deserialize<'de>"))]
    pub(super) rows: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { total: 0, matching: 0, rows: Vec::new() }
    }
}

/// Numbers of sensors in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct States {
    pub(super) gone: u64,
    pub(super) silent: u64,
    pub(super) flood: u64,
    pub(super) never: u64,
    pub(super) learning: u64,
    pub(super) ok: u64,
}

impl States {
    /// How many sensors somebody has to look after.
    pub(super) fn troubled(&self) -> u64 {
        self.gone.saturating_add(self.silent).saturating_add(self.flood)
    }
}

/// Rates a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Rates {
    pub(super) messages: f64,
    pub(super) received_bytes: f64,
    pub(super) sent_bytes: f64,
}

/// Copies of messages, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Books {
    pub(super) copies: u64,
    pub(super) delivered: u64,
    pub(super) queued: u64,
    pub(super) dropped: u64,
    pub(super) cut_off: u64,
    /// Messages that were to be stored, of a broker with a data folder.
    pub(super) wanted: u64,
    pub(super) stored: u64,
    pub(super) not_stored: u64,
    /// Stored messages that the collector of a mailbox will never get, once for each mailbox.
    pub(super) lost: u64,
}

/// The journal of a data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Journal {
    /// `good`, or what is wrong.
    pub(super) health: String,
    /// The bytes of its files, and how many they may have.
    pub(super) bytes: u64,
    pub(super) limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Sensor {
    pub(super) ident: String,
    pub(super) state: String,
    pub(super) since: Option<u64>,
    /// The last message.
    pub(super) published: Option<u64>,
    pub(super) connected: Option<u64>,
    pub(super) left: Option<u64>,
    /// Why its last connection ended.
    pub(super) reason: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) software: Option<String>,
    pub(super) connections: u64,
    /// Messages in the last minute, and in the busiest one of a usual day.
    pub(super) rate: u64,
    pub(super) usual_rate: u64,
    /// Seconds without a message while it was connected, and the longest such time in seven days.
    pub(super) quiet: u64,
    pub(super) usual_gap: u64,
    pub(super) messages: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Consumer {
    pub(super) ident: String,
    pub(super) state: String,
    pub(super) since: Option<u64>,
    pub(super) peer: Option<String>,
    pub(super) software: Option<String>,
    pub(super) connections: u64,
    pub(super) subscriptions: i64,
    /// In bytes.
    pub(super) queued: u64,
    pub(super) sent: u64,
    /// In messages.
    pub(super) dropped: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_field_names, reason = "the name in the JSON")]
pub(super) struct Channel {
    pub(super) channel: String,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) publishers: u64,
    pub(super) subscriptions: i64,
    pub(super) unrouted: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Incident {
    pub(super) kind: String,
    /// A claim, unless the client had authenticated.
    pub(super) ident: Option<String>,
    pub(super) source: String,
    pub(super) channel: Option<String>,
    /// In milliseconds.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) count: u64,
    pub(super) text: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_field_names, clippy::struct_excessive_bools, reason = "the fields in the JSON")]
pub(super) struct Mailbox {
    pub(super) mailbox: String,
    pub(super) attached: bool,
    pub(super) peer: Option<String>,
    /// Since when a connection is attached, or none is.
    pub(super) since: Option<u64>,
    pub(super) waiting: u64,
    /// More may wait.
    pub(super) at_least: bool,
    pub(super) waiting_bytes: u64,
    /// The oldest message that waits.
    pub(super) oldest: Option<u64>,
    pub(super) in_flight: u64,
    pub(super) stuck: bool,
    /// It was forgotten, as nobody came for too long.
    pub(super) expired: bool,
    pub(super) lost: u64,
    /// Why most of them are lost.
    pub(super) reason: Option<String>,
    /// Messages that the collector's key does not allow.
    pub(super) denied: u64,
}

/// An event `tail` of the stream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TailEvent {
    pub(super) at: u64,
    /// Messages a second that pass the filters.
    pub(super) rate: f64,
    pub(super) messages: Vec<TailMessage>,
}

/// A message of the tail.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TailMessage {
    /// In milliseconds.
    pub(super) at: u64,
    pub(super) ident: String,
    pub(super) channel: String,
    /// The bytes of the whole payload.
    pub(super) size: u64,
    /// `json`, `text` or `base64`.
    pub(super) encoding: String,
    pub(super) payload: String,
    /// The payload is not all of it.
    pub(super) cut: bool,
}

impl Snapshot {
    /// Reads an answer. The error says what is wrong with it.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let snapshot: Self = serde_json::from_slice(json).map_err(|cause| cause.to_string())?;
        if snapshot.started == 0 || snapshot.at == 0 {
            return Err("it says neither when it was made nor when the broker started".to_owned());
        }
        Ok(snapshot)
    }

    /// The time of the snapshot in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.at / 1000
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_older_broker_is_shown_as_well() {
        let json = r#"{"at": 1500, "started": 1, "new": {"a": [1]}, "states": {"gone": 1, "asleep": 2},
            "sensors": {"total": 7, "matching": 1, "rows": [{"ident": "a", "state": "asleep", "since": null, "new": 1}]}}"#;
        let snapshot = Snapshot::parse(json.as_bytes()).unwrap();
        assert_eq!((snapshot.now(), snapshot.states.gone, snapshot.states.troubled()), (1, 1, 1));
        let sensor = Sensor { ident: "a".to_owned(), state: "asleep".to_owned(), ..Sensor::default() };
        assert_eq!(snapshot.sensors, List { total: 7, matching: 1, rows: vec![sensor] });
        assert_eq!((snapshot.books.stored, &snapshot.journal, snapshot.mailboxes.total), (0, &None, 0));
    }

    #[test]
    fn json_of_something_else_is_no_snapshot() {
        for json in ["", "{}", "[]", "null", r#"{"status":"ok"}"#, r#"{"at":1,"started":"x"}"#, "{\"at\":1"] {
            assert!(Snapshot::parse(json.as_bytes()).is_err(), "{json}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(Snapshot::parse(format!(r#"{{"at":1,"started":1,"x":{deep}"#).as_bytes()).is_err());
    }
}
