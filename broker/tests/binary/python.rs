//! Command lines that the Python broker takes, as images, compose files and units have them.

use super::{Running, command, file, run, support::Peer, within};

/// Runs it with `--check-config`: what it would listen on, as it prints it.
async fn listens(arguments: &[&str]) -> Vec<String> {
    let mut command = command(&[arguments, &["--check-config"]].concat());
    let output = within(command.env("HPFEEDS_EVE_SECRET", "s").output()).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    stdout.lines().skip(1).map(str::to_owned).collect()
}

/// The lines that it prints for an endpoint on every address.
fn everywhere(port: u16) -> String {
    format!("would listen on 0.0.0.0:{port} (tcp:interface=0.0.0.0:port={port})")
}

#[tokio::test]
async fn the_last_of_a_flag_that_is_given_twice_counts() {
    let twice = ["--bind", "127.0.0.1:7", "--bind=127.0.0.1:0", "--name=one", "--name", "two", "--debug", "--debug"];
    let exporters = ["--exporter", "192.0.2.1:9431", "--exporter=127.0.0.1:0"];
    let mut command = command(&[&["--auth=env"], &twice[..], &exporters].concat());
    command.env("HPFEEDS_EVE_SECRET", "s");
    let mut running = Running::start(command).await;
    assert!(running.addr.ip().is_loopback() && running.addr.port() != 7, "{}", running.addr);
    let metrics = within(running.stdout.next_line()).await.unwrap().unwrap();
    assert!(metrics.starts_with("metrics at http://127.0.0.1:"), "{metrics}");
    assert_eq!(Peer::login(running.addr, "eve", "s").await.name, "two hpx/1");
    assert_eq!(running.stop("-TERM").await.0, Some(0));
    // Stores and endpoints are lists, there and here.
    let both = listens(&["--auth=env", "--auth=env", "-e", "tcp:port=1", "-e", "tcp:port=2"]).await;
    assert_eq!(both, [everywhere(1), everywhere(2)]);
    // Ours, too, also those that exclude others.
    let ours = ["--dev", "--dev", "--log-level=warn", "--log-level=error", "--max-message=1", "--max-message=1M"];
    let expected = "would listen on 127.0.0.1:9 (tcp:interface=127.0.0.1:port=9)";
    assert_eq!(listens(&[&ours[..], &["-p8", "-p9"]].concat()).await, [expected]);
    let list = file(".json", "{}");
    let keys = ["keys", "list", "--auth=/nonexistent.json", "--auth", list.to_str().unwrap()];
    assert_eq!(run(&keys).await, (Some(0), String::new()));
}

#[tokio::test]
async fn an_address_may_be_left_out() {
    assert_eq!(listens(&["--auth=env", "--bind", ":22913"]).await, [everywhere(22913)]);
    assert_eq!(listens(&["--auth=env", "-e", "tcp:port=22918:interface="]).await, [everywhere(22918)]);
    assert_eq!(listens(&["--auth=env", "-e", "tcp:interface=:port=22918:device="]).await, [everywhere(22918)]);
    let exporter = listens(&["--auth=env", "--bind=:1", "--exporter", ":9431"]).await;
    assert_eq!(exporter, [everywhere(1), "metrics would be at http://0.0.0.0:9431/metrics".to_owned()]);
}

/// As `--bind=${BIND}` becomes when the variable is not set.
#[tokio::test]
async fn an_empty_value_counts_as_not_given() {
    let empty = ["--bind=", "--exporter=", "--tlscert=", "--tlskey="];
    assert_eq!(listens(&[&["--auth=env"], &empty[..]].concat()).await, [everywhere(20000)]);
    assert_eq!(listens(&[&["--auth=env", "-e", "tcp:port=1"], &empty[..]].concat()).await, [everywhere(1)]);
    let (code, stderr) = run(&["--auth=env", "--tlscert=cert.pem", "--tlskey="]).await;
    assert_eq!(
        (code, &*stderr),
        (Some(2), "hpfeeds-broker: --tlscert needs its key, and --tlskey is empty (try --help)\n")
    );
}
