//! The query of a snapshot: which list, which of its rows, and in which order.

use super::{http::encode, pane::Pane};

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    /// The lists, by their names in the query.
    pub(super) lists: &'static str,
    /// A text that names must hold, if it is not empty.
    pub(super) filter: String,
    /// The states of sensors, with commas between; empty for all.
    pub(super) state: String,
    /// The key of the order, with `-` for the largest first; empty for the broker's own.
    pub(super) sort: String,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

/// All lists.
pub(super) const ALL: &str = "sensors,consumers,channels,incidents,mailboxes";

impl Query {
    /// The first rows of a pane's list.
    pub(super) fn of(pane: Pane, limit: usize) -> Self {
        Self::of_lists(pane.list(), limit)
    }

    pub(super) fn of_lists(lists: &'static str, limit: usize) -> Self {
        let (filter, state, sort) = (String::new(), String::new(), String::new());
        Self { lists, filter, state, sort, offset: 0, limit }
    }

    /// The path and query of a request.
    pub(super) fn path(&self) -> String {
        let mut path = format!("/api/v1/snapshot?list={}&limit={}", self.lists, self.limit);
        if self.offset > 0 {
            path.extend(["&offset=", &self.offset.to_string()]);
        }
        for (name, value) in [("q", &self.filter), ("state", &self.state), ("sort", &self.sort)] {
            if !value.is_empty() {
                path.extend(["&", name, "=", &encode(value)]);
            }
        }
        path
    }

    /// The most bytes that an answer may have: names may be 255 bytes long, each written in six.
    pub(super) fn most_bytes(&self) -> usize {
        let lists = self.lists.split(',').count();
        (1 << 20) + (self.limit * lists).min(10_000) * 6 * 1024
    }
}

/// The path of the tail's stream. The filter is words: `channel=PATTERN`, `ident=PATTERN`,
/// `FIELD=VALUE` of JSON, and others, which the payload must hold as they stand.
pub(super) fn tail_path(filter: &str) -> String {
    let mut path = "/api/v1/stream?tail=1&list=".to_owned();
    let mut text = Vec::new();
    for word in filter.split_whitespace() {
        match word.split_once('=') {
            Some((name @ ("channel" | "ident"), value)) => path.extend(["&", name, "=", &encode(value)]),
            Some((name, _)) if !name.is_empty() => path.extend(["&field=", &encode(word)]),
            _ => text.push(word),
        }
    }
    if !text.is_empty() {
        path.extend(["&text=", &encode(&text.join(" "))]);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_a_page_of_one_list() {
        let mut query = Query::of(Pane::Refused, 200);
        assert_eq!(query.path(), "/api/v1/snapshot?list=incidents&limit=200");
        query.offset = 400;
        (query.filter, query.state, query.sort) = ("a&b c".into(), "gone,silent".into(), "-since".into());
        assert_eq!(
            query.path(),
            "/api/v1/snapshot?list=incidents&limit=200&offset=400&q=a%26b%20c&state=gone,silent&sort=-since"
        );
        assert!(query.most_bytes() < 3 << 20);
        assert!(Query::of_lists(ALL, 10_000).most_bytes() < 64 << 20);
    }

    #[test]
    fn the_filter_of_the_tail_runs_on_the_broker() {
        for (filter, expected) in [
            ("", ""),
            ("channel=cowrie.* ident=s-*", "&channel=cowrie.*&ident=s-*"),
            ("peerIP=192.0.2.1  login failed", "&field=peerIP%3D192.0.2.1&text=login%20failed"),
            ("=x", "&text=%3Dx"),
        ] {
            assert_eq!(tail_path(filter), format!("/api/v1/stream?tail=1&list={expected}"));
        }
    }
}
