//! The changes of a page: the rows that differ from those that it has, and the order of all of them.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{BrokerSnapshot, ChannelTotals, Consumer, List, Sensor, mailboxes::MailboxView};
use crate::incidents::Incident;

/// A row of a list, which a page knows by its key.
pub(crate) trait Row: Serialize {
    type Key: Serialize + Eq + std::hash::Hash + ?Sized;

    fn key(&self) -> &Self::Key;

    /// Whether a page that has the row before needs nothing.
    fn is_known(&self, before: &Self) -> bool;
}

/// The difference between two snapshots of the same query.
#[derive(Serialize)]
struct Change<'a> {
    at: u64,
    /// The fields that are no list, and have changed.
    set: Map<String, Value>,
    lists: Lists<'a>,
}

#[derive(Serialize)]
struct Lists<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sensors: Option<ListChange<'a, Sensor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumers: Option<ListChange<'a, Consumer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<ListChange<'a, ChannelTotals>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incidents: Option<ListChange<'a, Incident>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes: Option<ListChange<'a, MailboxView>>,
}

/// The difference between two pages of a list.
#[derive(Serialize)]
struct ListChange<'a, T: Row> {
    total: usize,
    matching: usize,
    /// The keys of all rows, in their order, if that has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Vec<&'a T::Key>>,
    rows: Vec<&'a T>,
}

/// The change from one snapshot to another as JSON; `None` when there is none.
pub(crate) fn change(before: &BrokerSnapshot, now: &BrokerSnapshot) -> Option<String> {
    let mut set = head(now)?;
    let old = head(before)?;
    set.retain(|name, value| old.get(name) != Some(value));
    let lists = Lists {
        sensors: rows(&before.sensors, &now.sensors),
        consumers: rows(&before.consumers, &now.consumers),
        channels: rows(&before.channels, &now.channels),
        incidents: rows(&before.incidents, &now.incidents),
        mailboxes: rows(&before.mailboxes, &now.mailboxes),
    };
    let Lists { sensors, consumers, channels, incidents, mailboxes } = &lists;
    let is_same = sensors.is_none() && consumers.is_none() && channels.is_none();
    if set.is_empty() && is_same && incidents.is_none() && mailboxes.is_none() {
        return None;
    }
    serde_json::to_string(&Change { at: now.at, set, lists }).ok()
}

/// The fields of a snapshot that are no list, without its time.
fn head(snapshot: &BrokerSnapshot) -> Option<Map<String, Value>> {
    let head = BrokerSnapshot {
        name: snapshot.name.clone(),
        journal: snapshot.journal.clone(),
        sensors: List::of(Vec::new()),
        consumers: List::of(Vec::new()),
        channels: List::of(Vec::new()),
        incidents: List::of(Vec::new()),
        mailboxes: List::of(Vec::new()),
        ..*snapshot
    };
    let Ok(Value::Object(mut head)) = serde_json::to_value(&head) else { return None };
    head.retain(|name, value| name != "at" && value.get("rows").is_none());
    Some(head)
}

fn rows<'a, T: Row>(before: &'a List<T>, now: &'a List<T>) -> Option<ListChange<'a, T>> {
    let is_ordered = before.rows.len() == now.rows.len()
        && before.rows.iter().zip(&now.rows).all(|(before, now)| before.key() == now.key());
    let rows: Vec<_> = if is_ordered {
        before.rows.iter().zip(&now.rows).filter(|(before, now)| !now.is_known(before)).map(|(_, now)| now).collect()
    } else {
        let known: HashMap<_, _> = before.rows.iter().map(|row| (row.key(), row)).collect();
        now.rows.iter().filter(|row| known.get(row.key()).is_none_or(|before| !row.is_known(before))).collect()
    };
    let is_same = is_ordered && rows.is_empty() && (before.total, before.matching) == (now.total, now.matching);
    let order = (!is_ordered).then(|| now.rows.iter().map(Row::key).collect());
    (!is_same).then_some(ListChange { total: now.total, matching: now.matching, order, rows })
}

impl Row for Sensor {
    type Key = str;

    fn key(&self) -> &str {
        &self.ident
    }

    /// The seconds of silence of a sensor that is connected go on by themselves.
    fn is_known(&self, before: &Self) -> bool {
        if self.quiet < before.quiet {
            return false;
        }
        let Self { ident, state, since, published, connected, left, reason, peer, software, .. } = self;
        let Self { connections, rate, usual_rate, quiet: _, usual_gap, messages, .. } = self;
        (*state, *since, *published, *connected, *left, *reason)
            == (before.state, before.since, before.published, before.connected, before.left, before.reason)
            && (*connections, *rate, *usual_rate, *usual_gap, *messages)
                == (before.connections, before.rate, before.usual_rate, before.usual_gap, before.messages)
            && (ident, peer, software) == (&before.ident, &before.peer, &before.software)
    }
}

impl Row for Consumer {
    type Key = str;

    fn key(&self) -> &str {
        &self.ident
    }

