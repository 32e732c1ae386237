//! Ctrl-C and SIGTERM: how each action ends, and with which exit code.

use std::{io::Write as _, net::Shutdown};

use crate::support::{Running, SECRET, Scripted, TestBroker, bare_tool, message, read_frame};

#[test]
fn subscribe_ends_with_0() {
    let broker = TestBroker::start();
    for signal in ["INT", "TERM"] {
        let mut tool = broker.subscribed(&[]);
        broker.publish(["one"]);
        tool.wait_for_stdout(b"[events] sensor: one\n");
        tool.signal(signal);
        assert_eq!(tool.wait_with_open_stdin(), Some(0), "{}", tool.stderr());
        assert_eq!(tool.stderr().lines().count(), 2, "{}", tool.stderr());
    }
}

#[test]
fn subscribe_ends_while_the_broker_is_away() {
    let mut broker = TestBroker::start();
    let mut tool = broker.subscribed(&[]);
    broker.stop();
    tool.wait_for_stderr("closed the connection");
    tool.signal("INT");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
}

/// It has output that nobody takes: the second signal does not wait for that.
#[test]
fn a_second_signal_ends_it_at_once() {
    let broker = TestBroker::start();
    let mut command = broker.subscriber(&["-c", "events", "-f", "raw"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("subscribed") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut stderr, &mut line).unwrap(), 0);
    }
    // More than a pipe holds.
    broker.publish([vec![b'x'; 500_000]]);
    let id = child.id().to_string();
    let status = loop {
        // Again and again: when it is not stuck in its write yet, the first one ends it properly.
        std::process::Command::new("kill")
            .args(["-s", "INT", &id])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    drop(reader);
}

fn publisher(port: u16, args: &[&str]) -> Running {
    let mut command = bare_tool();
    command.args(["publish", "-p", &port.to_string(), "-i", "sensor", "-s", SECRET, "-c", "events"]);
    Running::start(command.args(args))
}

#[test]
fn publish_sends_what_it_has_and_says_that_it_is_not_all() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut tool = publisher(broker.port(), &["--lines"]);
        tool.type_in(b"one\ntwo\nhalf a line");
        assert_eq!((peer.next().2, peer.next().2), ("one".into(), "two".into()));
        tool.signal(signal);
        assert_eq!(tool.wait_with_open_stdin(), Some(code), "{}", tool.stderr());
        let stderr = tool.stderr();
        assert!(stderr.contains("interrupted; the broker has read the 2 messages before that"), "{stderr}");
        assert!(stderr.contains("stdin was read up to line 2, and 11 bytes of a line that had not ended"), "{stderr}");
        assert!(peer.all().is_empty(), "half a line is no line");
    }
}

#[test]
fn publish_sends_the_lines_that_were_written_before_the_signal() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut tool = publisher(broker.port(), &["--lines"]);
    tool.type_in(b"first\n");
    assert_eq!(peer.next().2, "first");
    let lines: Vec<_> = (0..5000).map(|n| n.to_string()).collect();
    tool.type_in((lines.join("\n") + "\n").as_bytes());
    tool.signal("INT");
    assert_eq!(tool.wait_with_open_stdin(), Some(130));
    assert!(tool.stderr().contains("the broker has read the 5001 messages before that"), "{}", tool.stderr());
    assert!(peer.payloads() == lines);
}

/// Ctrl-C ends both programs of a pipe. The end of the input says that there is no more.
#[test]
fn publish_is_done_when_its_input_ends_after_the_signal() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut tool = publisher(broker.port(), &["--lines"]);
    tool.type_in(b"one\n");
    assert_eq!(peer.next().2, "one");
    tool.signal("INT");
    tool.type_in(b"two\nthree");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert_eq!((peer.payloads(), tool.stderr().as_str()), (vec!["two".into(), "three".into()], ""));
}

/// The broker sends more than is printed by the time of the signal, and a last message when it
/// hears that the tool goes.
#[test]
fn subscribe_prints_what_it_has_received() {
    const MESSAGES: usize = 50_000;
    for signal in ["INT", "TERM"] {
        let broker = Scripted::authenticated(1, |_, stream| {
            read_frame(stream);
            stream.write_all(&message(b"x").repeat(MESSAGES)).unwrap();
            // It unsubscribes, and has nothing more to say.
            while read_frame(stream).is_some() {}
            stream.write_all(&message(b"last")).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut command = bare_tool();
        command.args(["subscribe", "-p", &broker.port().to_string(), "-i", "sensor", "-s", SECRET, "-c", "events"]);
        let mut tool = Running::start(&mut command);
        tool.wait_for_stdout(b"[events] i: x\n");
        tool.signal(signal);
        assert_eq!(tool.wait_with_open_stdin(), Some(0), "{}", tool.stderr());
        let printed = String::from_utf8(tool.stdout()).unwrap();
        assert_eq!(printed.lines().count(), MESSAGES + 1);
        assert!(printed.ends_with("\n[events] i: last\n"));
        broker.done();
    }
}

#[test]
fn publish_ends_while_it_waits_for_stdin() {
    let broker = TestBroker::start();
    let mut tool = publisher(broker.port(), &["--debug"]);
    tool.type_in(b"not all of it");
    tool.wait_for_stderr("reading stdin");
    tool.signal("INT");
    assert_eq!(tool.wait_with_open_stdin(), Some(130));
}

#[test]
fn publish_ends_while_it_waits_for_the_broker() {
    let silent = Scripted::start(1, |_, _| {});
    let mut tool = publisher(silent.port(), &["--debug", "x"]);
    tool.wait_for_stderr("connecting");
    tool.signal("TERM");
    assert_eq!(tool.wait(), Some(143), "{}", tool.stderr());
}
