//! The page of two thousand sensors: the changes that it is told give each the state that it has in the snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    crowd::{Crowd, Role, ident},
    fleet::{SENSORS, of_fleet},
    live::Page,
    scrape::request,
    snapshot::{addr, showing},
    support::within,
};

/// The query of page and snapshot: the sensors of the fleet, and all incidents.
const QUERY: &str = "limit=5000&q=sensor-";

/// A page that applies what it is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    /// States by ident.
    states: BTreeMap<String, String>,
    /// Kinds of incidents, with the ident of each.
    incidents: BTreeSet<(String, String)>,
}

impl Model {
    fn of(snapshot: &Value) -> Self {
        let mut model = Self::default();
        model.add(snapshot);
        model
    }

    /// Takes the rows of a snapshot, or of the lists of a change.
    fn add(&mut self, lists: &Value) {
        let rows = |list: &str| lists[list]["rows"].as_array().cloned().unwrap_or_default();
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        self.states.extend(rows("sensors").iter().map(|row| (text(row, "ident"), text(row, "state"))));
        self.incidents.extend(rows("incidents").iter().map(|row| (text(row, "kind"), text(row, "ident"))));
    }

    /// As it should be in the end.
    fn expected() -> Self {
        let roles = || (0..SENSORS).map(|number| (ident(number), Role::of(number)));
        let states = roles().filter_map(|(ident, role)| Some((ident, role.state()?.to_owned()))).collect();
        let incidents = roles().filter_map(|(ident, role)| Some((role.incident()?.to_owned(), ident))).collect();
        Self { states, incidents }
    }
}

#[tokio::test]
async fn a_page_has_the_states_of_two_thousand_sensors_as_the_snapshot_has() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (broker, [token, _], _tokens) = showing(of_fleet(folder.path())).await;
    let (mut page, first) = Page::open(&broker, QUERY, &token).await;
    let mut shown = Model::of(&first);
    let mut crowd = Crowd::connect(broker.local_addr(), SENSORS).await.unwrap();
    crowd.live(Duration::from_secs(1)).await.unwrap();
    within(crowd.act(|_| ())).await.unwrap();
    let (acted, expected) = (Instant::now(), Model::expected());
    let going_on = tokio::spawn(async move { crowd.go_on().await });
    within(async {
        while shown != expected {
            let change = page.find("change", |_| true).await;
            shown.add(&change["lists"]);
        }
    })
    .await;
    let took = acted.elapsed();
    let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    let answer = request(addr(&broker), "GET", &format!("/api/v1/snapshot?{QUERY}"), &more).await;
    assert_eq!(Model::of(&serde_json::from_str(&answer.body).unwrap()), expected);
    println!("figures: {SENSORS} sensors have their states on the page after {took:.1?}");
    assert!(!going_on.is_finished(), "all others go on");
    going_on.abort();
    drop(page);
    broker.shutdown().await;
}
