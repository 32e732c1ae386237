//! Signals: stopping, reloading, and stopping at once.

use std::{fs, os::unix::net::UnixDatagram};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStderr,
};

use super::{
    Running, command, file,
    pki::{Pki, TlsPeer},
    support::{PATIENCE, Peer, publish, subscribe, within},
};

/// Reads the log up to the line that has this.
async fn logged(log: &mut Lines<BufReader<ChildStderr>>, part: &str) -> String {
    loop {
        let line = within(log.next_line()).await.unwrap().expect(part);
        if line.contains(part) {
            return line;
        }
    }
}

fn log(running: &mut Running) -> Lines<BufReader<ChildStderr>> {
    BufReader::new(running.child.stderr.take().unwrap()).lines()
}

fn users(ident: &str) -> String {
    format!(r#"{{"{ident}": {{"owner": "o", "secret": "hunter2", "pubchans": ["a"], "subchans": ["private"]}}}}"#)
}

#[tokio::test]
async fn sighup_reads_the_keys_again() {
    let keys = file(".json", users("bob"));
    let mut running = Running::start(command(&["--bind=127.0.0.1:0", "--auth", keys.to_str().unwrap()])).await;
    let mut log = log(&mut running);
    let mut bob = Peer::login(running.addr, "bob", "hunter2").await;
    bob.send(publish("bob", "a", "")).await;

    fs::write(&keys, users("eve")).unwrap();
    running.signal("-HUP").await;
    logged(&mut log, "reloaded").await;
    let mut eve = Peer::login(running.addr, "eve", "hunter2").await;
    eve.send(publish("eve", "a", "")).await;
    eve.confirm().await;

    fs::write(&keys, "{").unwrap();
    running.signal("-HUP").await;
    let line = logged(&mut log, "reload failed, keeping the previous configuration").await;
    assert!(line.contains("ERROR") && line.contains(keys.to_str().unwrap()), "{line}");
    let mut eve = Peer::login(running.addr, "eve", "hunter2").await;
    eve.send(publish("eve", "a", "")).await;
    eve.confirm().await;
    Peer::login(running.addr, "bob", "hunter2").await.expect_error("Authentication failed for bob").await;
    assert_eq!(running.stop("-TERM").await.0, Some(0));
}

#[tokio::test]
async fn sighup_reads_the_certificates_again() {
    let pki = Pki::new();
    let endpoint = pki.endpoint().to_string();
    let mut running = Running::start(command(&["--dev", "-e", &endpoint])).await;
    let mut log = log(&mut running);
    let config = pki.client(None);
    let first = TlsPeer::dev(running.addr, &config).await.certificate();
    pki.issue("cert.pem", "key.pem", "localhost");
    running.signal("-HUP").await;
    logged(&mut log, "reloaded").await;
    let second = TlsPeer::dev(running.addr, &pki.client(None)).await.certificate();
    assert_ne!(second, first);
    pki.write("cert.pem", "no certificate");
    running.signal("-HUP").await;
    let line = logged(&mut log, "reload failed, keeping the previous configuration").await;
    assert!(line.contains("cert.pem"), "{line}");
    assert_eq!(TlsPeer::dev(running.addr, &pki.client(None)).await.certificate(), second);
    running.stop("-TERM").await;
}

/// A subscriber that does not read, and has more queued than the system takes, so that draining lasts.
async fn stuck(running: &Running) -> Peer {
    let mut subscriber = Peer::login(running.addr, "dev", "dev").await;
    subscriber.send(subscribe("dev", "a")).await;
    subscriber.settle().await;
    let mut publisher = Peer::login(running.addr, "dev", "dev").await;
    for _ in 0..64 {
        publisher.send(publish("dev", "a", vec![0; 1_000_000])).await;
    }
    publisher.confirm().await;
    subscriber
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for (signal, name, code) in [("-TERM", "SIGTERM", 143), ("-INT", "SIGINT", 130)] {
        // A stop that waited for the draining would last longer than this test does.
        let arguments = ["--dev", "--port=0", "--low-mark=100M", "--high-mark=100M", "--write-timeout=600"];
        let mut running = Running::start(command(&arguments)).await;
        let mut log = log(&mut running);
        let subscriber = stuck(&running).await;
        running.signal("-TERM").await;
        logged(&mut log, "SIGTERM: stopping").await;
        running.signal(signal).await;
        logged(&mut log, &format!("{name} again: ending at once")).await;
        assert_eq!(running.end().await.0, Some(code));
        drop(subscriber);
    }
}

#[tokio::test]
async fn the_supervisor_hears_when_it_serves_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buf = [0; 64];
        let len = socket.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..len]).trim_end().to_owned()
    };
    let mut command = command(&["--dev", "--port=0"]);
    let running = Running::start({
        command.env("NOTIFY_SOCKET", &path);
        command
    })
    .await;
    assert_eq!(next(), "READY=1");
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(next(), "STOPPING=1");
}

