//! The dashboard and the manual, beside what the exporter exposes.

use std::collections::BTreeSet;

use crate::{
    scrape::{Exposed, get, lively, scrape},
    support::{Peer, publish},
};

const DASHBOARD: &str = include_str!("../../dist/grafana-dashboard.json");
const MANUAL: &str = include_str!("../../../docs/metrics.md");

/// The brokers here have no certificate.
const CERTIFICATES: &str = "hpfeeds_broker_certificate_expiry_timestamp_seconds";

/// The words of a text that are names of metrics.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let prefixes = ["hpfeeds_broker_", "hpfeeds_client_", "process_"];
    words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect()
}

/// Every query of every panel.
fn queries(panels: &serde_json::Value) -> Vec<&str> {
    let targets = panels.as_array().unwrap().iter().filter_map(|panel| panel.get("targets")?.as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_dashboard_asks_for_what_there_is() {
    let (broker, _subscriber) = lively().await;
    Peer::login(broker.local_addr(), "alice", "x").await.expect_error("Authentication failed for alice").await;
    let exposed = scrape(&broker).await;
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let queries = queries(&dashboard["panels"]);
    assert!(queries.len() > 30, "{}", queries.len());
    let asked: BTreeSet<_> = queries.iter().copied().flat_map(names).collect();
    // Metrics that tell a fault, and the broker: a dashboard without one of them hides that.
    let needed = [
        "hpfeeds_broker_dropped_messages_total",
        "hpfeeds_broker_unrouted_messages_total",
        "hpfeeds_broker_queued_bytes",
        "hpfeeds_broker_publisher_stall_seconds_total",
        "hpfeeds_broker_handshake_failures_total",
        "hpfeeds_broker_authentication_seconds_bucket",
        "hpfeeds_broker_build_info",
    ];
    for name in needed {
        assert!(asked.contains(name), "no panel asks for {name}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables.iter().filter_map(|variable| variable["definition"].as_str());
    for query in queries.into_iter().chain(variables) {
        let (names, samples) = (names(query), &exposed.samples);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let labels = samples.iter().find(|sample| sample.name == name).map(|sample| &sample.labels);
            let Some(labels) = labels else {
                assert_eq!(name, CERTIFICATES, "it does not exist: {query}");
                continue;
            };
            if let Some((_, by)) = query.split_once(" by (") {
                let (by, _) = by.split_once(')').unwrap();
                let known = by.split(", ").all(|by| labels.contains_key(by));
                assert!(known, "{name} has no label {by}: {query}");
            }
        }
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn the_manual_names_all_and_nothing_else() {
    let (broker, _subscriber) = lively().await;
    // So that each metric has a sample, of errors as well.
    Peer::login(broker.local_addr(), "alice", "x").await.expect_error("Authentication failed for alice").await;
    let answer = get(&broker, "/metrics").await;
    let exposed = Exposed::parse(&answer.body);
    let known: BTreeSet<_> = exposed.types.keys().map(String::as_str).collect();
    assert_eq!(names(MANUAL), known);
    for (name, help) in &exposed.helps {
        assert!(help.len() > 10, "{name}: {help}");
        let row = MANUAL.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        if let Some(row) = row {
            assert_eq!(row.split('|').nth(2).map(str::trim), Some(&*exposed.types[name]), "{name}");
            let told: BTreeSet<_> =
                row.split('|').nth(3).unwrap().split(['`', ',', ' ']).filter(|l| !l.is_empty()).collect();
            let sample = exposed.samples.iter().find(|sample| sample.name.starts_with(name.as_str()));
            let Some(sample) = sample else {
                assert_eq!(name, CERTIFICATES, "it has no sample");
                continue;
            };
            let labels = &sample.labels;
            let has: BTreeSet<_> = labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(has, told, "{name}");
        } else {
            assert!(name.starts_with("process_"), "{name} has no row");
        }
    }
    broker.shutdown().await;
}

/// Selectors of dashboards and alerts for the Python broker, without the functions around them.
#[tokio::test]
async fn queries_for_the_python_broker_have_an_answer() {
    let (broker, _subscriber) = lively().await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    alice.send(publish("alice", "forbidden", "x")).await;
    alice.expect_error("Authkey not allowed to pub here. ident=alice, chan=forbidden").await;
    let exposed = scrape(&broker).await;
    let selectors = [
        "hpfeeds_broker_client_connections",
        "hpfeeds_broker_connection_made_total",
        r#"hpfeeds_broker_connection_ready_total{ident="dev"}"#,
        r#"hpfeeds_broker_connection_error_total{ident="alice",category="no-pub-permission"}"#,
        r#"hpfeeds_broker_connection_lost_total{ident="alice"}"#,
        r#"hpfeeds_broker_connection_send_buffer_size{ident="dev"}"#,
        r#"hpfeeds_broker_connection_receive_buffer_size{ident="dev"}"#,
        r#"hpfeeds_broker_connection_receive_buffer_fill_total{ident="dev"}"#,
        r#"hpfeeds_broker_connection_send_buffer_fill_total{ident="dev"}"#,
        r#"hpfeeds_broker_connection_send_buffer_drain_total{ident="dev"}"#,
        r#"hpfeeds_broker_connection_send_buffer_deadline_start_total{ident="dev"}"#,
        r#"hpfeeds_broker_connection_send_buffer_deadline_recover_total{ident="dev"}"#,
        r#"hpfeeds_broker_subscriptions{ident="dev",chan="a"}"#,
        r#"hpfeeds_broker_receive_publish_count_total{ident="alice",chan="a"}"#,
        r#"hpfeeds_broker_receive_publish_size_bucket{ident="alice",chan="a",le="1.048576e+06"}"#,
        r#"hpfeeds_broker_receive_publish_size_bucket{ident="alice",chan="a",le="+Inf"}"#,
        r#"hpfeeds_broker_receive_publish_size_sum{ident="alice",chan="a"}"#,
        r#"hpfeeds_broker_receive_publish_size_count{ident="alice",chan="a"}"#,
        r#"hpfeeds_client_authenticated_connections{ident="dev",owner="dev"}"#,
    ];
    for selector in selectors {
        assert_eq!(exposed.select(selector).len(), 1, "{selector}");
    }
    broker.shutdown().await;
}
