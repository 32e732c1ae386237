//! Presence: when each ident published, connected and left, for at most 10,000 idents.
//!
//! A sampler looks once a second at the counters of open connections, so that a message costs nothing
//! here. Silence is counted in these looks, while the ident is connected: time in which it is away, or
//! in which the broker is down or its machine asleep, is no gap.

pub(crate) mod file;
pub(crate) mod record;
mod rounded;

use std::{collections::HashMap, io, net::SocketAddr, path::Path, sync::Arc};

use hpfeeds::wire::Ident;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    metrics::connection::ConnectionCounters,
    presence::record::{Departure, Record},
    util::{clock::unix_seconds, collections::shrink},
};

/// The most idents. A new one takes the place of the one that left longest ago; when all are
/// connected, it has none.
pub(crate) const MAX_IDENTS: usize = 10_000;

/// Idents that left so many seconds ago are forgotten.
const KEEP: u32 = 30 * record::DAY;

/// The longest time between two looks that counts as silence, in seconds.
const LONGEST_STEP: u32 = 10;

/// When idents published, connected and left.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    table: Mutex<Table>,
    /// Held while the file is written.
    storing: Mutex<()>,
    /// The idents that have keys, in order: as the key stores told them last.
    keys: Mutex<Arc<[Ident]>>,
    /// An ident has connected.
    pub(crate) arrived: Notify,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<Ident, Record>,
    /// Open connections that are in a record.
    connections: usize,
    /// Something has changed since the records were [saved](Presence::save).
    changed: bool,
}

/// An open connection of an ident. A guard: unless it [leaves](Self::leave) with a reason, the
/// connection was cut.
#[derive(Debug)]
pub(crate) struct Attendance {
    presence: Arc<Presence>,
    ident: Ident,
    counters: Arc<ConnectionCounters>,
    has_left: bool,
    subscribes: bool,
}

impl Presence {
    /// The records of an earlier run.
    pub(crate) fn of(records: HashMap<Ident, Record>) -> Self {
        Self { table: Mutex::new(Table { records, ..Table::default() }), ..Self::default() }
    }

    /// A client has authenticated.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        ident: &Ident,
        peer: SocketAddr,
        counters: &Arc<ConnectionCounters>,
    ) -> Attendance {
        let now = unix_seconds();
        let mut table = self.table.lock();
        if table.records.contains_key(ident) || table.make_room() {
            table.changed = true;
            table.connections += 1;
            let record = table.records.entry(ident.clone()).or_insert_with(|| Record::new(now));
            record.arrive(peer, counters.clone(), now);
        }
        drop(table);
        self.arrived.notify_one();
        let (presence, ident, counters) = (self.clone(), ident.clone(), counters.clone());
        Attendance { presence, ident, counters, has_left: false, subscribes: false }
    }

    /// Looks at all open connections: `passed` seconds after the look before. Returns how many there are.
    pub(crate) fn look(&self, now: u32, passed: u32) -> usize {
        let mut table = self.table.lock();
        if table.connections > 0 {
            table.changed = true;
            let passed = passed.min(LONGEST_STEP);
            for record in table.records.values_mut().filter(|record| record.is_connected()) {
                record.look(now, passed);
            }
        }
        table.connections
    }

    /// Forgets idents that have been away for thirty days.
    pub(crate) fn expire(&self, now: u32) {
        let mut table = self.table.lock();
        table.records.retain(|_, record| record.is_connected() || record.left_at().saturating_add(KEEP) > now);
        shrink(&mut table.records);
    }

    /// For each ident, in order: the time of its last message, and when it was last connected, which is
    /// now if it is.
    pub(crate) fn last_seen(&self, now: u32) -> Vec<(Ident, Option<u32>, u32)> {
        let mut all = self.map(|ident, record| {
            let published = Some(record.stamps().published).filter(|time| *time > 0);
            (ident.clone(), published, if record.is_connected() { now } else { record.left_at() })
        });
        all.sort_unstable();
        all
    }

    /// The results of `read` for each record, in no order.
    pub(crate) fn map<T>(&self, mut read: impl FnMut(&Ident, &Record) -> T) -> Vec<T> {
        self.table.lock().records.iter().map(|(ident, record)| read(ident, record)).collect()
    }

    /// Takes over which idents have keys.
    pub(crate) fn set_keys(&self, mut idents: Vec<Ident>) {
        idents.sort_unstable();
        idents.dedup();
        idents.truncate(MAX_IDENTS);
        *self.keys.lock() = idents.into();
    }

    /// The idents that have keys, in order, at most 10,000.
    pub(crate) fn keys(&self) -> Arc<[Ident]> {
        self.keys.lock().clone()
    }

    /// Stores the records in a folder, if they have changed. Blocks; two calls at once, as at a
    /// shutdown in the middle of the minute's, follow one another.
    pub(crate) fn store(&self, folder: &Path) -> io::Result<()> {
        let _turn = self.storing.lock();
        self.save(unix_seconds()).map_or(Ok(()), |text| file::store(folder, &text))
    }

    /// The records as they are [stored](file), if they have changed since the last call.
    fn save(&self, now: u32) -> Option<String> {
        let mut table = self.table.lock();
        std::mem::take(&mut table.changed).then(|| file::write(&table.records, now))
    }

    fn update(&self, ident: &Ident, counters: &Arc<ConnectionCounters>, update: impl FnOnce(&mut Record)) {
        let mut table = self.table.lock();
        if let Some(record) = table.records.get_mut(ident).filter(|record| record.has(counters)) {
            update(record);
            table.changed = true;
        }
    }
}

