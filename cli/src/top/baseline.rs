//! Counting from now: the counts of a moment, which later ones are shown less.

use std::collections::HashMap;

use super::model::{Books, Channel, Consumer, Incident, Snapshot};

/// The most rows of a list whose counts are kept. Rows beyond count from the broker's start.
pub(super) const MOST: usize = 10_000;

/// The counts of a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Baseline {
    /// In milliseconds since 1970, by the broker's clock.
    pub(super) at: u64,
    /// The start of the broker: another one has counted anew.
    started: u64,
    books: Books,
    sensors: HashMap<String, u64>,
    /// Bytes that were sent, and dropped messages.
    consumers: HashMap<String, (u64, u64)>,
    /// Messages, bytes, and messages without a subscriber.
    channels: HashMap<String, (u64, u64, u64)>,
    incidents: HashMap<Key, u64>,
    mailboxes: HashMap<String, u64>,
}

/// The key of an incident: kind, ident, source, channel.
type Key = (String, Option<String>, String, Option<String>);

fn key(incident: &Incident) -> Key {
    let Incident { kind, ident, source, channel, .. } = incident.clone();
    (kind, ident, source, channel)
}

impl Baseline {
    /// Takes up the rows of a snapshot, the first or one of the pages after it.
    pub(super) fn add(&mut self, page: Snapshot) {
        if self.at == 0 {
            (self.at, self.started, self.books) = (page.at, page.started, page.books);
        }
        self.incidents.extend(page.incidents.rows.iter().map(|row| (key(row), row.count)));
        self.sensors.extend(page.sensors.rows.into_iter().map(|row| (row.ident, row.messages)));
        self.consumers.extend(page.consumers.rows.into_iter().map(|row| (row.ident, (row.sent, row.dropped))));
        let counts = |row: Channel| (row.channel, (row.messages, row.bytes, row.unrouted));
        self.channels.extend(page.channels.rows.into_iter().map(counts));
        self.mailboxes.extend(page.mailboxes.rows.into_iter().map(|row| (row.mailbox, row.lost)));
    }

    /// Whether a snapshot counts from the same start.
    pub(super) fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.started == snapshot.started
    }

    /// Takes the counts of then off those of a snapshot. Counts of rows that were not there then stay; a count
    /// that began anew is shown whole.
    pub(super) fn take_off(&self, snapshot: &mut Snapshot) {
        let Books { copies, delivered, queued, dropped, cut_off, wanted, stored, not_stored, lost } = self.books;
        // Copies that were queued then are delivered or lost since: with them, both sides are the same.
        let copies = copies.saturating_sub(queued);
        let books = &mut snapshot.books;
        for (now, then) in [
            (&mut books.copies, copies),
            (&mut books.delivered, delivered),
            (&mut books.dropped, dropped),
            (&mut books.cut_off, cut_off),
            (&mut books.wanted, wanted),
            (&mut books.stored, stored),
            (&mut books.not_stored, not_stored),
            (&mut books.lost, lost),
        ] {
            less(now, then);
        }
        for row in &mut snapshot.sensors.rows {
            less(&mut row.messages, self.sensors.get(&row.ident).copied().unwrap_or(0));
        }
        for row in &mut snapshot.consumers.rows {
            let (sent, dropped) = self.consumers.get(&row.ident).copied().unwrap_or_default();
            let Consumer { sent: now, dropped: now_dropped, .. } = row;
            less(now, sent);
            less(now_dropped, dropped);
        }
        for row in &mut snapshot.channels.rows {
            let (messages, bytes, unrouted) = self.channels.get(&row.channel).copied().unwrap_or_default();
            less(&mut row.messages, messages);
            less(&mut row.bytes, bytes);
            less(&mut row.unrouted, unrouted);
        }
        for row in &mut snapshot.incidents.rows {
            let then = self.incidents.get(&key(row)).copied().unwrap_or(0);
            less(&mut row.count, then);
        }
        for row in &mut snapshot.mailboxes.rows {
            less(&mut row.lost, self.mailboxes.get(&row.mailbox).copied().unwrap_or(0));
        }
    }
}

/// Takes off what was counted before, unless the count has begun anew since.
fn less(now: &mut u64, then: u64) {
    *now = now.checked_sub(then).unwrap_or(*now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::model::{List, Sensor};

    fn snapshot(started: u64, sensors: &[(&str, u64)], copies: u64, refused: u64) -> Snapshot {
        let sensor =
            |&(ident, messages): &(&str, u64)| Sensor { ident: ident.to_owned(), messages, ..Sensor::default() };
        let incident = Incident { kind: "wrong-secret".to_owned(), count: refused, ..Incident::default() };
        Snapshot {
            at: 5000,
            started,
            books: Books { copies, delivered: copies, queued: 3, ..Books::default() },
            sensors: List { rows: sensors.iter().map(sensor).collect(), ..List::default() },
            incidents: List { rows: vec![incident], ..List::default() },
            ..Snapshot::default()
        }
    }

    #[test]
    fn counts_are_those_since_the_moment() {
        let mut baseline = Baseline::default();
        baseline.add(snapshot(1, &[("a", 10)], 100, 4));
        baseline.add(snapshot(1, &[("b", 20)], 105, 4));
        assert_eq!(baseline.at, 5000);
        let mut now = snapshot(1, &[("a", 12), ("b", 5), ("new", 7)], 130, 9);
        assert!(baseline.is_of(&now) && !baseline.is_of(&snapshot(2, &[], 0, 0)));
        baseline.take_off(&mut now);
        let messages: Vec<_> = now.sensors.rows.iter().map(|row| row.messages).collect();
        assert_eq!(messages, [2, 5, 7], "b has begun anew, and new was not there");
        assert_eq!((now.books.copies, now.books.queued, now.incidents.rows[0].count), (33, 3, 5));
        assert_eq!(now.books.copies, now.books.delivered + now.books.queued);
    }
}
