//! `hpfeeds subscribe`: when it ends, and with which code. Its output formats are in `formats`.

use std::{
    fs,
    io::Write as _,
    net::{Shutdown, TcpListener},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Running, SOON, Scripted, TestBroker, bare_tool, error, message, outcome, read_frame, tool};

#[test]
fn says_what_it_is_connected_to() {
    let broker = TestBroker::start();
    let tool = broker.subscribed(&["odd.one", "-c", "files", "events"]);
    tool.wait_for_stderr("subscribed to odd.one");
    let expected = ["connected to hpfeeds", "subscribed to files", "subscribed to events", "subscribed to odd.one"];
    assert_eq!(tool.stderr().lines().collect::<Vec<_>>(), expected.map(|line| format!("hpfeeds: {line}")));
}

#[test]
fn a_star_that_stands_for_itself_is_noted() {
    let broker = TestBroker::start();
    let tool = broker.subscribed(&["cowrie*", "cowrie.*", "*"]);
    let said = "hpfeeds: cowrie* is the name of one channel: a pattern is * or ends in .*\n";
    tool.wait_for_stderr(said);
    assert_eq!(tool.stderr().matches("is the name of one channel").count(), 1, "{}", tool.stderr());
}

#[test]
fn ends_after_count_messages() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--count", "2"]);
    broker.publish(["one", "two", "three"]);
    assert_eq!(tool.wait(), Some(0));
    assert_eq!(tool.stdout(), b"[events] sensor: one\n[events] sensor: two\n");
}

#[test]
fn a_channel_given_twice_is_subscribed_to_once() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["events", "-c", "events"]);
    assert_eq!(tool.stderr().matches("subscribed to events").count(), 1);
    broker.publish(["one"]);
    tool.wait_for_stdout(b"[events] sensor: one\n");
    tool.signal("INT");
    tool.wait();
    assert_eq!(tool.stdout(), b"[events] sensor: one\n");
}

#[test]
fn a_timeout_is_a_success_when_something_came() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--timeout", "4"]);
    broker.publish(["one"]);
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert_eq!(tool.stdout(), b"[events] sensor: one\n");
}

#[test]
fn a_timeout_is_5_when_too_little_came() {
    let broker = TestBroker::start();
    let mut too_few = broker.subscribed(&["--timeout", "4", "--count", "2"]);
    broker.publish_as("dev", "events", ["one"]);
    assert_eq!(too_few.wait(), Some(5));
    assert!(too_few.stderr().contains("only 1 of 2 messages arrived within 4s"), "{}", too_few.stderr());

    let mut nothing = broker.subscribed(&["--timeout", "0.5"]);
    assert_eq!(nothing.wait(), Some(5));
    assert!(nothing.stderr().contains("nothing arrived within 500ms"), "{}", nothing.stderr());
}

#[test]
fn a_timeout_counts_from_the_start() {
    let silent = Scripted::start(1, |_, _| {});
    let (code, stderr) = outcome(silent.sensor("subscribe").args(["--timeout", "0.3"]));
    assert_eq!(code, Some(5));
    assert!(stderr.contains("nothing arrived within 300ms") && stderr.contains("had not accepted the key"), "{stderr}");
    silent.done();
}

#[test]
fn a_timeout_holds_in_a_flood() {
    let frame = message(b"").repeat(10_000);
    let flood = Scripted::authenticated(1, move |_, stream| while stream.write_all(&frame).is_ok() {});
    flood.sensor("subscribe").args(["--timeout", "0.5"]).assert().success();
    flood.done();
}