impl Table {
    /// Whether there is room for a new ident.
    fn make_room(&mut self) -> bool {
        if self.records.len() < MAX_IDENTS {
            return true;
        }
        let away = self.records.iter().filter(|(_, record)| !record.is_connected());
        let oldest = away.min_by_key(|(_, record)| record.left_at()).map(|(ident, _)| ident.clone());
        oldest.is_some_and(|ident| self.records.remove(&ident).is_some())
    }
}

impl Attendance {
    /// The program of the client, as it names it.
    pub(crate) fn software(&self, name: &str) {
        self.presence.update(&self.ident, &self.counters, |record| record.name(name));
    }

    /// The client has subscribed to something.
    pub(crate) fn subscribes(&mut self) {
        if !std::mem::replace(&mut self.subscribes, true) {
            self.presence.update(&self.ident, &self.counters, Record::subscribe);
        }
    }

    /// The connection has ended. Only the first call counts.
    pub(crate) fn leave(&mut self, reason: Departure) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let now = unix_seconds();
        let mut table = self.presence.table.lock();
        let record = table.records.get_mut(&self.ident);
        if record.is_some_and(|record| record.leave(&self.counters, reason, now)) {
            table.connections -= 1;
            table.changed = true;
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.leave(Departure::Cut);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::metrics::session::SessionMetrics;

    fn ident(n: usize) -> Ident {
        format!("sensor-{n}").parse().unwrap()
    }

    fn peer() -> SocketAddr {
        ([192, 0, 2, 1], 5).into()
    }

    #[test]
    fn a_full_table_forgets_the_ident_that_left_longest_ago() {
        let old = (0..MAX_IDENTS).map(|n| {
            let mut record = Record::new(10);
            let session = SessionMetrics::for_test("sensor");
            record.arrive(peer(), session.counters().clone(), 10);
            assert!(record.leave(session.counters(), Departure::Closed, 20_000 - u32::try_from(n).unwrap()));
            (ident(n), record)
        });
        let presence = Arc::new(Presence::of(old.collect()));
        let session = SessionMetrics::for_test("new");
        let there = presence.arrive(&"new".parse().unwrap(), peer(), session.counters());
        assert_eq!(presence.table.lock().records.len(), MAX_IDENTS);
        assert!(!presence.table.lock().records.contains_key(&ident(MAX_IDENTS - 1)));
        assert_eq!(presence.look(30_000, 1), 1);
        drop(there);
        assert_eq!(presence.look(30_000, 1), 0);
        presence.expire(20_000 + KEEP);
        assert_eq!(presence.last_seen(0).len(), 1, "the new one left just now, the others thirty days ago");
    }

    #[test]
    fn idents_without_a_place_are_not_counted() {
        let all = (0..MAX_IDENTS).map(|n| {
            let mut record = Record::new(10);
            record.arrive(peer(), SessionMetrics::for_test("sensor").counters().clone(), 10);
            (ident(n), record)
        });
        let presence = Arc::new(Presence::of(all.collect()));
        let session = SessionMetrics::for_test("new");
        let mut there = presence.arrive(&"new".parse().unwrap(), peer(), session.counters());
        there.software("x");
        there.subscribes();
        there.leave(Departure::Closed);
        assert_eq!((presence.last_seen(0).len(), presence.look(20, 1)), (MAX_IDENTS, 0));
    }

    #[test]
    fn a_record_takes_no_more_than_160_bytes() {
        let size = size_of::<(Ident, Record)>();
        assert!(size <= 160, "{size}");
    }
}
