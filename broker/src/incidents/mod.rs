//! Incidents: the last faults of clients, of which those of one kind, ident, source and channel are
//! one, with its first and last time and its count.
//!
//! Strangers can cause some kinds as often as they like. Each kind has its own table, so that they push
//! only incidents of the same kind out.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hpfeeds::wire::{Channel, Ident};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    limits::source::{Source, SourceTable},
    util::clock::unix_ms,
};

/// The most incidents of all kinds together.
const MAX_INCIDENTS: usize = 1000;

/// Incidents are forgotten after this time.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// An incident moves to the front of its table at most so often: counting is cheaper.
const STEP: u64 = 1000;

/// The longest text in bytes.
const MAX_TEXT: usize = 200;

/// The kind of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IncidentKind {
    /// AUTH with an ident that no key store knows.
    UnknownIdent,
    /// AUTH with a wrong secret, or the key has none that can be used.
    WrongSecret,
    /// The key of an ident could not be looked up.
    StoreFailed,
    /// The TLS handshake failed.
    TlsFailed,
    /// The first frame was not AUTH, or came too late.
    NoAuth,
    /// A connection was turned away, as there were too many.
    TurnedAway,
    /// A message on a channel that the key does not allow.
    DeniedPublish,
    /// A subscription that the key does not allow.
    DeniedSubscribe,
    /// A message in the name of another ident.
    OthersName,
    /// A frame that is too long or malformed.
    BadFrame,
    /// A client took too little for too long, and was disconnected.
    Slow,
    /// Messages that a slow subscriber did not get: `count` is their number.
    Dropped,
}

impl IncidentKind {
    const ALL: [Self; 12] = [
        Self::UnknownIdent,
        Self::WrongSecret,
        Self::StoreFailed,
        Self::TlsFailed,
        Self::NoAuth,
        Self::TurnedAway,
        Self::DeniedPublish,
        Self::DeniedSubscribe,
        Self::OthersName,
        Self::BadFrame,
        Self::Slow,
        Self::Dropped,
    ];
}

/// Faults of one kind, ident, source and channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Incident {
    /// A number that no other incident of the broker has, for as long as it runs.
    pub id: u64,
    /// The kind of fault.
    pub kind: IncidentKind,
    /// The ident of the client: a claim, unless the client has authenticated.
    pub ident: Option<String>,
    /// The address of the client; of IPv6, its network of 64 bits.
    pub source: IpAddr,
    /// The channel, if it is about one.
    pub channel: Option<String>,
    /// The first and the last time in milliseconds since 1970.
    pub first: u64,
    /// See [`first`](Self::first).
    pub last: u64,
    /// The number of times, or of dropped messages.
    pub count: u64,
    /// The text that the client was told, or the cause, the last time.
    pub text: String,
}

type Key = (Option<Ident>, Source, Option<Channel>);

#[derive(Debug)]
struct Entry {
    id: u64,
    first: u64,
    last: u64,
    /// The last time that it moved to the front.
    moved: u64,
    count: u64,
    text: String,
}

/// The incidents of one broker.
#[derive(Debug)]
pub(crate) struct Incidents {
    tables: [Mutex<SourceTable<Entry, Key>>; IncidentKind::ALL.len()],
    /// The number of the next one.
    next: AtomicU64,
}

impl Default for Incidents {
    fn default() -> Self {
        let capacity = MAX_INCIDENTS / IncidentKind::ALL.len();
        let tables = std::array::from_fn(|_| Mutex::new(SourceTable::new(KEEP, capacity)));
        Self { tables, next: AtomicU64::new(0) }
    }
}

impl Incidents {
    /// Counts a fault.
    pub(crate) fn add(
        &self,
        kind: IncidentKind,
        ident: Option<&Ident>,
        source: IpAddr,
        channel: Option<&str>,
        text: &str,
    ) {
        self.add_many(kind, ident, source, channel, text, 1);
    }

    /// Counts as many faults.
    pub(crate) fn add_many(
        &self,
        kind: IncidentKind,
        ident: Option<&Ident>,
        source: IpAddr,
        channel: Option<&str>,
        text: &str,
        count: u64,
    ) {
        // A name that no channel can have is in the text.
        let channel = channel.and_then(|name| Channel::new(name).ok());
        self.count(kind, (ident.cloned(), source.into(), channel), count, Some(text), Instant::now());
    }