#[test]
fn a_rejected_key_is_3() {
    let broker = TestBroker::start();
    let mut command = broker.subscriber(&["-c", "events", "-s", "wrong"]);
    let mut tool = Running::start(&mut command);
    assert_eq!(tool.wait(), Some(3));
    let stderr = tool.stderr();
    assert!(stderr.contains("Authentication failed for collector"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn an_unreachable_broker_at_the_start_is_exit_code_1() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (code, stderr) = outcome(tool().args(["subscribe", "-p", &port, "-i", "i", "-s", "s", "-c", "c"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot connect to localhost:"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_broker_that_refuses_at_the_door_is_1_with_its_words() {
    let full = Scripted::start(1, |_, stream| {
        stream.write_all(&error("Too many\x1b[2Jconnections")).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let (code, stderr) = outcome(&mut full.sensor("subscribe"));
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "hpfeeds: the broker reported: \"Too many\\u{1b}[2Jconnections\"\n");
    full.done();
}

#[test]
fn all_channels_denied_is_4() {
    let broker = TestBroker::start();
    let mut tool = Running::start(&mut broker.subscriber(&["-c", "forbidden", "-c", "forbidden.too"]));
    assert_eq!(tool.wait(), Some(4));
    for channel in ["forbidden", "forbidden.too"] {
        assert!(tool.stderr().contains(&format!("subscribe to {channel:?}")), "{}", tool.stderr());
    }
}

#[test]
fn one_channel_denied_is_4_at_the_end_and_the_others_flow() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["-c", "forbidden", "--count", "1"]);
    tool.wait_for_stderr(r#"subscribe to "forbidden""#);
    assert!(!tool.stderr().contains("subscribed to forbidden"), "{}", tool.stderr());
    broker.publish(["one"]);
    assert_eq!(tool.wait(), Some(4));
    assert_eq!(tool.stdout(), b"[events] sensor: one\n");
}

/// The broker does not say which channel it means, and closes: the tool finds out which ones it
/// does not let through.
#[test]
fn a_denial_without_a_name_is_found_out() {
    let odd = Scripted::authenticated(4, |number, stream| {
        while let Some(frame) = read_frame(stream) {
            if frame.ends_with(b"bad") {
                stream.write_all(&error("accessfail.")).unwrap();
                return stream.shutdown(Shutdown::Both).unwrap();
            }
            if number == 3 {
                return stream.write_all(&message(b"at last")).unwrap();
            }
        }
    });
    let mut command = bare_tool();
    command.args(["subscribe", "-p", &odd.port().to_string(), "-i", "i", "-s", "s", "-n", "1"]);
    let mut tool = Running::start(command.args(["bad", "good", "worse.bad"]));
    assert_eq!(tool.wait(), Some(4), "{}", tool.stderr());
    assert_eq!(tool.stdout(), b"[events] i: at last\n");
    let stderr = tool.stderr();
    assert!(["\"bad\"", "\"worse.bad\""].iter().all(|name| stderr.contains(name)), "{stderr}");
    assert!(!stderr.contains("subscribed to bad") && !stderr.contains("subscribed to worse"), "{stderr}");
    odd.done();
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    // No second message is needed to notice that `head` has gone.
    let mut command = Command::new("sh");
    command.args(["-c", r#"{ "$@"; echo "exit $?" >&2; } | head -n 1"#, "sh"]);
    command.args([env!("CARGO_BIN_EXE_hpfeeds"), "subscribe", "-c", "events", "-i", "dev", "-s", "dev", "-p", &port]);
    let mut pipe = Running::start(&mut command);
    pipe.wait_for_stderr("subscribed to events");
    broker.publish(["one"]);
    assert_eq!(pipe.wait(), Some(0));
    assert_eq!(pipe.stdout(), b"[events] sensor: one\n");
    let stderr = pipe.stderr();
    assert_eq!(stderr.lines().skip(2).collect::<Vec<_>>(), ["exit 0"], "{stderr}");
}

#[test]
fn a_pipe_that_closes_in_a_flood_ends_it_quietly() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    let mut command = Command::new("sh");
    command.args(["-c", r#"{ "$@"; echo "exit $?" >&2; } | head -c 100000 | wc -c"#, "sh"]);
    command.args([env!("CARGO_BIN_EXE_hpfeeds"), "subscribe", "-c", "events", "-i", "dev", "-s", "dev", "-p", &port]);
    let mut pipe = Running::start(command.arg("--format=raw"));
    pipe.wait_for_stderr("subscribed to events");
    broker.publish((0..50).map(|_| vec![b'x'; 10_000]));
    assert_eq!(pipe.wait(), Some(0));
    assert_eq!(String::from_utf8(pipe.stdout()).unwrap().trim(), "100000");
    assert!(pipe.stderr().ends_with("exit 0\n"), "{}", pipe.stderr());
}

#[test]
fn a_disk_that_is_full_is_1() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["-o", "/dev/full"]);
    broker.publish(["one"]);
    assert_eq!(tool.wait(), Some(1));
    assert!(tool.stderr().contains("cannot write to /dev/full: No space left"), "{}", tool.stderr());
}

/// All three come at once, so that nothing has been printed when the third is looked at.
#[test]
fn stored_payloads_are_printed_when_the_next_cannot_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    // No file can take the place of a directory. It is named by the SHA-256 of `three`.
    let digest = "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f";
    fs::create_dir(dir.path().join(digest)).unwrap();
    let broker = Scripted::authenticated(1, |_, stream| {
        assert_eq!(read_frame(stream).unwrap()[4], 4, "not SUBSCRIBE");
        stream.write_all(&[message(b"one"), message(b"two"), message(b"three")].concat()).unwrap();
    });
    let output = broker.sensor("subscribe").arg("--save-dir").arg(dir.path()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot store a payload"), "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    let stored = stdout.lines().map(|line| fs::read(line.split(' ').nth(2).unwrap()).unwrap());
    assert_eq!(stored.collect::<Vec<_>>(), [b"one", b"two"]);
    broker.done();
}

/// Waits until a file holds this.
fn wait_for_file(path: &Path, expected: &str) {
    let start = Instant::now();
    while fs::read_to_string(path).ok().as_deref() != Some(expected) {
        assert!(start.elapsed() < SOON, "{} holds {:?}", path.display(), fs::read_to_string(path));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_that_is_moved_or_removed_is_made_again_for_the_next_message() {
    let broker = TestBroker::start();
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let mut tool = broker.subscribed(&["-o", log.to_str().unwrap()]);
    broker.publish(["one"]);
    wait_for_file(&log, "[events] sensor: one\n");
    fs::rename(&log, &old).unwrap();
    broker.publish(["two"]);
    wait_for_file(&log, "[events] sensor: two\n");
    assert_eq!(fs::read_to_string(&old).unwrap(), "[events] sensor: one\n");
    fs::remove_file(&log).unwrap();
    broker.publish(["three"]);
    wait_for_file(&log, "[events] sensor: three\n");
    // Another one in its place is appended to.
    fs::rename(&old, &log).unwrap();
    broker.publish(["four"]);
    wait_for_file(&log, "[events] sensor: one\n[events] sensor: four\n");
    // Where nothing can be made, it says so rather than to go on for nothing; what it has received
    // is in the old file.
    let aside = dir.path().with_extension("aside");
    fs::rename(dir.path(), &aside).unwrap();
    broker.publish(["five"]);
    assert_eq!(tool.wait(), Some(1));
    assert!(tool.stderr().contains(&format!("cannot open {}: No such file", log.display())), "{}", tool.stderr());
    let kept = fs::read_to_string(aside.join("log")).unwrap();
    fs::remove_dir_all(aside).unwrap();
    assert_eq!(kept, "[events] sensor: one\n[events] sensor: four\n[events] sensor: five\n");
}

#[test]
fn sighup_opens_the_file_again_before_a_message_comes() {
    let broker = TestBroker::start();
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let mut tool = broker.subscribed(&["-o", log.to_str().unwrap()]);
    broker.publish(["one"]);
    wait_for_file(&log, "[events] sensor: one\n");
    fs::rename(&log, &old).unwrap();
    tool.signal("HUP");
    wait_for_file(&log, "");
    broker.publish(["two"]);
    wait_for_file(&log, "[events] sensor: two\n");
    tool.signal("TERM");
    assert_eq!(tool.wait(), Some(0));
    assert_eq!(fs::read_to_string(&old).unwrap(), "[events] sensor: one\n");
    // Without a file, it ends the tool as it ends all others: nobody is left at the terminal.
    let mut tool = broker.subscribed(&[]);
    tool.signal("HUP");
    assert_eq!(tool.wait(), None);
}
