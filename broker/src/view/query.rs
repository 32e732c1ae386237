//! The query of a snapshot: which lists, which of their rows, in which order, and which page.

use super::{BrokerSnapshot, ChannelTotals, Consumer, List, Sensor, mailboxes::MailboxView, tail::Filters};
use crate::{incidents::Incident, presence::record::State};

/// The rows of a page, unless the query says another number, and the most.
const LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

/// The longest text to look for, in bytes.
const MAX_TEXT: usize = 255;

/// The columns that rows are sorted by. A list that has no such column keeps its own order.
const COLUMNS: [&str; 18] = [
    "state",
    "ident",
    "since",
    "published",
    "rate",
    "messages",
    "queued",
    "sent",
    "dropped",
    "channel",
    "bytes",
    "unrouted",
    "last",
    "first",
    "count",
    "mailbox",
    "waiting",
    "oldest",
];

/// The lists of a snapshot.
const LISTS: [&str; 5] = ["sensors", "consumers", "channels", "incidents", "mailboxes"];

/// A query, as it stands behind the path of a request: `state=gone,silent&sort=-since&limit=50`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// In lower case. Rows without it are left out.
    text: String,
    /// Empty for all.
    states: Vec<State>,
    /// One of [`COLUMNS`].
    sort: &'static str,
    descending: bool,
    offset: usize,
    limit: usize,
    /// Some of [`LISTS`].
    lists: Vec<&'static str>,
}

/// The query of a stream: that of a snapshot, and with `tail=1` the filters of messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamQuery {
    pub(crate) snapshot: Query,
    pub(crate) tails: bool,
    pub(crate) filters: Filters,
}

impl StreamQuery {
    /// Reads a query. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in pairs(text) {
            let (name, value) = pair?;
            if name == "tail" {
                query.tails = match &*value {
                    "1" => true,
                    "" | "0" => false,
                    _ => return Err("tail: 1 or 0".to_owned()),
                };
            } else if let Some(done) = query.filters.set(name, &value) {
                done?;
            } else {
                query.snapshot.set(name, &value)?;
            }
        }
        Ok(query)
    }
}

impl Default for Query {
    fn default() -> Self {
        let (sort, limit, lists) = ("state", LIMIT, LISTS.to_vec());
        Self { text: String::new(), states: Vec::new(), sort, descending: false, offset: 0, limit, lists }
    }
}

impl Query {
    /// Reads a query. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in pairs(text) {
            let (name, value) = pair?;
            query.set(name, &value)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<usize>().map_err(|_| format!("{name}: a number is wanted"));
        match name {
            "q" if value.len() > MAX_TEXT => return Err(format!("q: at most {MAX_TEXT} bytes")),
            "q" => self.text = value.to_lowercase(),
            "state" => {
                let known = |name| {
                    let of = State::ALL.iter().find(|(_, known)| *known == name).map(|(state, _)| *state);
                    of.ok_or("state: gone, silent, flood, never, learning or ok, with commas between")
                };
                self.states = value.split(',').filter(|name| !name.is_empty()).map(known).collect::<Result<_, _>>()?;
            }
            "sort" => {
                let name = value.strip_prefix('-');
                self.descending = name.is_some();
                let name = name.unwrap_or(value);
                self.sort = COLUMNS
                    .into_iter()
                    .find(|column| *column == name)
                    .ok_or_else(|| format!("sort: {}, with - from above", COLUMNS.join(", ")))?;
            }
            "offset" => self.offset = number()?,
            "limit" => self.limit = number()?.min(MAX_LIMIT),
            "list" => {
                let names: Vec<_> = value.split(',').collect();
                self.lists = LISTS.into_iter().filter(|list| names.contains(list)).collect();
            }
            // A link carries what others may have added.
            _ => return Err("the parameters are q, state, sort, offset, limit and list".to_owned()),
        }
        Ok(())
    }

    /// Leaves the rows that are asked for.
    pub(crate) fn apply(&self, snapshot: &mut BrokerSnapshot) {
        let has = |text: &str| self.text.is_empty() || text.to_lowercase().contains(&self.text);
        let any = |texts: [Option<&str>; 3]| texts.into_iter().flatten().any(has);
        let of_state = |state| self.states.is_empty() || self.states.contains(&state);
        let names = |row: &Sensor| any([Some(&row.ident), row.peer.as_deref(), row.software.as_deref()]);
        snapshot.sensors.rows.retain(|row| of_state(row.state) && names(row));
        let names = |row: &Consumer| any([Some(&row.ident), row.peer.as_deref(), row.software.as_deref()]);
        snapshot.consumers.rows.retain(names);
        snapshot.channels.rows.retain(|row| has(&row.channel));
        let is_about = |row: &Incident| {
            any([row.ident.as_deref(), row.channel.as_deref(), Some(&row.text)]) || has(&row.source.to_string())
        };
        snapshot.incidents.rows.retain(is_about);
        snapshot.mailboxes.rows.retain(|row| has(&row.mailbox));
        self.page(&mut snapshot.sensors, "sensors", sort_sensors);
        self.page(&mut snapshot.consumers, "consumers", sort_consumers);
        self.page(&mut snapshot.channels, "channels", sort_channels);
        self.page(&mut snapshot.incidents, "incidents", sort_incidents);
        self.page(&mut snapshot.mailboxes, "mailboxes", sort_mailboxes);
    }

    /// Sorts a list and leaves its page. Rows with the same value stay in the list's own order.
    fn page<T>(&self, list: &mut List<T>, name: &str, sort: impl FnOnce(&mut [T], &str) -> bool) {
        list.matching = list.rows.len();
        if !self.lists.contains(&name) {
            return list.rows.clear();
        }
        if sort(&mut list.rows, self.sort) && self.descending {
            list.rows.reverse();
        }
        list.rows.drain(..self.offset.min(list.rows.len()));
        list.rows.truncate(self.limit);
    }
}