    /// Counts messages that a slow subscriber does not get. The text is the channel of the last, as far as
    /// that is told.
    pub(crate) fn dropped(&self, ident: &Ident, source: IpAddr, channel: Option<&str>, messages: u64, now: Instant) {
        if messages > 0 {
            self.count(IncidentKind::Dropped, (Some(ident.clone()), source.into(), None), messages, channel, now);
        }
    }

    /// Without a text, an incident keeps the one that it has.
    fn count(&self, kind: IncidentKind, key: Key, count: u64, text: Option<&str>, now: Instant) {
        let time = unix_ms().unsigned_abs();
        let mut table = self.tables[kind as usize].lock();
        if let Some(entry) = table.get_mut(&key, now) {
            entry.count += count;
            entry.last = time;
            if time < entry.moved.saturating_add(STEP) {
                return;
            }
        }
        let id = || self.next.fetch_add(1, Relaxed);
        let new = || Entry { id: id(), first: time, last: time, moved: time, count, text: String::new() };
        let entry = table.refresh(key, now, new);
        entry.moved = time;
        if let Some(text) = text {
            entry.text.clear();
            entry.text.push_str(cut(text));
        }
    }

    /// All incidents, those of the last moment first.
    pub(crate) fn all(&self) -> Vec<Incident> {
        let mut all = Vec::new();
        for kind in IncidentKind::ALL {
            let table = self.tables[kind as usize].lock();
            all.extend(table.iter().map(|((ident, source, channel), entry)| Incident {
                id: entry.id,
                kind,
                ident: ident.as_ref().map(|ident| ident.as_str().to_owned()),
                source: source.ip(),
                channel: channel.as_ref().map(|channel| channel.as_str().to_owned()),
                first: entry.first,
                last: entry.last,
                count: entry.count,
                text: entry.text.clone(),
            }));
        }
        all.sort_by_key(|incident: &Incident| Reverse(incident.last));
        all
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn ip(n: usize) -> IpAddr {
        let [.., b, c, d] = n.to_be_bytes();
        IpAddr::from([10, b, c, d])
    }

    #[test]
    fn faults_of_one_client_are_one_incident() {
        let incidents = Incidents::default();
        let (bob, eve): (Ident, Ident) = ("bob".parse().unwrap(), "eve".parse().unwrap());
        for _ in 0..1000 {
            incidents.add(IncidentKind::DeniedPublish, Some(&bob), ip(1), Some("a"), "no");
        }
        incidents.add(IncidentKind::DeniedPublish, Some(&bob), ip(1), Some("b"), "no");
        incidents.add(IncidentKind::DeniedPublish, Some(&bob), ip(2), Some("a"), "no");
        incidents.add(IncidentKind::DeniedPublish, Some(&eve), ip(1), Some("a"), "no");
        incidents.add(IncidentKind::DeniedSubscribe, Some(&bob), ip(1), Some("a"), &"é".repeat(200));
        let all = incidents.all();
        let mut counts: Vec<_> = all.iter().map(|incident| incident.count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1, 1, 1000]);
        let mut ids: Vec<_> = all.iter().map(|incident| incident.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        let first = all.iter().find(|incident| incident.count == 1000).unwrap();
        assert_eq!((first.ident.as_deref(), first.channel.as_deref(), &*first.text), (Some("bob"), Some("a"), "no"));
        assert!(first.first <= first.last && all.iter().all(|incident| incident.text.len() <= MAX_TEXT));
    }

    #[test]
    fn dropped_messages_are_counted_each() {
        let (incidents, ident) = (Incidents::default(), "slow".parse().unwrap());
        for _ in 0..3 {
            incidents.dropped(&ident, ip(1), Some("a"), 5, Instant::now());
        }
        incidents.dropped(&ident, ip(1), None, 0, Instant::now());
        let all = incidents.all();
        assert_eq!((all.len(), all[0].count, &*all[0].text), (1, 15, "a"));
    }

    #[test]
    fn strangers_push_out_no_incident_of_another_kind() {
        let (incidents, ident) = (Incidents::default(), "bob".parse().unwrap());
        incidents.add(IncidentKind::WrongSecret, Some(&ident), ip(1), None, "");
        for n in 0..5000 {
            let claimed = format!("x{n}").parse().unwrap();
            incidents.add(IncidentKind::UnknownIdent, Some(&claimed), ip(n), None, "");
        }
        let all = incidents.all();
        assert!(all.len() <= MAX_INCIDENTS && all.iter().any(|incident| incident.kind == IncidentKind::WrongSecret));
        assert!(all.iter().any(|incident| incident.ident.as_deref() == Some("x4999")), "the newest is kept");
        assert!(IncidentKind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }
}
