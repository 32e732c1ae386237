//! The renderer of the exposition: a snapshot as text.

use crate::metrics::{
    rows::ROWS,
    snapshot::Snapshot,
    storage_rows::STORAGE_ROWS,
    text::{Exposition, Text},
};

/// All metrics of a snapshot as text, and `more` behind them.
pub(crate) fn render(snapshot: &Snapshot, exposition: Exposition, more: impl FnOnce(&mut Text)) -> String {
    let mut text = Text::new(exposition);
    for row in ROWS {
        row.write(snapshot, &mut text);
    }
    if snapshot.storage.is_some() {
        for row in STORAGE_ROWS {
            row.write(snapshot, &mut text);
        }
    }
    more(&mut text);
    text.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::metrics::{
        channels::ChannelCounts, counters::Totals, ident::IdentCounts, levels::Levels, sizes::BUCKETS,
    };

    /// The sample lines of one metric.
    fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let samples = text.lines().filter_map(|line| line.strip_prefix(name));
        samples.filter(|rest| rest.starts_with(['{', ' ', '_'])).collect()
    }

    #[test]
    fn empty_snapshot_has_every_metric_but_those_of_the_process() {
        let text = render(&Snapshot::default(), Exposition::OpenMetrics, |_| ());
        let headers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(headers.len(), ROWS.len() - 6);
        assert!(!text.contains("process_"), "{text}");
        assert_eq!(samples(&text, "hpfeeds_broker_connection_lost"), [""; 0]);
        assert_eq!(samples(&text, "hpfeeds_broker_client_connections"), [" 0"]);
        let names: HashSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len(), "each metric comes once");
    }

    #[test]
    fn samples_are_read_from_the_snapshot_alone() {
        let counts = ChannelCounts { sizes: [0; BUCKETS], bytes: 70, subscriptions: None };
        let published = ChannelCounts { sizes: std::array::from_fn(|bucket| u64::from(bucket == 1) * 2), ..counts };
        let subscribed = ChannelCounts { subscriptions: Some(-1), ..counts };
        let alice = IdentCounts {
            lost: 3,
            owners: BTreeMap::from([("owner".to_owned(), 1)]),
            channels: vec![("p".parse().unwrap(), published), ("s".parse().unwrap(), subscribed)],
            ..IdentCounts::default()
        };
        let snapshot = Snapshot {
            totals: Totals { queued: 9, unqueued: 2, ..Totals::default() },
            levels: Levels { waiting_bytes: 17, ..Levels::default() },
            unauthenticated: IdentCounts { lost: 1, ..IdentCounts::default() },
            idents: vec![("alice".parse().unwrap(), alice), ("bob".parse().unwrap(), IdentCounts::default())],
            // Of a channel that has been forgotten, of one that was published to, and of one that
            // was not.
            unrouted: vec![("old".parse().unwrap(), 4), ("p".parse().unwrap(), 0), ("s".parse().unwrap(), 0)],
            ..Snapshot::default()
        };
        let text = render(&snapshot, Exposition::Prometheus, |_| ());
        let expected: [(&str, &[&str]); 9] = [
            ("forwarded_messages_total", &[" 9"]),
            ("withdrawn_messages_total", &[" 2"]),
            ("waiting_bytes", &[" 17"]),
            ("connection_lost_total", &["{ident=\"\"} 1", "{ident=\"alice\"} 3"]),
            ("connection_ready_total", &["{ident=\"alice\"} 0", "{ident=\"bob\"} 0"]),
            ("connection_send_buffer_size", &["{ident=\"alice\"} 0"]),
            ("subscriptions", &["{ident=\"alice\",chan=\"s\"} -1"]),
            ("receive_publish_count_total", &["{ident=\"alice\",chan=\"p\"} 2"]),
            ("unrouted_messages_total", &["{chan=\"old\"} 4", "{chan=\"p\"} 0"]),
        ];
        for (name, expected) in expected {
            assert_eq!(samples(&text, &format!("hpfeeds_broker_{name}")), expected, "{name}");
        }
        let sizes = samples(&text, "hpfeeds_broker_receive_publish_size");
        assert_eq!(sizes.len(), BUCKETS + 2);
        assert_eq!(sizes[0], "_bucket{ident=\"alice\",chan=\"p\",le=\"1024.0\"} 0");
        assert_eq!(sizes[BUCKETS + 1], "_sum{ident=\"alice\",chan=\"p\"} 70");
    }
}