    fn is_known(&self, before: &Self) -> bool {
        self == before
    }
}

impl Row for ChannelTotals {
    type Key = str;

    fn key(&self) -> &str {
        &self.channel
    }

    fn is_known(&self, before: &Self) -> bool {
        self == before
    }
}

impl Row for Incident {
    type Key = u64;

    fn key(&self) -> &u64 {
        &self.id
    }

    fn is_known(&self, before: &Self) -> bool {
        self == before
    }
}

impl Row for MailboxView {
    type Key = str;

    fn key(&self) -> &str {
        &self.mailbox
    }

    fn is_known(&self, before: &Self) -> bool {
        self == before
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prop_assert_eq, proptest};
    use serde_json::json;

    use super::*;
    use crate::{
        presence::record::State,
        util::property::cases,
        view::build::tests::{sensor, snapshot},
    };

    fn difference(before: &BrokerSnapshot, now: &BrokerSnapshot) -> Option<Value> {
        change(before, now).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_page_gets_the_rows_that_it_does_not_have() {
        let one = || sensor("one", State::Ok, 10, 5);
        let two = || sensor("two", State::Ok, 20, 5);
        let before = snapshot(vec![one(), two()]);
        let mut now = snapshot(vec![one(), two()]);
        now.at = 1000;
        assert_eq!(difference(&before, &now), None, "time passes");
        now.sensors.rows[0].quiet = 1;
        assert_eq!(difference(&before, &now), None, "and silence with it");
        now.sensors.rows[0].rate = 6;
        let rows = json!([now.sensors.rows[0]]);
        let expected = json!({"at": 1000, "set": {}, "lists": {"sensors": {"total": 2, "matching": 2, "rows": rows}}});
        assert_eq!(difference(&before, &now), Some(expected));
        // Another order, and one that has gone and one that has come.
        let now = snapshot(vec![two(), one()]);
        let of = |rows: Value, order: Value| json!({"total": 2, "matching": 2, "order": order, "rows": rows});
        assert_eq!(difference(&before, &now).unwrap()["lists"]["sensors"], of(json!([]), json!(["two", "one"])));
        let now = snapshot(vec![sensor("new", State::Gone, 1, 0), one()]);
        assert_eq!(
            difference(&before, &now).unwrap()["lists"]["sensors"],
            of(json!([now.sensors.rows[0]]), json!(["new", "one"]))
        );
        let mut quiet = snapshot(vec![one(), two()]);
        quiet.sensors.rows[0].quiet = 7;
        assert_eq!(difference(&quiet, &before).unwrap()["lists"]["sensors"]["rows"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_page_gets_the_fields_that_have_changed() {
        let before = snapshot(Vec::new());
        let mut now = snapshot(Vec::new());
        now.connections = 3;
        now.states.ok = 1;
        let states = serde_json::to_value(now.states).unwrap();
        let expected = json!({"at": 0, "set": {"connections": 3, "states": states}, "lists": {}});
        assert_eq!(difference(&before, &now), Some(expected));
        now.channels.total = 9;
        assert_eq!(
            difference(&before, &now).unwrap()["lists"]["channels"],
            json!({"total": 9, "matching": 0, "rows": []})
        );
    }

    /// Applies a change as a page does.
    fn apply(page: &mut Value, change: &Value) {
        for (name, value) in change["set"].as_object().unwrap() {
            page[name] = value.clone();
        }
        for (name, change) in change["lists"].as_object().unwrap() {
            let list = &mut page[name];
            (list["total"], list["matching"]) = (change["total"].clone(), change["matching"].clone());
            let rows = list["rows"].as_array().unwrap();
            let key = |row: &Value| row["ident"].clone();
            let order = match change.get("order") {
                Some(order) => order.as_array().unwrap().clone(),
                None => rows.iter().map(key).collect(),
            };
            let all = || change["rows"].as_array().unwrap().iter().chain(rows);
            let rows = order.iter().map(|wanted| all().find(|row| key(row) == *wanted).unwrap().clone()).collect();
            list["rows"] = Value::Array(rows);
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_page_that_applies_all_changes_has_the_last_snapshot(
            steps in vec((vec((0..6_usize, 0..3_u32), 0..6), 0..2_u64, 0..2_usize), 1..8)
        ) {
            let mut before = snapshot(Vec::new());
            let mut page = serde_json::to_value(&before).unwrap();
            for (rows, connections, more) in steps {
                let mut seen = HashSet::new();
                let rows = rows.into_iter().filter(|(ident, _)| seen.insert(*ident));
                let sensors = rows.map(|(ident, rate)| sensor(&format!("s{ident}"), State::Ok, 1, rate)).collect();
                let mut now = snapshot(sensors);
                now.connections = connections;
                now.sensors.total += more;
                if let Some(change) = difference(&before, &now) {
                    apply(&mut page, &change);
                }
                prop_assert_eq!(&page, &serde_json::to_value(&now).unwrap());
                before = now;
            }
        }
    }
}
