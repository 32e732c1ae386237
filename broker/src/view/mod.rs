//! The operator's view of a broker: one snapshot of sensors, consumers, channels, incidents and
//! mailboxes, with the books.

pub(crate) mod build;
#[cfg(feature = "dashboard")]
pub(crate) mod fields;
#[cfg(feature = "dashboard")]
pub(crate) mod live;
pub(crate) mod mailboxes;
#[cfg(feature = "dashboard")]
pub(crate) mod query;
pub(crate) mod sampler;
#[cfg(feature = "dashboard")]
pub(crate) mod shown;
#[cfg(feature = "dashboard")]
pub(crate) mod sources;
#[cfg(feature = "dashboard")]
pub(crate) mod tail;

use serde::Serialize;

use self::mailboxes::{JournalView, MailboxView};
use crate::{
    incidents::Incident,
    metrics::{books::Books, rates::Rates},
    presence::record::State,
};

/// All that an operator looks at, at one moment: [`Broker::snapshot`](crate::broker::Broker::snapshot).
///
/// Times are in seconds since 1970 unless they say milliseconds. Idents, channels, names of programs
/// and texts come from clients and may hold any character.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BrokerSnapshot {
    /// The time of the snapshot in milliseconds since 1970.
    pub at: u64,
    /// The start of the broker.
    pub started: u64,
    /// The name in INFO.
    pub name: String,
    /// The version of the broker.
    pub version: &'static str,
    /// Whether it accepts connections.
    pub ready: bool,
    /// Open connections, authenticated or not.
    pub connections: u64,
    /// How many may be open.
    pub max_connections: u64,
    /// How many idents that publish are in each state.
    pub states: States,
    /// Rates of the last seconds.
    pub rates: Rates,
    /// Copies of messages and stored messages, and what became of them.
    pub books: Books,
    /// [`Books::difference`]: zero, or a fault in the broker.
    pub difference: i64,
    /// The journal, if there is a data folder.
    pub journal: Option<JournalView>,
    /// Idents that publish, or have not done anything yet: the worst first.
    pub sensors: List<Sensor>,
    /// Idents that have subscribed, in order.
    pub consumers: List<Consumer>,
    /// Channels, in order.
    pub channels: List<ChannelTotals>,
    /// Faults of clients, the last first.
    pub incidents: List<Incident>,
    /// Mailboxes, in order; none without a data folder.
    pub mailboxes: List<MailboxView>,
}

/// Rows of a table, all of them or a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct List<T> {
    /// How many rows there are.
    pub total: usize,
    /// How many of them the filter lets pass.
    pub matching: usize,
    /// The rows of the page.
    pub rows: Vec<T>,
}

/// Numbers of idents by [`State`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "they are the names of the states")]
#[non_exhaustive]
pub struct States {
    pub gone: usize,
    pub silent: usize,
    pub flood: usize,
    pub never: usize,
    pub learning: usize,
    pub ok: usize,
}

/// An ident that publishes, or has not done anything yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sensor {
    /// The ident.
    pub ident: String,
    /// Its state.
    pub state: State,
    /// The beginning of the state; `None` for a key without a connection on record.
    pub since: Option<u64>,
    /// The last message.
    pub published: Option<u64>,
    /// The latest connection.
    pub connected: Option<u64>,
    /// The end of the connection that ended last, and its reason.
    pub left: Option<u64>,
    /// See [`left`](Self::left): such as `closed`, `broken` or `shutdown`.
    pub reason: Option<&'static str>,
    /// The address and port of the latest connection.
    pub peer: Option<String>,
    /// The program, as it names itself in the extension's HELLO.
    pub software: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Messages in the last minute.
    pub rate: u32,
    /// Messages in the busiest minute of a usual day.
    pub usual_rate: u32,
    /// Seconds without a message while it was connected.
    pub quiet: u32,
    /// The longest of these times in seven days.
    pub usual_gap: u32,
    /// Messages since the start of the broker, or since it was unused for an hour.
    pub messages: u64,
}

/// An ident that has subscribed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Consumer {
    /// The ident.
    pub ident: String,
    /// `ok` while it is connected, and otherwise `gone`.
    pub state: State,
    /// The beginning of the state.
    pub since: u64,
    /// The address and port of the latest connection.
    pub peer: Option<String>,
    /// The program, as it names itself in the extension's HELLO.
    pub software: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Subscriptions of these.
    pub subscriptions: i64,
    /// Bytes that are queued.
    pub queued: u64,
    /// Bytes that were written to it.
    pub sent: u64,
    /// Messages that it did not get as it was slow.
    pub dropped: u64,
}

/// A channel, over all idents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChannelTotals {
    /// The channel, or a pattern that was subscribed to.
    pub channel: String,
    /// Messages, and the bytes of their payloads.
    pub messages: u64,
    /// See [`messages`](Self::messages).
    pub bytes: u64,
    /// Idents that have published to it.
    pub publishers: usize,
    /// Subscriptions of open connections.
    pub subscriptions: i64,
    /// Messages without a subscriber.
    pub unrouted: u64,
}

impl<T> List<T> {
    fn of(rows: Vec<T>) -> Self {
        Self { total: rows.len(), matching: rows.len(), rows }
    }
}

impl States {
    fn add(&mut self, state: State) {
        let count = match state {
            State::Gone => &mut self.gone,
            State::Silent => &mut self.silent,
            State::Flood => &mut self.flood,
            State::Never => &mut self.never,
            State::Learning => &mut self.learning,
            State::Ok => &mut self.ok,
        };
        *count += 1;
    }
}
