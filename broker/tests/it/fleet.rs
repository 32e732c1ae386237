//! A fleet of two thousand sensors of which some stop, vanish, flood, are denied or have no good key: each
//! has its state in the operator's snapshot within five seconds.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::Duration,
};

use hpfeeds_broker::{BrokerBuilder, BrokerSnapshot, Key};

use crate::{
    crowd::{CHANNEL, Crowd, Role, ident, keys, presence},
    support::{builder, start, within},
};

pub(crate) const SENSORS: usize = 2000;

/// Looks at the snapshot ten times a second for five seconds.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(100);

/// The client timeout: without it, and without the end of a stream, a connection ends by TCP keepalive
/// after 25 s.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);

/// The sensors whose state is not that of their role, and how many there are.
fn others(snapshot: &BrokerSnapshot) -> Vec<String> {
    let states: HashMap<&str, String> = snapshot
        .sensors
        .rows
        .iter()
        .map(|sensor| (&*sensor.ident, serde_json::to_value(sensor.state).unwrap().as_str().unwrap().to_owned()))
        .collect();
    let wrong = (0..SENSORS).filter_map(|number| {
        let (ident, role) = (ident(number), Role::of(number));
        let found = states.get(&*ident).map(String::as_str);
        (found != role.state()).then(|| format!("{ident} {} is {found:?}", role.name()))
    });
    wrong.collect()
}

/// The incidents that there should be, and are not.
fn missing(snapshot: &BrokerSnapshot) -> Vec<String> {
    let kind = |kind| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
    let rows = &snapshot.incidents.rows;
    let found: HashSet<_> = rows.iter().map(|row| (kind(row.kind), row.ident.clone().unwrap_or_default())).collect();
    let expected = (0..SENSORS).filter_map(|number| Some((Role::of(number).incident()?.to_owned(), ident(number))));
    expected.filter(|incident| !found.contains(incident)).map(|(kind, ident)| format!("{kind} of {ident}")).collect()
}

/// A broker for the fleet, which has been known for some days.
pub(crate) fn of_fleet(folder: &std::path::Path) -> BrokerBuilder {
    fs::write(
        folder.join("presence.json"),
        presence(SENSORS, std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).to_string(),
    )
    .unwrap();
    let keys = keys(SENSORS).map(|(ident, secret)| Key::new(&ident, secret).unwrap().publish([CHANNEL]).unwrap());
    let builder = keys.fold(builder(), BrokerBuilder::user);
    builder.data_dir(folder).client_timeout(CLIENT_TIMEOUT)
}

#[tokio::test]
async fn each_of_two_thousand_sensors_has_its_state_within_five_seconds() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = start(of_fleet(folder.path())).await;
    let mut crowd = Crowd::connect(broker.local_addr(), SENSORS).await.unwrap();
    assert_eq!(crowd.len(), 22 * SENSORS / 25);
    crowd.live(Duration::from_secs(1)).await.unwrap();
    // Before anything happens, all of them are there.
    let states = broker.snapshot().states;
    assert_eq!((states.gone, states.flood, states.silent), (0, 0, SENSORS / 25), "{states:?}");
    let mut acted = 0;
    within(crowd.act(|_| acted += 1)).await.unwrap();
    assert_eq!(acted, 6 * SENSORS / 25);
    // Looks are counted, not seconds: a machine that is busy is late for both.
    let going_on = tokio::spawn(async move { crowd.go_on().await });
    let (mut wrong, mut none) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let snapshot = broker.snapshot();
        (wrong, none) = (others(&snapshot), missing(&snapshot));
        if wrong.is_empty() && none.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    assert!(wrong.is_empty() && none.is_empty(), "{wrong:?}, {none:?}");
    let snapshot = broker.snapshot();
    let (states, each) = (snapshot.states, SENSORS / 25);
    // alice and dev have never connected, either.
    assert_eq!((states.gone, states.never, states.flood), (3 * each, 2 * each + 2, each), "{states:?}");
    assert_eq!((states.silent, states.learning, states.ok), (each, each, 16 * each), "{states:?}");
    let reason = |number| snapshot.sensors.rows.iter().find(|sensor| sensor.ident == ident(number)).unwrap().reason;
    assert_eq!([0, 1, 3].map(reason), [Some("closed"), Some("lifeless"), Some("refused")]);
    assert_eq!(snapshot.difference, 0, "{:?}", snapshot.books);
    assert!(!going_on.is_finished(), "all others go on");
    going_on.abort();
    broker.shutdown().await;
}
