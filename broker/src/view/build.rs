//! The builder of a snapshot: reads counters, presence and incidents of a broker.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, HashMap, HashSet},
};

use hpfeeds::wire::Ident;
use tokio::time::timeout;
use tracing::debug;

use crate::{
    context::BrokerContext,
    metrics::{ident::IdentCounts, snapshot::Snapshot},
    presence::record::{Record, State},
    util::clock::{unix_ms, unix_seconds},
    view::{BrokerSnapshot, ChannelTotals, Consumer, List, Sensor, States, mailboxes},
};

impl BrokerContext {
    /// The operator's view, with all rows.
    pub(crate) fn view(&self) -> BrokerSnapshot {
        let now = unix_seconds();
        let numbers = self.snapshot();
        let counts: HashMap<_, _> = numbers.idents.iter().map(|(ident, counts)| (ident, counts)).collect();
        let (mut sensors, mut consumers, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        let rows = self.presence.map(|ident, record| {
            let counts = counts.get(ident).copied();
            let sensor = (!record.is_consumer()).then(|| sensor(ident, record, counts, now));
            let consumer = record.has_subscribed().then(|| consumer(ident, record, counts, now));
            (ident.clone(), sensor, consumer)
        });
        for (ident, sensor, consumer) in rows {
            sensors.extend(sensor);
            consumers.extend(consumer);
            known.insert(ident);
        }
        let keys = self.presence.keys();
        // A key of the environment stands there in upper case, and is for every spelling.
        let spelt: LazyCell<HashSet<String>, _> =
            LazyCell::new(|| known.iter().map(|ident| ident.to_uppercase()).collect());
        let is_new = |key: &&Ident| {
            let is_upper = || key.as_str() == key.to_uppercase();
            !(known.contains(*key) || is_upper() && spelt.contains(key.as_str()))
        };
        sensors.extend(keys.iter().filter(is_new).map(never));
        sensors.sort_unstable_by(|one, other| (one.state, &one.ident).cmp(&(other.state, &other.ident)));
        consumers.sort_unstable_by(|one, other| one.ident.cmp(&other.ident));
        let mut states = States::default();
        for sensor in &sensors {
            states.add(sensor.state);
        }
        let mut books = numbers.books;
        let stored = self.journal.as_ref().map(|store| mailboxes::of(store, &mut books));
        let (journal, mailboxes) = stored.map_or((None, Vec::new()), |(journal, rows)| (Some(journal), rows));
        BrokerSnapshot {
            at: unix_ms().unsigned_abs(),
            started: self.started.into(),
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            ready: self.readiness().is_ok(),
            connections: numbers.levels.connections as u64,
            max_connections: numbers.levels.max_connections as u64,
            states,
            rates: self.metrics.rates.rates(&self.metrics.counters),
            books,
            difference: books.difference(),
            journal,
            sensors: List::of(sensors),
            consumers: List::of(consumers),
            channels: List::of(channels(&numbers)),
            incidents: List::of(self.incidents.all()),
            mailboxes: List::of(mailboxes),
        }
    }

    /// Asks the key stores for the idents that have keys.
    pub(crate) async fn list_keys(&self) {
        match timeout(self.config.auth_timeout, self.store.idents()).await {
            Ok(Ok(idents)) => self.presence.set_keys(idents),
            Ok(Err(cause)) => debug!(%cause, "cannot list the keys"),
            Err(_) => debug!("cannot list the keys: the key stores do not answer"),
        }
    }
}

fn sensor(ident: &Ident, record: &Record, counts: Option<&IdentCounts>, now: u32) -> Sensor {
    let (state, since) = record.state(now);
    let stamps = record.stamps();
    let channels = counts.map(|counts| counts.channels.as_slice()).unwrap_or_default();
    Sensor {
        ident: ident.as_str().to_owned(),
        state,
        since: stamp(since),
        published: stamp(stamps.published),
        connected: stamp(stamps.connected),
        left: stamp(stamps.left),
        reason: record.reason(),
        peer: record.peer().map(|peer| peer.to_string()),
        software: record.software().map(str::to_owned),
        connections: record.connections(),
        rate: record.rate(now),
        usual_rate: record.usual_rate(),
        quiet: record.quiet(),
        usual_gap: record.usual_gap(),
        messages: channels.iter().filter_map(|(_, counts)| counts.published()).sum(),
    }
}

/// A key without a connection on record.
fn never(ident: &Ident) -> Sensor {
    Sensor {
        ident: ident.as_str().to_owned(),
        state: State::Never,
        since: None,
        published: None,
        connected: None,
        left: None,
        reason: None,
        peer: None,
        software: None,
        connections: 0,
        rate: 0,
        usual_rate: 0,
        quiet: 0,
        usual_gap: 0,
        messages: 0,
    }
}

fn consumer(ident: &Ident, record: &Record, counts: Option<&IdentCounts>, now: u32) -> Consumer {
    let stamps = record.stamps();
    let is_connected = record.is_connected();
    let (state, since) = if is_connected { (State::Ok, stamps.connected) } else { record.state(now) };
    let channels = counts.map(|counts| counts.channels.as_slice()).unwrap_or_default();
    let totals = counts.map(|counts| counts.totals).unwrap_or_default();
    Consumer {
        ident: ident.as_str().to_owned(),
        state,
        since: since.into(),
        peer: record.peer().map(|peer| peer.to_string()),
        software: record.software().map(str::to_owned),
        connections: record.connections(),
        subscriptions: channels.iter().filter_map(|(_, counts)| counts.subscriptions).sum(),
        queued: totals.queued,
        sent: totals.drained,
        dropped: totals.dropped,
    }
}

fn channels(numbers: &Snapshot) -> Vec<ChannelTotals> {
    let mut all = BTreeMap::new();
    let none = |channel: &str| ChannelTotals {
        channel: channel.to_owned(),
        messages: 0,
        bytes: 0,
        publishers: 0,
        subscriptions: 0,
        unrouted: 0,
    };
    for (channel, counts) in numbers.idents.iter().flat_map(|(_, counts)| &counts.channels) {
        let totals = all.entry(channel.as_str()).or_insert_with_key(|channel| none(channel));
        let published = counts.published();
        totals.messages += published.unwrap_or_default();
        totals.bytes += counts.bytes;
        totals.publishers += usize::from(published.is_some());
        totals.subscriptions += counts.subscriptions.unwrap_or_default();
    }
    for (channel, unrouted) in &numbers.unrouted {
        all.entry(channel.as_str()).or_insert_with_key(|channel| none(channel)).unrouted = *unrouted;
    }
    all.into_values().collect()
}

fn stamp(seconds: u32) -> Option<u64> {
    (seconds > 0).then_some(seconds.into())
}

#[cfg(all(test, feature = "dashboard"))]
pub(crate) mod tests {
    use super::*;
    use crate::metrics::{books::Books, rates::Rates};

    /// A sensor in a state since a time, at a rate.
    pub(crate) fn sensor(ident: &str, state: State, since: u64, rate: u32) -> Sensor {
        let ident = &ident.parse().expect("a legal name");
        Sensor { state, since: Some(since), rate, ..never(ident) }
    }

    /// A snapshot of these sensors.
    pub(crate) fn snapshot(sensors: Vec<Sensor>) -> BrokerSnapshot {
        BrokerSnapshot {
            at: 0,
            started: 0,
            name: String::new(),
            version: "",
            ready: true,
            connections: 0,
            max_connections: 0,
            states: States::default(),
            rates: Rates::default(),
            books: Books::default(),
            difference: 0,
            journal: None,
            sensors: List::of(sensors),
            consumers: List::of(Vec::new()),
            channels: List::of(Vec::new()),
            incidents: List::of(Vec::new()),
            mailboxes: List::of(Vec::new()),
        }
    }
}
