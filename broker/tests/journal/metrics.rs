//! The metrics of a data folder, beside the pages that explain them.

use std::collections::BTreeSet;

use hpfeeds_broker::Exposition;

use crate::{
    delivery::{publish, sensor, storing},
    support::{start, until},
};

const METRICS: &str = include_str!("../../../docs/metrics.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The names of the metrics of a data folder in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("hpfeeds_mailbox_") || word.starts_with("hpfeeds_journal_")).collect()
}

/// The name of a metric, without what a histogram adds.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[tokio::test]
async fn a_data_folder_has_metrics_which_the_manual_explains_and_alerts_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(storing(folder.path())).await;
    let mut sensor = sensor(&broker, 1).await;
    publish(&mut sensor, "m.a", 1..=7).await;
    let metrics = || broker.metrics(Exposition::Prometheus);
    until(|| metrics().lines().any(|line| line == "hpfeeds_mailbox_messages{mailbox=\"collector\"} 7")).await;
    // A sync is counted when it has ended.
    until(|| !metrics().lines().any(|line| line == "hpfeeds_journal_sync_seconds_count 0")).await;
    let text = metrics();
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} in {text}");
    has("hpfeeds_mailbox_attached{mailbox=\"collector\"} 0");
    has("hpfeeds_mailbox_stuck{mailbox=\"collector\"} 0");
    for reason in ["retention", "damage", "expired", "skipped"] {
        has(&format!("hpfeeds_mailbox_lost_messages_total{{mailbox=\"collector\",reason=\"{reason}\"}} 0"));
    }
    has("hpfeeds_journal_health{state=\"good\"} 1");
    has("hpfeeds_journal_health{state=\"failed\"} 0");
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    };
    assert!(value("hpfeeds_journal_limit_bytes") > 1e9 && value("hpfeeds_journal_disk_free_bytes") > 0.0);
    assert!(value("hpfeeds_journal_sync_seconds_count") >= 1.0);
    let samples: String = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let exposed: BTreeSet<_> = names(&samples).into_iter().map(family).collect();
    assert!(exposed.len() >= 12, "{exposed:?}");
    let explained: BTreeSet<_> = names(METRICS).into_iter().map(family).collect();
    assert_eq!(explained, exposed);
    // Alerts ask for what there is.
    let asked = names(OPERATING);
    assert!(asked.len() >= 5, "{asked:?}");
    for name in asked {
        assert!(exposed.contains(family(name)), "{name} does not exist");
    }
    broker.shutdown().await;
}
