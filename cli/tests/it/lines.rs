//! `hpfeeds publish --lines`: each line of stdin is a message.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    thread,
};

use bytes::Bytes;

use crate::support::{Running, SECRET, TestBroker, bare_tool, error, fails, greet, largest, outcome, tool};

#[test]
fn each_line_is_a_message() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let cases: [(&[u8], &[&[u8]]); 5] = [
        (b"one\ntwo\n", &[b"one", b"two"]),
        (b"one\n\n\nlast without newline", &[b"one", b"", b"", b"last without newline"]),
        (b"windows\r\n\xff\n", &[b"windows\r", b"\xff"]),
        (b"\n", &[b""]),
        (b"", &[]),
    ];
    for (input, expected) in cases {
        broker.sensor("publish").args(["--lines", "-c", "events"]).write_stdin(input).assert().success().stderr("");
        assert_eq!(peer.payloads(), expected);
    }
    broker.sensor("publish").args(["--lines", "-c", "events", "-"]).write_stdin("dash\n").assert().success();
    assert_eq!(peer.payloads(), ["dash"]);
}

#[test]
fn many_lines_arrive_in_order_on_every_channel() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    let lines: Vec<_> = (0..20_000).map(|n| n.to_string()).collect();
    let mut publish = broker.sensor("publish");
    publish.args(["--lines", "-c", "events", "-c", "files"]).write_stdin(lines.join("\n")).assert().success();
    let messages = peer.all();
    for wanted in ["events", "files"] {
        let got = messages.iter().filter(|(_, channel, _)| channel == wanted);
        let got: Vec<_> = got.map(|(_, _, payload)| String::from_utf8(payload.to_vec()).unwrap()).collect();
        assert!(got == lines, "{wanted}: {} messages", got.len());
    }
}

#[test]
fn a_line_is_published_when_it_comes() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut command = bare_tool();
    command.args([
        "publish",
        "--lines",
        "-c",
        "events",
        "-i",
        "sensor",
        "-s",
        SECRET,
        "-p",
        &broker.port().to_string(),
    ]);
    let mut tool = Running::start(&mut command);
    for line in ["first", "second"] {
        tool.type_in(format!("{line}\n").as_bytes());
        assert_eq!(peer.next().2, line);
    }
    tool.type_in(b"th");
    tool.type_in(b"ird");
    assert_eq!(tool.wait(), Some(0));
    assert_eq!(peer.payloads(), ["third"]);
}

#[test]
fn a_line_above_the_maximum_is_named_and_those_before_it_are_published() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let longest = "x".repeat(largest("events"));
    let input = format!("one\n{longest}\n{longest}y\nnever");
    let mut publish = broker.sensor("publish");
    let (code, stderr) = outcome(publish.args(["--lines", "-c", "events"]).write_stdin(input));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("line 3 of stdin is longer than 1048562 bytes"), "{stderr}");
    assert!(stderr.contains("has read the 2 messages before that"), "{stderr}");
    assert_eq!(peer.payloads(), [Bytes::from("one"), longest.into()]);
}

#[test]
fn lines_above_the_maximum_can_be_skipped_and_are_counted() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let longest = "x".repeat(largest("events"));
    let input = format!("one\n{longest}y\n{longest}\n{longest}{longest}\nlast");
    let mut publish = broker.sensor("publish");
    let (code, stderr) = outcome(publish.args(["--lines", "--skip-long", "-c", "events"]).write_stdin(input));
    assert_eq!(code, Some(6));
    let expected = [
        "hpfeeds: line 2 of stdin is longer than 1048562 bytes, the most that fits one message: skipped",
        "hpfeeds: line 4 of stdin is longer than 1048562 bytes, the most that fits one message: skipped",
        "hpfeeds: skipped 2 lines of stdin; the broker has read the 3 messages of the others",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    assert_eq!(peer.payloads(), [Bytes::from("one"), longest.clone().into(), "last".into()]);
    // With nothing to skip, it makes no difference.
    let mut publish = broker.sensor("publish");
    publish.args(["--lines", "--skip-long", "-c", "events"]).write_stdin("two").assert().success().stderr("");
    assert_eq!(peer.payloads(), ["two"]);
    // The worse failure decides about the code, and the count is told all the same.
    let mut publish = broker.sensor("publish");
    publish.args(["--lines", "--skip-long", "-c", "forbidden"]).write_stdin(format!("{longest}yyyyyyyyyyy\nx"));
    let (code, stderr) = outcome(&mut publish);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("skipped 1 line of stdin"), "{stderr}");
    fails(broker.sensor("publish").args(["--skip-long", "-c", "events", "x"]), 2, "--lines");
}

