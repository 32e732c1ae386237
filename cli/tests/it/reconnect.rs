//! `hpfeeds subscribe` while brokers come and go.

use std::{io::Write as _, net::Shutdown};

use crate::support::{Running, Scripted, TestBroker, bare_tool, error, message, read_frame};

#[test]
fn survives_restarts_of_the_broker() {
    let mut broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--count", "4"]);
    broker.publish(["0"]);
    for restart in 1..4 {
        broker.start_again();
        tool.wait_for_stderr_times("subscribed to events", restart + 1);
        broker.publish([restart.to_string()]);
    }
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    let stdout = String::from_utf8(tool.stdout()).unwrap();
    let expected = [0, 1, 2, 3].map(|n| format!("[events] sensor: {n}"));
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
    assert!(tool.stderr().contains("closed the connection"), "{}", tool.stderr());
}

#[test]
fn waits_for_a_broker_that_is_away_and_says_so_once() {
    let mut broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--debug"]);
    broker.stop();
    // Attempts that fail one after the other, as the log shows them.
    tool.wait_for_stderr_times("Connection refused", 4);
    broker.start_again();
    tool.wait_for_stderr_times("subscribed to events", 2);
    tool.signal("TERM");
    assert_eq!(tool.wait(), Some(0));
    let stderr = tool.stderr();
    let told = stderr.lines().filter(|line| line.starts_with("hpfeeds: cannot connect")).count();
    assert_eq!(told, 1, "{stderr}");
    // And when it tries again.
    let lost: Vec<_> = stderr.lines().filter(|line| line.contains("disconnected")).collect();
    assert!(lost.len() >= 4 && lost.iter().all(|line| line.contains(" retry_in=") && line.ends_with('s')), "{stderr}");
}

/// A broker that is being stopped can look like one that rejects the key.
#[test]
fn one_rejection_after_a_good_connection_is_not_the_end() {
    let odd = Scripted::authenticated(3, |number, stream| {
        match number {
            // The subscription; then a message, so that the connection counts as good.
            0 | 2 => {
                read_frame(stream).unwrap();
                stream.write_all(&message(b"x")).unwrap();
            }
            _ => {}
        }
        stream.shutdown(if number == 2 { Shutdown::Write } else { Shutdown::Both }).unwrap();
    });
    let mut command = bare_tool();
    command.args(["subscribe", "-p", &odd.port().to_string(), "-i", "sensor", "-s", "s", "-c", "events", "-n", "2"]);
    let mut tool = Running::start(&mut command);
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert!(tool.stderr().contains("right after ident \"sensor\" authenticated"), "{}", tool.stderr());
    odd.done();
}

#[test]
fn a_key_that_is_withdrawn_is_3() {
    let odd = Scripted::authenticated(3, |number, stream| {
        if number == 0 {
            read_frame(stream).unwrap();
            stream.write_all(&message(b"x")).unwrap();
        } else {
            stream.write_all(&error("Authentication failed for sensor")).unwrap();
        }
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let mut command = bare_tool();
    command.args(["subscribe", "-p", &odd.port().to_string(), "-i", "sensor", "-s", "s", "-c", "events"]);
    let mut tool = Running::start(&mut command);
    assert_eq!(tool.wait(), Some(3), "{}", tool.stderr());
    odd.done();
}
