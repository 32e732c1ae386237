//! Two thousand sensors, some of which are in trouble: `top --once` shows each of them in its state
//! within five seconds.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, UNIX_EPOCH},
};

use hpfeeds_broker::{Broker, BrokerBuilder, Key};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use self::crowd::{CHANNEL, Crowd, Role, ident, keys, presence};
use super::{TOKEN, outcome, private_file, top};

// Only a part of the fleet's crowd is used here.
#[allow(dead_code, reason = "the other parts are for the program")]
#[path = "../../../../broker/examples/fleet/crowd.rs"]
mod crowd;

const SENSORS: usize = 2000;

/// Looks are counted, not seconds: a machine that is busy is late for both.
const LOOKS: u32 = 25;
const LOOK: Duration = Duration::from_millis(200);

/// A sensor that vanishes is noticed after this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);

#[test]
fn each_of_two_thousand_sensors_is_shown_in_its_state_within_five_seconds() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    fs::write(folder.path().join("presence.json"), presence(SENSORS, now).to_string()).unwrap();
    let tokens = private_file(&folder, &format!("view 0123456789abcdef\ntail {TOKEN}\n"));
    let builder = Broker::builder().listen("127.0.0.1:0").unwrap().data_dir(folder.path());
    let builder = builder.client_timeout(CLIENT_TIMEOUT).dashboard("127.0.0.1:0").unwrap().dashboard_tokens(tokens);
    let keys = keys(SENSORS).map(|(ident, secret)| Key::new(&ident, secret).unwrap().publish([CHANNEL]).unwrap());
    let broker = runtime.block_on(keys.fold(builder, BrokerBuilder::user).start()).unwrap();
    runtime.block_on(async {
        let mut crowd = Crowd::connect(broker.local_addr(), SENSORS).await.unwrap();
        crowd.live(Duration::from_secs(1)).await.unwrap();
        crowd.act(|_| {}).await.unwrap();
        tokio::spawn(async move { crowd.go_on().await });
    });
    let url = format!("http://{}", broker.dashboard_addr().unwrap());
    let mut wrong = Vec::new();
    for _ in 0..LOOKS {
        let (code, text, stderr) = outcome(&mut top(&["--url", &url, "--once", "--limit", "10000"]));
        assert_eq!((code, &*stderr), (Some(0), ""));
        wrong = others(&text);
        if wrong.is_empty() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    let each = SENSORS / 25;
    let (_, text, _) = outcome(&mut top(&["--url", &url, "--once"]));
    let states = format!(
        "sensors {} gone  {each} silent  {each} flood  {} never  {each} learning  1,280 ok\n",
        3 * each,
        2 * each
    );
    assert!(text.contains(&states) && text.ends_with("and 1,905 more (--limit)\n"), "{text}");
    let (_, text, _) = outcome(&mut top(&["--url", &url, "--once", "--show", "refused", "--limit", "10000"]));
    let missing: Vec<_> = (0..SENSORS)
        .filter(|number| {
            Role::of(*number).incident().is_some_and(|kind| {
                let ident = ident(*number);
                !text.lines().any(|line| line.contains(kind) && line.contains(&ident))
            })
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    runtime.block_on(broker.shutdown());
}

/// The sensors that are not shown in the state of their role.
fn others(text: &str) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with("STATE"));
    let rows = rows.filter_map(|line| {
        let state = line.split_whitespace().next()?;
        let ident = line.split_whitespace().find(|word| word.starts_with("sensor-"))?;
        Some((ident, state))
    });
    let states: HashMap<_, _> = rows.collect();
    let wrong = (0..SENSORS).filter_map(|number| {
        let (ident, role) = (ident(number), Role::of(number));
        let found = states.get(&*ident).copied();
        (found != role.state()).then(|| format!("{ident} {} is {found:?}", role.name()))
    });
    wrong.collect()
}