/// The broker closes while most lines are still to be sent: its reason must be heard over the
/// failing writes.
#[test]
fn a_refusal_in_full_flow_is_told() {
    let broker = TestBroker::start();
    let lines = "line\n".repeat(100_000);
    for _ in 0..20 {
        let mut publish = broker.sensor("publish");
        publish.args(["--lines", "-c", "forbidden"]).write_stdin(lines.as_str());
        let (code, stderr) = outcome(&mut publish);
        assert_eq!(code, Some(4), "{stderr}");
        assert!(stderr.contains(r#"publish to "forbidden""#), "{stderr}");
        let mut publish = broker.sensor("publish");
        publish.args(["--lines", "-c", "events", "-s", "wrong"]).write_stdin(lines.as_str());
        let (code, stderr) = outcome(&mut publish);
        assert_eq!(code, Some(3), "{stderr}");
    }
}

/// The Python broker closes without reading what is on its way, so that the system resets the
/// connection. The reason came before that, but a write may fail before the tool knows that there
/// is something to read.
#[test]
fn a_refusal_is_told_even_if_the_connection_is_reset() {
    const RUNS: usize = 60;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let broker = thread::spawn(move || {
        for _ in 0..RUNS {
            let (mut stream, _) = listener.accept().unwrap();
            greet(&mut stream);
            // Some messages are read, then the rest is left there.
            stream.read_exact(&mut [0; 3000]).unwrap();
            let refusal = error("Authkey not allowed to pub here. ident=sensor, chan=events");
            stream.write_all(&refusal).unwrap();
        }
    });
    let lines = "line\n".repeat(50_000);
    for _ in 0..RUNS {
        let mut publish = tool();
        publish.args(["publish", "--lines", "-p", &port, "-i", "sensor", "-s", "secret", "-c", "events"]);
        fails(publish.write_stdin(lines.as_str()), 4, r#"publish to "events""#);
    }
    broker.join().unwrap();
}

#[test]
fn the_end_of_the_connection_is_not_waited_for_behind_stdin() {
    let mut broker = TestBroker::start();
    let mut command = bare_tool();
    command.args(["publish", "--lines", "-c", "events", "-i", "sensor", "-s", SECRET]);
    let mut tool = Running::start(command.args(["-p", &broker.port().to_string()]));
    {
        let mut peer = broker.listen(&["events"]);
        tool.type_in(b"one\n");
        assert_eq!(peer.next().2, "one");
    }
    broker.stop();
    // Stdin stays open, and nothing more is typed.
    assert_eq!(tool.wait_with_open_stdin(), Some(1));
    let stderr = tool.stderr();
    assert!(stderr.contains("The broker is shutting down"), "{stderr}");
    // It did so on its way out.
    assert!(!stderr.contains("did not confirm that it read"), "{stderr}");
    assert!(stderr.contains("stdin was read up to line 1"), "{stderr}");
}

/// The connection stays: the broker says no to the message alone.
#[test]
fn a_refusal_is_not_waited_for_behind_stdin() {
    let broker = TestBroker::start();
    let mut command = bare_tool();
    command.args(["publish", "--lines", "-c", "forbidden", "-i", "sensor", "-s", SECRET]);
    let mut tool = Running::start(command.args(["-p", &broker.port().to_string()]));
    tool.type_in(b"one\n");
    assert_eq!(tool.wait_with_open_stdin(), Some(4));
    let stderr = tool.stderr();
    assert!(stderr.contains(r#"publish to "forbidden""#) && stderr.contains("; 1 message refused; "), "{stderr}");
    assert!(stderr.ends_with("stdin was read up to line 1\n"), "{stderr}");
}

#[test]
fn a_rejected_key_is_not_waited_for_behind_stdin() {
    let broker = TestBroker::start();
    let mut command = bare_tool();
    command.args(["publish", "--lines", "-c", "events", "-i", "sensor", "-s", "wrong"]);
    let mut tool = Running::start(command.args(["-p", &broker.port().to_string()]));
    assert_eq!(tool.wait_with_open_stdin(), Some(3));
}

#[test]
fn an_overlong_line_is_not_read_to_its_end() {
    let broker = TestBroker::start();
    let mut command = Command::new("sh");
    // It has no end.
    command.args(["-c", r#""$@" < /dev/zero"#, "sh", env!("CARGO_BIN_EXE_hpfeeds"), "publish", "--lines"]);
    command.args(["-c", "events", "-i", "sensor", "-s", SECRET, "-p", &broker.port().to_string()]);
    let mut tool = Running::start(&mut command);
    assert_eq!(tool.wait(), Some(1));
    assert!(tool.stderr().contains("line 1 of stdin is longer"), "{}", tool.stderr());
}
