//! A log whose reader stops reading: the broker goes on.

use std::{
    io::{BufRead as _, Read as _},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use crate::{
    support::{publish, within},
    target::{command, login, pair},
};

/// Starts a broker whose stderr is a pipe that nobody reads.
async fn start() -> (Child, SocketAddr, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let keys = crate::target::file(
        ".json",
        r#"{"honest": {"owner": "o", "secret": "s3cret", "pubchans": ["honest"], "subchans": ["honest"]}}"#,
    );
    let mut command = command(&["-e", "tcp:interface=127.0.0.1:port=0", "--auth", keys.to_str().unwrap()]);
    let mut child = command.stderr(Stdio::from(writer)).spawn().unwrap();
    drop(command);
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(stdout.next_line()).await.unwrap().unwrap();
    (child, line.strip_prefix("listening on ").unwrap().parse().unwrap(), reader)
}

async fn end(mut child: Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("/bin/kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads() {
    // A pipe holds 64 KiB, and the broker 4 MiB more: each of these has two lines of 300 bytes and more.
    const CONNECTIONS: usize = 7500;
    let (child, addr, reader) = start().await;
    let (mut sensor, mut collector) = pair(addr).await;
    let channel = "x".repeat(255);
    let mut attackers = tokio::task::JoinSet::new();
    for task in 0..20_u8 {
        let denied = publish("honest", &channel, "");
        attackers.spawn(async move {
            for _ in 0..CONNECTIONS / 20 {
                let mut peer = login([127, 50, 0, task], addr, "honest", "s3cret").await;
                peer.send(denied.clone()).await;
                assert!(peer.next().await.is_some(), "an ERROR");
                peer.framed.into_inner().set_zero_linger().unwrap();
            }
        });
    }
    while let Some(done) = attackers.join_next().await {
        done.unwrap();
    }
    let message = publish("honest", "honest", "alive");
    sensor.send(message.clone()).await;
    assert_eq!(collector.next().await, Some(message));
    // The number of lost lines is logged as soon as the pipe is read again.
    let reading = tokio::task::spawn_blocking(move || {
        let (mut reader, mut log) = (std::io::BufReader::new(reader), String::new());
        let mut line = 0;
        while !log[line..].contains("lines are lost") {
            line = log.len();
            assert_ne!(reader.read_line(&mut log).unwrap(), 0, "the log ends: {log}");
        }
        (reader, log)
    });
    let (mut reader, mut log) = within(reading).await.unwrap();
    let reading = tokio::task::spawn_blocking(move || reader.read_to_string(&mut log).map(|_| log));
    end(child).await;
    let log = within(reading).await.unwrap().unwrap();
    let lost = log.lines().find(|line| line.contains("lines are lost")).expect("what was lost");
    println!("figures: a log that nobody reads: {} KiB written, then: {lost}", log.len() / 1024);
    assert!(log.lines().last().unwrap().contains("stopped"), "{log}");
}

#[tokio::test]
async fn a_log_that_nobody_can_read() {
    let (child, addr, reader) = start().await;
    drop(reader);
    let (mut sensor, mut collector) = pair(addr).await;
    let message = publish("honest", "honest", "alive");
    sensor.send(message.clone()).await;
    while collector.next().await.unwrap() != message {}
    login([127, 51, 0, 1], addr, "honest", "wrong").await.expect_error("Authentication failed for honest").await;
    end(child).await;
}

/// It ends all the same, and soon.
#[tokio::test]
async fn a_full_log_does_not_hold_up_the_end() {
    let (child, addr, reader) = start().await;
    for n in 0..200_u8 {
        let peer = login([127, 52, 0, n], addr, &"\x1b".repeat(255), "wrong").await;
        peer.expect_error(format!("Authentication failed for {}", "\x1b".repeat(255))).await;
    }
    let begun = Instant::now();
    end(child).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(reader);
}
