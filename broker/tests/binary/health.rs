//! `hpfeeds-broker health`: one line and the exit code, of a broker that serves, stops, or is not there.

use super::{Running, command, run};
use crate::support::within;

/// Its stdout, or its stderr when it fails.
async fn health(arguments: &[&str]) -> Result<String, String> {
    let output = within(command(&[&["health"], arguments].concat()).output()).await.unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    match output.status.code() {
        Some(0) if stderr.is_empty() => Ok(stdout),
        Some(1) if stdout.is_empty() => Err(stderr),
        code => panic!("{code:?}: {stdout}{stderr}"),
    }
}

#[tokio::test]
async fn broker_is_healthy_until_it_ends() {
    let mut running = Running::start(command(&["--dev", "--port=0", "--exporter=127.0.0.1:0"])).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let exporter = line.strip_prefix("metrics at http://").and_then(|line| line.strip_suffix("/metrics")).unwrap();
    let addr = running.addr.to_string();
    assert_eq!(health(&[&addr]).await, Ok(format!("healthy: {addr} greets as \"hpfeeds hpx/1\"\n")));
    assert_eq!(health(&["--exporter", exporter]).await, Ok(format!("healthy: {exporter} is ready\n")));
    // An exporter is no broker, and a broker no exporter.
    let swapped = health(&["--timeout", "0.3", exporter]).await.unwrap_err();
    assert!(swapped.starts_with(&format!("hpfeeds-broker: not healthy: {exporter} does not greet: ")), "{swapped}");
    let swapped = health(&["--exporter", &addr]).await.unwrap_err();
    assert!(swapped.ends_with(" is no exporter of a broker: it does not answer /readyz\n"), "{swapped}");
    let (exporter, (code, stderr)) = (exporter.to_owned(), running.stop("-TERM").await);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("WARN") && !stderr.contains("ERROR"), "a check is nothing to worry about: {stderr}");
    for arguments in [&[&*addr][..], &["--exporter", &exporter]] {
        let gone = health(arguments).await.unwrap_err();
        let expected = format!("hpfeeds-broker: not healthy: {} takes no connection: ", arguments.last().unwrap());
        assert!(gone.starts_with(&expected) && gone.lines().count() == 1, "{gone}");
    }
}

#[tokio::test]
async fn arguments_that_make_no_sense_end_a_health_check_with_2() {
    for arguments in [&["health", "127.0.0.1:1", "--exporter", "127.0.0.1:2"][..], &["health", "--timeout", "x"]] {
        let (code, stderr) = run(arguments).await;
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
    }
    let nowhere = health(&["20000"]).await.unwrap_err();
    assert!(nowhere.starts_with("hpfeeds-broker: not healthy: 20000 is no address: "), "{nowhere}");
}
