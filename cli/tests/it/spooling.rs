//! `--spool`: messages that outlive the connection and the tool.

use std::{fs, path::Path};

use bytes::Bytes;

use crate::support::{Running, SECRET, TestBroker, bare_tool, fails, outcome, tool};

/// `hpfeeds` as `sensor` with an action and a spool, not started yet.
fn command(port: u16, action: &[&str], spool: &Path) -> std::process::Command {
    let mut command = bare_tool();
    command.args(action).args(["-p", &port.to_string(), "-i", "sensor", "-s", SECRET, "-c", "events"]);
    command.arg("--spool").arg(spool);
    command
}

fn lines(port: u16, spool: &Path, more: &[&str]) -> Running {
    let timeout = if more.contains(&"--timeout") { &[][..] } else { &["--timeout", "0.5"] };
    Running::start(command(port, &["publish", "--lines"], spool).args(timeout).args(more))
}

/// Runs `hpfeeds spool ACTION`, and gives what that prints.
fn look(action: &str, spool: &Path) -> String {
    let output = tool().args(["spool", action]).arg(spool).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the broker again, and gives the peer that gets what the tool sends then: the tool stands
/// still until it is there.
fn back<'a>(broker: &'a mut TestBroker, tool: &Running) -> crate::support::Peer<'a> {
    tool.signal("STOP");
    broker.start_again();
    let peer = broker.listen(&["events"]);
    tool.signal("CONT");
    peer
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn lines_are_kept_while_the_broker_is_away_and_sent_in_order_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let mut broker = TestBroker::start();
    broker.stop();
    // Also one that has never been there.
    let mut tool = lines(broker.port(), &spool, &[]);
    tool.type_in((numbers(0..500).join("\n") + "\n").as_bytes());
    tool.wait_for_stderr("spooling: ");
    let mut peer = back(&mut broker, &tool);
    let got: Vec<_> = (0..500).map(|_| peer.next().2).collect();
    assert!(got == numbers(0..500), "{got:?}");
    tool.wait_for_stderr("the spool is drained");
    tool.type_in(b"online\n");
    assert_eq!(peer.next().2, "online");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert!(look("status", &spool).contains("\nmessages  0 with 0 bytes of payload"), "{}", look("status", &spool));
}

#[test]
fn a_tool_that_is_killed_leaves_its_lines_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = TestBroker::start();
    broker.stop();
    let mut tool = lines(broker.port(), dir.path(), &["--spool-write-through"]);
    tool.type_in((numbers(0..100).join("\n") + "\n").as_bytes());
    while !look("status", dir.path()).contains("\nmessages  100 with") {}
    let status = look("status", dir.path());
    assert!(status.contains(&format!("\nused by   process {}\nident     sensor\n", tool.id())), "{status}");
    tool.signal("KILL");
    assert_eq!(tool.wait(), None);
    assert!(look("status", dir.path()).contains("\nused by   nobody here; last by process "));
    broker.start_again();
    let mut peer = broker.listen(&["events"]);
    let mut next = lines(broker.port(), dir.path(), &[]);
    next.type_in(b"100\n");
    assert_eq!(next.wait(), Some(0), "{}", next.stderr());
    assert!(peer.payloads() == numbers(0..101));
    assert!(next.stderr().contains("spooling: 100 messages on disk"), "{}", next.stderr());
}

#[test]
fn what_is_left_at_the_end_is_told_with_7_and_can_be_drained() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = TestBroker::start();
    broker.stop();
    let port = broker.port();
    let mut tool = lines(port, dir.path(), &[]);
    tool.type_in(b"one\n");
    assert_eq!(tool.wait(), Some(7), "{}", tool.stderr());
    assert!(tool.stderr().contains("1 message is in the spool"), "{}", tool.stderr());
    let file = dir.path().join("payload");
    fs::write(&file, b"\0\xfftwo").unwrap();
    let mut sendfile = command(port, &["sendfile", "--timeout", "0.5", file.to_str().unwrap()], dir.path());
    assert_eq!(Running::start(&mut sendfile).wait(), Some(7));
    let drain = |ident: &str| {
        let mut command = tool_for(port, ident);
        command.args(["spool", "drain", "--timeout", "0.5"]).arg(dir.path());
        command
    };
    let (code, stderr) = outcome(&mut drain("sensor"));
    assert!(code == Some(7) && stderr.contains("2 messages are in the spool"), "{stderr}");
    broker.start_again();
    // The messages are another key's.
    fails(&mut drain("collector"), 1, "sensor");
    let mut peer = broker.listen(&["events"]);
    let (code, stderr) = outcome(&mut drain("sensor"));
    let sent = format!("hpfeeds: 2 messages sent from {}, which is empty now\n", dir.path().display());
    assert!(code == Some(0) && stderr.ends_with(&sent), "{stderr}");
    assert_eq!(peer.payloads(), [Bytes::from("one"), b"\0\xfftwo"[..].into()]);
    let (code, stderr) = outcome(&mut drain("sensor"));
    assert!(code == Some(0) && stderr.ends_with(" holds no messages\n"), "{stderr}");
    fails(drain("sensor").arg("--spool-after"), 2, "--spool-after");
}

