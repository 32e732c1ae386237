//! Two thousand sensors, of which some stop, flood, are denied or have a wrong secret: the snapshot and the page
//! show each as what it is.

use std::{collections::BTreeMap, fs, time::Duration};

use hpfeeds_broker::{Broker, BrokerBuilder, Key};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    live::Page,
    scrape::request,
    snapshot::{addr, showing},
    support::{Peer, builder, publish, within},
};

const SENSORS: usize = 2000;
const DAY: u64 = 24 * 60 * 60;

/// The groups of sensors, ten of each. All others are `ok`.
const GROUPS: [(&str, &str); 7] = [
    ("stops", "gone"),
    ("absent", "gone"),
    ("silent", "silent"),
    ("floods", "flood"),
    ("never", "never"),
    ("denied", "gone"),
    ("wrong", "never"),
];

fn ident(n: usize) -> String {
    match GROUPS.get(n / 10) {
        Some((group, _)) => format!("{group}-{n:04}"),
        None => format!("sensor-{n:04}"),
    }
}

fn expected() -> BTreeMap<String, &'static str> {
    (0..SENSORS).map(|n| (ident(n), GROUPS.get(n / 10).map_or("ok", |(_, state)| *state))).collect()
}

/// What an earlier run has stored: all but those that were never there are known for ten days.
fn presence(now: u64) -> Value {
    let known = (0..SENSORS).map(ident).filter(|ident| !ident.starts_with("never") && !ident.starts_with("wrong"));
    let entry = |ident: String| {
        let quiet = if ident.starts_with("silent") { 1300 } else { 0 };
        let (first, peaks) = (now - 10 * DAY, [60; 7]);
        let entry = json!({
            "first": first, "published": first, "connected": first, "left": now - 60, "reason": "shutdown",
            "subscribes": false, "quiet": quiet, "day": now / DAY, "gaps": [5, 0, 0, 0, 0, 0, 0], "peaks": peaks,
        });
        (ident, entry)
    };
    json!({"version": 1, "idents": known.map(entry).collect::<serde_json::Map<_, _>>()})
}

/// A page that applies what it is told.
struct Model {
    rows: BTreeMap<String, Value>,
    incidents: BTreeMap<u64, Value>,
}

impl Model {
    fn of(snapshot: &Value) -> Self {
        let mut model = Self { rows: BTreeMap::new(), incidents: BTreeMap::new() };
        model.add(&snapshot["sensors"], &snapshot["incidents"]);
        model
    }

    fn add(&mut self, sensors: &Value, incidents: &Value) {
        for row in sensors["rows"].as_array().into_iter().flatten() {
            self.rows.insert(row["ident"].as_str().unwrap().to_owned(), row.clone());
        }
        for row in incidents["rows"].as_array().into_iter().flatten() {
            self.incidents.insert(row["id"].as_u64().unwrap(), row.clone());
        }
    }

    fn states(&self) -> BTreeMap<String, &str> {
        self.rows.iter().map(|(ident, row)| (ident.clone(), row["state"].as_str().unwrap())).collect()
    }

    fn incidents(&self, kind: &str) -> usize {
        self.incidents.values().filter(|row| row["kind"] == kind).count()
    }
}

async fn snapshot(broker: &Broker, token: &str) -> Model {
    let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    let answer = request(addr(broker), "GET", "/api/v1/snapshot?limit=5000&q=-", &more).await;
    Model::of(&serde_json::from_str(&answer.body).unwrap())
}

/// Does what each sensor does. Those that stay connected are returned.
async fn come(broker: &Broker) -> Vec<Peer> {
    let mut peers = Vec::new();
    for ident in (0..SENSORS).map(ident).filter(|ident| !ident.starts_with("never") && !ident.starts_with("absent")) {
        let wrong = ident.starts_with("wrong");
        let mut peer = Peer::login(broker.local_addr(), &ident, if wrong { "x" } else { "s" }).await;
        match ident.split('-').next().unwrap() {
            "wrong" => peer.expect_error(format!("Authentication failed for {ident}")).await,
            "denied" => {
                peer.send(publish(&ident, "forbidden", "x")).await;
                let error = format!("Authkey not allowed to pub here. ident={ident}, chan=forbidden");
                peer.expect_error(error).await;
            }
            "floods" => {
                for _ in 0..2000 {
                    peer.send(publish(&ident, "a", "x")).await;
                }
                peers.push(peer);
            }
            "silent" => peers.push(peer),
            _ => {
                peer.send(publish(&ident, "a", "x")).await;
                peers.push(peer);
            }
        }
    }
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sensors_have_their_states_in_snapshot_and_page() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    fs::write(folder.path().join("presence.json"), presence(now).to_string()).unwrap();
    let keys = (0..SENSORS).map(|n| Key::new(ident(n), "s").unwrap().publish(["a"]).unwrap());
    let builder = keys.fold(builder().auth_failure_delay(Duration::ZERO), BrokerBuilder::user);
    let (broker, [token, _], _tokens) = showing(builder.data_dir(folder.path())).await;
    let (mut page, first) = Page::open(&broker, "limit=5000&q=-", &token).await;
    let mut page_has = Model::of(&first);
    let mut peers = come(&broker).await;
    // The last change: ten that were there go.
    let (stops, stay) = peers.into_iter().partition::<Vec<_>, _>(|peer| peer.ident.starts_with("stops"));
    peers = stay;
    drop(stops);
    let (changed, expected) = (Instant::now(), expected());
    let faults = |model: &Model| (model.incidents("wrong-secret"), model.incidents("denied-publish"));
    within(async {
        while page_has.states() != expected || faults(&page_has) != (10, 10) {
            let change = page.find("change", |_| true).await;
            page_has.add(&change["lists"]["sensors"], &change["lists"]["incidents"]);
        }
    })
    .await;
    let shown = changed.elapsed();
    let snapshot = snapshot(&broker, &token).await;
    assert_eq!((snapshot.states(), faults(&snapshot)), (expected, (10, 10)));
    println!("figures: {SENSORS} sensors have their states on the page after {shown:.1?}");
    drop((page, peers));
    broker.shutdown().await;
}
