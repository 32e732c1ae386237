//! Processes that stand still for a while.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::sleep,
};

use crate::{
    Running, broker, run,
    support::{Peer, number, numbered, publish, subscribe, within},
    tool,
};

#[tokio::test]
async fn a_broker_that_stands_still_goes_on() {
    let arguments = ["--dev", "-p0", "--slow-deadline=1", "--handshake-timeout=30", "--recheck-keys=1"];
    let running = Running::start(broker(&arguments)).await;
    let mut subscriber = Peer::login(running.addr, "dev", "dev").await;
    subscriber.send(subscribe("dev", "c")).await;
    subscriber.settle().await;
    let mut publisher = Peer::login(running.addr, "dev", "dev").await;
    let waiting = Peer::connect(running.addr).await;
    run("kill", &["-STOP", &running.pid().to_string()]).await;
    for sent in 0..100 {
        publisher.send(publish("dev", "c", numbered(sent, 1000))).await;
    }
    sleep(Duration::from_secs(3)).await;
    run("kill", &["-CONT", &running.pid().to_string()]).await;
    for sent in 0..100 {
        assert_eq!(number(&subscriber.next().await.unwrap()), sent);
    }
    publisher.confirm().await;
    let auth = waiting.auth("dev", "dev");
    let mut waiting = waiting;
    waiting.ident = "dev".to_owned();
    waiting.send(auth).await;
    waiting.settle().await;
}

/// A laptop that sleeps for a while: what comes meanwhile is queued for it.
#[tokio::test]
async fn a_client_that_stands_still_gets_everything() {
    let Some(tool) = tool() else { return };
    let running = Running::start(broker(&["--dev", "-p0"])).await;
    let port = running.addr.port().to_string();
    let mut command = Command::new(tool);
    command.args(["--host", "127.0.0.1", "-p", &port, "-i", "dev", "-s", "dev", "-c", "c", "subscribe"]);
    let mut child = command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut publisher = Peer::login(running.addr, "dev", "dev").await;
    // Until it is subscribed.
    let mut sent = 0;
    let first = loop {
        publisher.send(publish("dev", "c", format!("<{sent}>"))).await;
        sent += 1;
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await {
            break line.unwrap().unwrap();
        }
    };
    let mut next = (0..sent).find(|number| first.contains(&format!("<{number}>"))).expect(&first) + 1;
    let pid = child.id().unwrap().to_string();
    run("kill", &["-STOP", &pid]).await;
    for _ in 0..1000 {
        publisher.send(publish("dev", "c", format!("<{sent}>"))).await;
        sent += 1;
    }
    sleep(Duration::from_secs(2)).await;
    run("kill", &["-CONT", &pid]).await;
    while next < sent {
        let line = within(lines.next_line()).await.unwrap().expect("it goes on");
        assert!(line.contains(&format!("<{next}>")), "{line} where {next} should be");
        next += 1;
    }
    publisher.confirm().await;
}