/// Sorts by a column; false when the rows have none of that name. They come in the order of states and
/// idents.
fn sort_sensors(rows: &mut [Sensor], column: &str) -> bool {
    match column {
        "state" => {}
        "ident" => rows.sort_by(|one, other| one.ident.cmp(&other.ident)),
        "since" => rows.sort_by_key(|row| row.since),
        "published" => rows.sort_by_key(|row| row.published),
        "rate" => rows.sort_by_key(|row| row.rate),
        "messages" => rows.sort_by_key(|row| row.messages),
        _ => return false,
    }
    true
}

/// The same; they come in the order of idents.
fn sort_consumers(rows: &mut [Consumer], column: &str) -> bool {
    match column {
        "ident" => {}
        "state" => rows.sort_by_key(|row| row.state),
        "since" => rows.sort_by_key(|row| row.since),
        "queued" => rows.sort_by_key(|row| row.queued),
        "sent" => rows.sort_by_key(|row| row.sent),
        "dropped" => rows.sort_by_key(|row| row.dropped),
        _ => return false,
    }
    true
}

/// The same; they come in the order of channels.
fn sort_channels(rows: &mut [ChannelTotals], column: &str) -> bool {
    match column {
        "channel" => {}
        "messages" => rows.sort_by_key(|row| row.messages),
        "bytes" => rows.sort_by_key(|row| row.bytes),
        "unrouted" => rows.sort_by_key(|row| row.unrouted),
        _ => return false,
    }
    true
}

/// The same; the last comes first.
fn sort_incidents(rows: &mut [Incident], column: &str) -> bool {
    match column {
        "last" => rows.sort_by_key(|row| row.last),
        "first" => rows.sort_by_key(|row| row.first),
        "count" => rows.sort_by_key(|row| row.count),
        _ => return false,
    }
    true
}

/// The same; they come in the order of mailboxes.
fn sort_mailboxes(rows: &mut [MailboxView], column: &str) -> bool {
    match column {
        "mailbox" => {}
        "since" => rows.sort_by_key(|row| row.since),
        "waiting" => rows.sort_by_key(|row| row.waiting),
        "oldest" => rows.sort_by_key(|row| row.oldest),
        _ => return false,
    }
    true
}

/// The parameters of a query, decoded. An error names the one that is wrong.
fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, String), String>> {
    text.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = decode(value).ok_or_else(|| format!("{name}: it is no UTF-8 in percent encoding"))?;
        Ok((name, value))
    })
}