fn tool_for(port: u16, ident: &str) -> assert_cmd::Command {
    let mut command = tool();
    command.args(["-p", &port.to_string(), "-i", ident, "-s", SECRET]);
    command
}

#[test]
fn a_signal_leaves_everything_that_was_read_on_disk() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = TestBroker::start();
        broker.stop();
        // It does not wait for the broker.
        let mut tool = lines(broker.port(), dir.path(), &["--spool-after", "100", "--timeout", "1000"]);
        tool.wait_for_stderr("cannot connect");
        tool.type_in(b"one\ntwo\nhalf");
        tool.signal(signal);
        assert_eq!(tool.wait_with_open_stdin(), Some(code));
        let stderr = tool.stderr();
        assert!(stderr.contains("interrupted; 2 messages are in the spool"), "{stderr}");
        assert!(
            stderr.ends_with("stdin was read up to line 2, and 4 bytes of a line that had not ended\n"),
            "{stderr}"
        );
        assert_eq!(look("dump", dir.path()).lines().count(), 2);
    }
}

#[test]
fn a_spool_that_cannot_be_used_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = TestBroker::start();
    broker.stop();
    let mut first = lines(broker.port(), dir.path(), &["--spool-write-through"]);
    first.type_in(b"one\n");
    while !look("status", dir.path()).contains("\nmessages  1 with") {}
    let mut second = lines(broker.port(), dir.path(), &[]);
    second.try_type_in(b"two\n");
    assert_eq!(second.wait_with_open_stdin(), Some(1));
    // Before it has read anything.
    let used = format!("hpfeeds: the spool {} is used by process {}\n", dir.path().display(), first.id());
    assert_eq!(second.stderr(), used);
    drop(first);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut third = lines(broker.port(), &file, &[]);
    assert_eq!(third.wait_with_open_stdin(), Some(1));
    assert!(third.stderr().contains(file.to_str().unwrap()), "{}", third.stderr());
}

#[test]
fn a_spool_that_is_full_drops_or_refuses_as_it_is_told() {
    let line = "x".repeat(100_000) + "\n";
    let limit = ["--spool-max-bytes", "2M", "--spool-when-full"];
    let dir = tempfile::tempdir().unwrap();
    let mut broker = TestBroker::start();
    broker.stop();
    let mut tool = lines(broker.port(), dir.path(), &[&limit[..], &["drop-oldest"]].concat());
    tool.type_in(line.repeat(100).as_bytes());
    tool.wait_for_stderr("the spool is full; oldest messages dropped: ");
    let code = tool.wait();
    assert!(matches!(code, Some(1 | 7)), "{code:?} {}", tool.stderr());
    assert!(look("status", dir.path()).contains(" dropped for room"), "{}", look("status", dir.path()));

    let dir = tempfile::tempdir().unwrap();
    let mut command = command(broker.port(), &["publish", "--lines", "--timeout", "0.5"], dir.path());
    let mut tool = Running::start(command.args([&limit[..], &["refuse"]].concat()));
    tool.try_type_in(line.repeat(200).as_bytes());
    assert_eq!(tool.wait_with_open_stdin(), Some(1), "{}", tool.stderr());
    let stderr = tool.stderr();
    let left = stderr.lines().last().unwrap();
    assert!(left.starts_with("hpfeeds: the spool is full; ") && left.contains(" of stdin"), "{stderr}");
}
