//! A data folder whose disk cannot be written: from the start on, or from some moment on.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Running, broker, can,
    disk::{Disk, is_one_line, output},
    support::{Peer, publish, within},
    unused,
};

#[tokio::test]
async fn a_data_folder_on_a_read_only_disk_is_named_and_no_broker_starts() {
    let Some(disk) = Disk::mount("64m").await else { return };
    let place = disk.path("data");
    let arguments = ["--dev", "--port=0", "--data-dir", place.to_str().unwrap(), "--mailbox", "dev=*"];
    // One that would have to be made, and one that a broker has used.
    for is_new in [true, false] {
        if !is_new {
            let mut running = Running::start(broker(&arguments)).await;
            running.signal("-TERM").await;
            assert!(within(running.child.wait()).await.unwrap().success());
        }
        disk.remount("ro").await;
        let (code, _, stderr) = output(broker(&arguments)).await;
        is_one_line(code, &stderr, &place, &["Read-only file system"]);
        disk.remount("rw").await;
    }
}

/// The status and the body of a page of the exporter.
async fn page(address: &str, path: &str) -> (u16, String) {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Sets how many descriptors a process may have, or skips the test.
async fn limit(running: &Running, descriptors: usize) -> bool {
    can("prlimit", &["--pid", &running.pid().to_string(), &format!("--nofile={descriptors}:")]).await
}

#[tokio::test]
async fn a_broker_whose_journal_fails_is_not_ready_and_counts_what_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = ["--dev", "--port=0", "--mailbox", "dev=*", "--exporter", "127.0.0.1:0"];
    let arguments = [&arguments[..], &["--data-dir", data.to_str().unwrap()]].concat();
    let mut running = Running::start(broker(&arguments)).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let exporter = line.strip_prefix("metrics at http://").unwrap().strip_suffix("/metrics").unwrap().to_owned();
    assert_eq!(page(&exporter, "/readyz").await.0, 200);
    let mut sensor = Peer::login(running.addr, "dev", "dev").await;
    running.logged("connected").await;
    // The first segment cannot be made, nor the one that is tried after it.
    if !limit(&running, unused(running.pid())).await {
        return;
    }
    sensor.send(publish("dev", "a", "lost")).await;
    running.logged("the journal has failed").await;
    assert!(limit(&running, 1000).await);
    let (status, body) = page(&exporter, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("the journal has failed"), "{body}");
    assert_eq!(page(&exporter, "/healthz").await.0, 200, "it serves all the same");
    let (_, metrics) = page(&exporter, "/metrics").await;
    for line in
        ["hpfeeds_journal_health{state=\"failed\"} 1", "hpfeeds_journal_not_stored_messages_total{reason=\"failed\"} 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    // Live it goes on.
    sensor.settle().await;
}