/// Decodes percent encoding, with `+` for a space. `None` when the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::{
        util::property::cases,
        view::build::tests::{sensor, snapshot},
    };

    fn idents(query: &str) -> (Vec<String>, usize, usize) {
        let mut all = snapshot(vec![
            sensor("gone-1", State::Gone, 30, 0),
            sensor("silent-1", State::Silent, 20, 5),
            sensor("ok-1", State::Ok, 10, 7),
            sensor("ok-2 %", State::Ok, 40, 1),
        ]);
        Query::parse(query).unwrap().apply(&mut all);
        let List { total, matching, rows } = all.sensors;
        (rows.into_iter().map(|row| row.ident).collect(), matching, total)
    }

    #[test]
    fn rows_are_filtered_sorted_and_paged() {
        for (query, expected, matching) in [
            ("", &["gone-1", "silent-1", "ok-1", "ok-2 %"][..], 4),
            ("state=ok,gone", &["gone-1", "ok-1", "ok-2 %"], 3),
            ("q=OK", &["ok-1", "ok-2 %"], 2),
            ("q=2+%25", &["ok-2 %"], 1),
            ("sort=-since", &["ok-2 %", "gone-1", "silent-1", "ok-1"], 4),
            ("sort=rate&limit=2", &["gone-1", "ok-2 %"], 4),
            ("sort=-queued", &["gone-1", "silent-1", "ok-1", "ok-2 %"], 4),
            ("sort=-ident&offset=1&limit=1", &["ok-2 %"], 4),
            ("offset=9", &[], 4),
            ("list=incidents", &[], 4),
            ("state=&q=", &["gone-1", "silent-1", "ok-1", "ok-2 %"], 4),
        ] {
            assert_eq!(
                idents(query),
                (expected.iter().map(|&ident| ident.to_owned()).collect(), matching, 4),
                "{query}"
            );
        }
    }

    #[test]
    fn a_stream_has_filters_of_messages_too() {
        let query = StreamQuery::parse("q=x&tail=1&channel=cowrie.*&field=peerIP%3D192.0.2.1&limit=5").unwrap();
        let mut filters = Filters::default();
        filters.set("channel", "cowrie.*").unwrap().unwrap();
        filters.set("field", "peerIP=192.0.2.1").unwrap().unwrap();
        assert_eq!((query.tails, &query.filters, query.snapshot.limit), (true, &filters, 5));
        assert!(!StreamQuery::parse("tail=0").unwrap().tails && !StreamQuery::parse("").unwrap().tails);
        for (wrong, expected) in [("tail=x", "tail: 1 or 0"), ("field=x", "field: NAME=VALUE"), ("order=x", "the para")]
        {
            assert!(StreamQuery::parse(wrong).unwrap_err().starts_with(expected), "{wrong}");
        }
        assert!(Query::parse("tail=1").is_err());
    }

    #[test]
    fn each_column_sorts_some_list() {
        for column in COLUMNS {
            let known = [
                sort_sensors(&mut [], column),
                sort_consumers(&mut [], column),
                sort_channels(&mut [], column),
                sort_incidents(&mut [], column),
                sort_mailboxes(&mut [], column),
            ];
            assert!(known.contains(&true), "{column}");
        }
        assert_eq!(Query::parse("sort=-mailbox").unwrap().sort, "mailbox");
    }

    #[test]
    fn a_wrong_query_says_what_is_wrong() {
        for (query, expected) in [
            ("state=bad", "state: gone"),
            ("sort=", "sort: state"),
            ("limit=-1", "limit: a number"),
            ("sort=x", "sort: state"),
            ("q=%ff", "q: it is no UTF-8"),
            ("q=%4", "q: it is no UTF-8"),
            ("token=x", "the parameters are"),
        ] {
            let error = Query::parse(query).unwrap_err();
            assert!(error.starts_with(expected), "{query}: {error}");
        }
        assert!(Query::parse(&format!("q={}", "a".repeat(256))).is_err());
        assert_eq!(Query::parse("limit=99999999").unwrap().limit, MAX_LIMIT);
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_text_is_a_query_or_is_refused_on_one_line(text in "([a-z%=&*.]|%[0-9a-f]{2}|field=|sort=|limit=|.){0,60}") {
            let refused = [Query::parse(&text).err(), StreamQuery::parse(&text).err()];
            // The name of a parameter is quoted, and may be anything.
            prop_assert!(refused.iter().flatten().all(|fault| !fault.is_empty() && fault.len() < 600));
        }
    }
}
