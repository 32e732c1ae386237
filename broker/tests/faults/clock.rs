//! The system's clock jumps: an administrator sets it, a machine wakes up, NTP corrects it for the first time.

use std::{fs, path::PathBuf};

use crate::{
    Running, broker,
    skip::skip,
    support::{Peer, number, numbered, publish, subscribe},
    users,
};

/// The library that shows a program another time, where Debian has it.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        skip("libfaketime is not installed (scripts/test does that)");
    }
    found
}

#[tokio::test]
async fn clients_are_served_while_the_clock_jumps() {
    let Some(library) = faketime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (keys, clock) = (folder.path().join("users.json"), folder.path().join("clock"));
    fs::write(&keys, users("bob")).unwrap();
    fs::write(&clock, "+0").unwrap();
    let arguments = ["--bind=127.0.0.1:0", "--handshake-timeout=60", "--recheck-keys=1", "--auth"];
    let mut command = broker(&[&arguments[..], &[keys.to_str().unwrap()]].concat());
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    // Both names of the option that leaves the time alone that no clock shows, as on a system whose clock is set.
    command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut running = Running::start(command).await;
    let year = |line: &str| line[..4].parse::<u32>().unwrap();
    let now = year(&running.logged("started").await);

    let mut subscriber = Peer::login(running.addr, "bob", "s").await;
    subscriber.send(subscribe("bob", "c")).await;
    subscriber.settle().await;
    let mut publisher = Peer::login(running.addr, "bob", "s").await;
    publisher.settle().await;
    for line in 0..2 {
        assert_eq!(year(&running.logged(" connected").await), now, "{line}");
    }
    for (sent, (jump, years)) in [("+7300d", 20), ("-7300d", -20), ("+0", 0)].into_iter().enumerate() {
        let greeted = Peer::connect(running.addr).await;
        fs::write(&clock, jump).unwrap();
        // Clients that were there are served, and one that had begun to authenticate still can.
        publisher.send(publish("bob", "c", numbered(sent as u64, 100))).await;
        assert_eq!(number(&subscriber.next().await.unwrap()), sent as u64);
        greeted.authenticate("bob", "s").await.settle().await;
        let line = running.logged(" connected").await;
        assert!(year(&line).abs_diff(now.saturating_add_signed(years)) <= 1, "no jump {jump}: {line}");
        // A client that fails is told, and is not locked out until the clock is there again.
        Peer::connect(running.addr)
            .await
            .authenticate("bob", "wrong")
            .await
            .expect_error("Authentication failed for bob")
            .await;
        Peer::login(running.addr, "bob", "s").await.settle().await;
        running.logged(" connected").await;
        // A new file of keys is read, whatever time it has.
        let other = format!("eve{sent}");
        let both = users("bob").trim_end_matches('}').to_owned() + "}, " + users(&other).trim_start_matches('{');
        fs::write(&keys, both).unwrap();
        running.logged("the keys have been read again").await;
        Peer::login(running.addr, &other, "s").await.settle().await;
        running.logged(" connected").await;
    }
}
