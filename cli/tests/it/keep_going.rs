//! `hpfeeds publish --keep-going`: brokers come and go.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    sync::mpsc,
};

use crate::support::{Running, SECRET, SOON, Scripted, TestBroker, bare_tool, error, read_frame};

fn start(port: u16, args: &[&str]) -> Running {
    let mut command = bare_tool();
    command.args(["publish", "--keep-going", "-p", &port.to_string(), "-i", "sensor", "-s", SECRET]);
    Running::start(command.args(args))
}

/// The payloads of PUBLISH frames of `sensor` on `events`, to the end of the stream, which is
/// answered.
fn read_all(stream: &mut TcpStream) -> Vec<String> {
    let frames = std::iter::from_fn(|| read_frame(stream));
    let payloads = frames.map(|frame| String::from_utf8(frame[5 + 7 + 7..].to_vec()).unwrap()).collect();
    stream.shutdown(Shutdown::Both).unwrap();
    payloads
}

#[test]
fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let mut broker = TestBroker::start();
    broker.stop();
    let mut tool = start(broker.port(), &["--lines", "-c", "events"]);
    tool.type_in(b"one\n");
    tool.wait_for_stderr("cannot connect to localhost");
    broker.start_again();
    tool.wait_for_stderr("connected to hpfeeds");
    let mut peer = broker.listen(&["events"]);
    tool.type_in(b"two\n");
    while peer.next().2 != "two" {}
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    // An outage is told once, not at every attempt.
    assert_eq!(tool.stderr().lines().count(), 2, "{}", tool.stderr());
}

#[test]
fn a_wrong_key_is_3_all_the_same() {
    let broker = TestBroker::start();
    let mut tool = start(broker.port(), &["-c", "events", "-s", "wrong", "x"]);
    assert_eq!(tool.wait_with_open_stdin(), Some(3));
    assert_eq!(tool.stderr().lines().count(), 1, "{}", tool.stderr());
}

#[test]
fn a_lost_connection_is_followed_by_another_and_what_may_be_lost_is_counted() {
    let (payloads, got) = mpsc::channel();
    let broker = Scripted::authenticated(3, move |number, stream| match number {
        0 => {
            read_frame(stream).unwrap();
            read_frame(stream).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        }
        // A broker that is being stopped can look like one that rejects the key.
        1 => {
            stream.write_all(&error("Authentication failed for sensor")).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        }
        _ => payloads.send(read_all(stream)).unwrap(),
    });
    let mut tool = start(broker.port(), &["--lines", "-c", "events"]);
    tool.type_in(b"one\ntwo\n");
    tool.wait_for_stderr("2 messages may be lost; connecting again");
    tool.type_in(b"three\n");
    tool.wait_for_stderr_times("connected to odd", 2);
    tool.type_in(b"four\n");
    assert_eq!(tool.wait(), Some(1));
    assert_eq!(got.recv_timeout(SOON).unwrap(), ["three", "four"]);
    let stderr = tool.stderr();
    assert!(stderr.ends_with("hpfeeds: 2 messages in all may be lost with connections that broke\n"), "{stderr}");
    broker.done();
}

/// This broker asks publishers to end when it is stopped, and reads them to that end.
#[test]
fn a_broker_that_is_restarted_loses_nothing() {
    let mut broker = TestBroker::start();
    let mut tool = start(broker.port(), &["--lines", "-c", "events"]);
    for restart in 1..4 {
        tool.wait_for_stderr_times("connected to hpfeeds", restart);
        let line = format!("{restart}\n");
        {
            let mut peer = broker.listen(&["events"]);
            tool.type_in(line.as_bytes());
            assert_eq!(peer.next().2, restart.to_string());
        }
        broker.start_again();
    }
    tool.wait_for_stderr_times("connected to hpfeeds", 4);
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
}

#[test]
fn a_broker_that_is_away_at_the_end_is_waited_for_as_long_as_the_timeout_says() {
    let mut broker = TestBroker::start();
    let mut tool = start(broker.port(), &["--lines", "-c", "events", "--timeout", "0.5"]);
    tool.wait_for_stderr("connected to");
    broker.stop();
    tool.wait_for_stderr("connecting again");
    tool.type_in(b"one\n");
    assert_eq!(tool.wait(), Some(1));
    let stderr = tool.stderr();
    assert!(stderr.contains("waiting up to 500ms for the broker with 1 message not sent"), "{stderr}");
    assert!(stderr.ends_with("the broker has been away for 500ms: gave up with 1 message not sent\n"), "{stderr}");
}

#[test]
fn an_end_that_is_wanted_while_the_broker_is_away_is_bounded() {
    let mut broker = TestBroker::start();
    let mut tool = start(broker.port(), &["--lines", "-c", "events", "--timeout", "0.5"]);
    tool.wait_for_stderr("connected to");
    broker.stop();
    tool.wait_for_stderr("connecting again");
    tool.type_in(b"one\n");
    tool.signal("TERM");
    let code = tool.wait_with_open_stdin();
    let stderr = tool.stderr();
    assert_eq!(code, Some(143), "{stderr}");
    assert!(
        stderr.ends_with("interrupted; gave up with 1 message not sent; stdin was read up to line 1\n"),
        "{stderr}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once_and_says_what_is_left() {
    let mut broker = TestBroker::start();
    let mut tool = start(broker.port(), &["--lines", "-c", "events"]);
    let mut peer = broker.listen(&["events"]);
    tool.type_in(b"one\n");
    assert_eq!(peer.next().2, "one");
    drop(peer);
    broker.stop();
    tool.wait_for_stderr("connecting again");
    tool.type_in(b"two\nthree\n");
    tool.signal("INT");
    tool.wait_for_stderr("waiting up to 30s for the broker with 2 messages not sent");
    tool.signal("TERM");
    assert_eq!(tool.wait_with_open_stdin(), Some(143));
    let stderr = tool.stderr();
    assert!(stderr.ends_with("hpfeeds: ended by force: the broker has not confirmed 2 messages\n"), "{stderr}");
}

#[test]
fn a_denied_channel_does_not_hold_up_the_others() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut tool = start(broker.port(), &["--ndjson"]);
    let line = |channel: &str, payload| format!("{{\"channel\":\"{channel}\",\"payload\":\"{payload}\"}}\n");
    tool.type_in(line("forbidden", "x").as_bytes());
    tool.wait_for_stderr("publish to \"forbidden\"");
    tool.type_in((line("forbidden", "y") + &line("events", "z")).as_bytes());
    assert_eq!(peer.next().2, "z");
    assert_eq!(tool.wait(), Some(4));
    assert!(tool.stderr().contains("; 2 messages refused"), "{}", tool.stderr());
    // Where it is the only one, there is nothing to go on for.
    let mut tool = start(broker.port(), &["--lines", "-c", "forbidden"]);
    tool.type_in(b"x\n");
    tool.wait_for_stderr("publish to \"forbidden\"");
    tool.type_in(b"y\n");
    assert_eq!(tool.wait_with_open_stdin(), Some(4));
}
