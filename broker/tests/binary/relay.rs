//! The relay as a program: its arguments, kills, what comes from the parent, and relays in a circle.

use std::{path::Path, time::Duration};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession};
use hpfeeds_broker::{Broker, Key};
use tokio::process::Command;

use crate::{
    Running, command,
    pki::Pki,
    run, scrape,
    support::{self, Peer, publish, within},
};

/// A relay for the ident `one` with its folder; the secret is `s`.
fn relay(parent: &str, bind: &str, folder: &Path, more: &[&str]) -> Command {
    let folder = folder.to_str().unwrap();
    let arguments = ["relay", "--parent", parent, "--key", "one", "--bind", bind, "--data-dir", folder];
    let mut command = command(&[&arguments, more].concat());
    command.env("HPFEEDS_ONE_SECRET", "s");
    command
}

/// The screen of `relay status`.
async fn status(folder: &Path) -> String {
    let output = within(command(&["relay", "status", "--data-dir", folder.to_str().unwrap()]).output()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn until_status(folder: &Path, has: &str) -> String {
    within(async {
        loop {
            let screen = status(folder).await;
            if screen.contains(has) {
                return screen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

async fn parent() -> Broker {
    let one = Key::new("one", "s").unwrap().publish(["*"]).unwrap().subscribe(["commands.*"]).unwrap();
    let boss = Key::new("boss", "b").unwrap().publish(["*"]).unwrap().subscribe(["*"]).unwrap();
    Broker::builder().listen("127.0.0.1:0").unwrap().user(one).user(boss).start().await.unwrap()
}

/// An address that nothing listens on at the moment.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_relay_has_a_dashboard_of_its_sensors() {
    let folder = tempfile::tempdir().unwrap();
    let relay = relay(&free_address(), "127.0.0.1:0", folder.path(), &["--dashboard", "127.0.0.1:0"]);
    let mut running = Running::start(relay).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let (addr, token) = line.strip_prefix("dashboard at http://").expect(&line).split_once("/#token=").expect(&line);
    let stored = std::fs::read_to_string(folder.path().join("dashboard.tokens")).unwrap();
    assert!(stored.ends_with(&format!("tail {token}\n")), "{stored}");
    let sensor = Peer::login(running.addr, "one", "s").await;
    let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    within(async {
        while !scrape::request(addr.parse().unwrap(), "GET", "/api/v1/snapshot?state=learning", &more)
            .await
            .body
            .contains(r#""ident":"one""#)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(sensor);
    assert_eq!(running.stop("-TERM").await.0, Some(0));
}

#[tokio::test]
async fn relay_that_cannot_start_says_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let base = ["relay", "--parent", "localhost:1", "--data-dir", dir, "--bind", "127.0.0.1:0"];
    let cases: &[(&[&str], Option<i32>, &str)] = &[
        (
            &["--key", "a.b-c"],
            Some(1),
            "no secret for --key a.b-c: set HPFEEDS_A_B_C_SECRET, or HPFEEDS_A_B_C_SECRET_FILE",
        ),
        (&["--key", "one", "--key", "one"], Some(2), "--key one is given twice"),
        (&[], Some(2), "required arguments were not provided: --key <IDENT>"),
        (&["--key", "one", "--parent-tls-cert", "c"], Some(2), "--parent-tls-key <FILE>"),
    ];
    for (arguments, code, expected) in cases {
        let (ended, stderr) = run(&[&base[..], arguments].concat()).await;
        assert_eq!((ended, stderr.lines().count()), (*code, 1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    for (parent, expected) in [
        ("hpfeeds://one:hunter2@localhost:1", "--parent: the URL has a key in it"),
        ("hpfeeds://localhost:1/events", "--parent-subscribe"),
        ("http://one:hunter2@localhost:1", "another scheme than hpfeeds://"),
        ("one:hunter2@localhost:1", "no scheme"),
    ] {
        let (code, stderr) = run(&["relay", "--parent", parent, "--key", "one", "--data-dir", dir]).await;
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("hunter2"), "{stderr}");
    }
    let (code, stderr) = run(&["relay", "status", "--data-dir", dir]).await;
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("no broker runs with the data folder"), "{stderr}");
    // Two on one folder.
    let first = Running::start(relay("127.0.0.1:1", "127.0.0.1:0", folder.path(), &[])).await;
    let output = within(relay("127.0.0.1:1", "127.0.0.1:0", folder.path(), &[]).output()).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&format!("is used by process {}", first.child.id().unwrap())), "{stderr}");
}

#[tokio::test]
async fn relay_that_is_killed_again_and_again_hands_each_message_upwards_once() {
    const KILLS: u32 = 8;
    let (parent, folder, bind) = (parent().await, tempfile::tempdir().unwrap(), free_address());
    let parent_addr = parent.local_addr().to_string();
    let mut collector = ClientSession::connect(parent.local_addr(), "boss", "b").await.unwrap();
    collector.subscribe_confirmed("c").await.unwrap();
    let mut running = Running::start(relay(&parent_addr, &bind, folder.path(), &[])).await;
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
    let sensor = ClientSession::builder(bind.clone(), "one", "s").backoff(backoff).connect().await.unwrap();
    let publisher = sensor.publisher();
    let writing = tokio::spawn(async move {
        for number in 0..KILLS * 500 {
            publisher.publish("c", number.to_string()).await.unwrap();
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut received = Vec::new();
    for kill in 1..KILLS {
        while received.len() < (kill * 400) as usize {
            received.push(within(collector.next()).await.unwrap().2);
        }
        running.child.kill().await.unwrap();
        running = Running::start(relay(&parent_addr, &bind, folder.path(), &[])).await;
    }
    within(writing).await.unwrap();
    let flushed = within(sensor.flush()).await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused), (u64::from(KILLS * 500), 0));
    while received.len() < (KILLS * 500) as usize {
        received.push(within(collector.next()).await.unwrap().2);
    }
    let numbers: Vec<u32> = received.iter().map(|text| std::str::from_utf8(text).unwrap().parse().unwrap()).collect();
    let expected: Vec<_> = (0..KILLS * 500).collect();
    assert!(numbers == expected, "first difference: {:?}", numbers.iter().zip(&expected).find(|(a, b)| a != b));
    let nothing = tokio::time::timeout(Duration::from_millis(300), collector.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn sensors_get_what_the_parent_publishes_and_it_does_not_go_back() {
    let (parent, folder) = (parent().await, tempfile::tempdir().unwrap());
    let more = ["--parent-subscribe", "commands.*", "--local-auth", "any"];
    let running = Running::start(relay(&parent.local_addr().to_string(), "127.0.0.1:0", folder.path(), &more)).await;
    let mut boss = Peer::login(parent.local_addr(), "boss", "b").await;
    boss.send(support::subscribe("boss", "commands.reload")).await;
    boss.send(support::subscribe("boss", "c")).await;
    let mut sensor = Peer::login(running.addr, "one", "any secret").await;
    sensor.send(support::subscribe("one", "commands.reload")).await;
    sensor.settle().await;
    until_status(folder.path(), "connected").await;
    // The subscription upwards may take a moment.
    let command = publish("boss", "commands.reload", "now");
    let answer = within(async {
        loop {
            boss.send(command.clone()).await;
            assert_eq!(boss.next().await, Some(command.clone()));
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), sensor.next()).await {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(answer, Some(command));
    // The other way, nothing but what the sensor publishes.
    sensor.send(publish("one", "c", "event")).await;
    assert_eq!(boss.next().await, Some(publish("one", "c", "event")));
    // With the one by which it has settled.
    let screen = until_status(folder.path(), "delivered   2").await;
    assert!(screen.contains("waiting     0"), "{screen}");
    Peer::login(running.addr, "two", "s").await.expect_error("Authentication failed for two").await;
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("the uplink has ended ident=one delivered=2 waiting=0 lost=0"), "{stderr}");
}

#[tokio::test]
async fn relay_reaches_its_parent_over_tls_and_waits_for_one_that_it_trusts() {
    let pki = Pki::new();
    pki.issue("cert.pem", "key.pem", "localhost");
    let one = Key::new("one", "s").unwrap().publish(["*"]).unwrap();
    let parent = Broker::builder().endpoint(pki.endpoint()).user(one).start().await.unwrap();
    let address = format!("localhost:{}", parent.local_addr().port());
    let ca = pki.path("ca.pem");
    let url = format!("hpfeeds+tls://{address}");
    for (address, more, expected) in [
        (&address, vec!["--parent-tls"], "last fault"),
        (&url, vec![], "last fault"),
        (&address, vec!["--parent-ca", ca.to_str().unwrap()], "connected"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(relay(address, "127.0.0.1:0", folder.path(), &more)).await;
        let mut sensor = Peer::login(running.addr, "one", "s").await;
        sensor.send(publish("one", "c", "event")).await;
        until_status(folder.path(), expected).await;
        let counts = if expected == "connected" {
            ["delivered   1", "waiting     0"]
        } else {
            ["delivered   0", "waiting     1"]
        };
        for count in counts {
            until_status(folder.path(), count).await;
        }
        let (code, stderr) = running.stop("-TERM").await;
        assert_eq!(code, Some(0), "{stderr}");
    }
}

#[tokio::test]
async fn relays_in_a_circle_stop_where_it_would_close() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let addresses = [free_address(), free_address()];
    let mut relays = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        relays.push(Running::start(relay(&addresses[other], &addresses[own], folders[own].path(), &[])).await);
    }
    within(async {
        loop {
            let screens = [status(folders[0].path()).await, status(folders[1].path()).await];
            if screens.iter().any(|screen| screen.contains("the parent leads back here")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