/// See `Memory` in `docs/operating.md`. The lists are those of a fleet: the same for each sensor.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn many_keys_take_little_memory_however_often_they_are_read() {
    const KEYS: usize = 20_000;
    const SLACK: usize = 6 << 20;
    let channels: Vec<_> = (0..10).map(|n| format!("\"sensors.of.some.kind.{n}\"")).collect();
    let fleet: Vec<_> = (0..KEYS)
        .map(|n| {
            let (secret, channels) = ("s".repeat(32), channels.join(","));
            let lists = format!(r#""pubchans": [{channels}], "subchans": []"#);
            format!(r#""sensor-{n:0>20}": {{"owner": "site-{}", "secret": "{secret}", {lists}}}"#, n % 100)
        })
        .collect();
    let mut taken = Vec::new();
    for users in ["{}".to_owned(), format!("{{{}}}", fleet.join(","))] {
        let keys = file(".json", users);
        let mut running = Running::start(command(&["--bind=127.0.0.1:0", "--auth", keys.to_str().unwrap()])).await;
        let mut log = log(&mut running);
        let process = procfs::process::Process::new(running.child.id().unwrap().try_into().unwrap()).unwrap();
        let resident = || usize::try_from(process.status().unwrap().vmrss.unwrap()).unwrap() * 1024;
        let started = resident();
        for _ in 0..4 {
            running.signal("-HUP").await;
            logged(&mut log, "reloaded").await;
        }
        taken.push([started, resident()]);
    }
    let [[none, none_again], [start, again]] = taken[..] else { panic!("two runs") };
    let (start, again) = (start.saturating_sub(none), again.saturating_sub(none_again));
    println!("figures: {KEYS} keys: {} bytes each, {} when they have been read again", start / KEYS, again / KEYS);
    assert!(start <= KEYS * 400 + SLACK, "{start} bytes at the start");
    assert!(again <= KEYS * 1536 + SLACK, "{again} bytes after they have been read again");
}

/// Whether a process has a handler for SIGTERM by now.
#[cfg(target_os = "linux")]
fn handles_terminate(pid: u32) -> bool {
    const SIGTERM: u32 = 15;
    let Ok(process) = procfs::process::Process::new(pid.try_into().unwrap()) else { return false };
    process.status().is_ok_and(|status| status.sigcgt & 1 << (SIGTERM - 1) != 0)
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_broker_that_waits_for_its_data_folder_ends_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--dev", "--port=0", "--data-dir", folder.path().to_str().unwrap(), "--data-dir-wait", "3600"];
    let first = Running::start(command(&arguments)).await;
    let mut second = command(&arguments).spawn().unwrap();
    let pid = second.id().unwrap();
    crate::support::until(|| handles_terminate(pid)).await;
    super::kill("-TERM", pid).await;
    assert_eq!(within(second.wait()).await.unwrap().code(), Some(0));
    // And the one that has the folder goes on.
    Peer::login(first.addr, "dev", "dev").await.settle().await;
    assert_eq!(first.stop("-TERM").await.0, Some(0));
}
