//! `hpfeeds publish` with one message, and how publishing can fail.

use std::{
    ffi::OsStr,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    os::unix::ffi::OsStrExt as _,
    time::Duration,
};

use crate::support::{SECRET, Scripted, TestBroker, fails, largest, outcome, read_frame, tool};

#[test]
fn arguments_are_joined_by_a_space() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    broker.sensor("publish").args(["-c", "events", "two", "wörds "]).assert().success().stdout("").stderr("");
    let messages = peer.all();
    assert_eq!(messages.len(), 1);
    let (ident, channel, payload) = &messages[0];
    assert_eq!((&**ident, &**channel, &**payload), ("sensor", "events", "two wörds ".as_bytes()));
}

#[test]
fn data_is_sent_as_it_is() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    for data in [b"\xff\x01".as_slice(), b"-5", b"", b"line\n"] {
        broker.sensor("publish").args(["-c", "events"]).arg(OsStr::from_bytes(data)).assert().success();
        assert_eq!(peer.payloads(), [data]);
    }
    broker.sensor("publish").args(["-c", "events", "--", "--tls", "-x"]).assert().success();
    assert_eq!(peer.payloads(), ["--tls -x"]);
}

#[test]
fn stdin_is_one_message() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    for dash in [None, Some("-")] {
        let mut publish = broker.sensor("publish");
        publish.args(["-c", "events"]).args(dash).write_stdin("one\n\0two\n").assert().success();
        assert_eq!(peer.payloads(), ["one\n\0two\n"]);
    }
    broker.sensor("publish").args(["-c", "events"]).write_stdin("").assert().success();
    assert_eq!(peer.payloads(), [""]);
}

#[test]
fn every_channel_gets_the_message_once() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    broker.sensor("publish").args(["-c", "events", "-c", "files", "-c", "events", "x"]).assert().success();
    let channels: Vec<_> = peer.all().into_iter().map(|(_, channel, _)| String::from(channel)).collect();
    assert_eq!(channels, ["events", "files"]);
}

#[test]
fn a_message_may_be_as_long_as_the_maximum_and_no_longer() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let most = largest("events");
    let mut publish = broker.sensor("publish");
    assert_eq!(outcome(publish.args(["-c", "events"]).write_stdin(vec![b'x'; most])).0, Some(0));
    assert_eq!(peer.payloads()[0].len(), most);
    // The longest channel decides, before anything is sent to a shorter one.
    let mut publish = broker.sensor("publish");
    publish.args(["-c", "events", "-c", "odd.longer"]).write_stdin(vec![b'x'; most]);
    let (code, stderr) = outcome(&mut publish);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("stdin is longer than 1048558 bytes") && stderr.contains("--max-message"), "{stderr}");
    assert!(peer.all().is_empty());
}

#[test]
fn the_maximum_can_be_raised() {
    let broker = TestBroker::with_max_message(3 << 20);
    let publish = |size: &str, length| {
        let mut publish = broker.sensor("publish");
        outcome(publish.args(["-c", "events", "--max-message", size]).write_stdin(vec![b'x'; length])).0
    };
    let most = largest("events") + (2 << 20);
    assert_eq!((publish("3M", most), publish("3145728", most)), (Some(0), Some(0)));
    assert_eq!((publish("3M", most + 1), publish("1M", most)), (Some(1), Some(1)));
    fails(broker.sensor("publish").args(["-c", "events", "--max-message", "9", "x"]), 2, "no room for the names");
}

#[test]
fn a_rejected_key_is_3() {
    let broker = TestBroker::start();
    let (code, stderr) = outcome(broker.sensor("publish").args(["-c", "events", "-s", "wrong", "x"]));
    assert_eq!(code, Some(3));
    assert!(stderr.starts_with("hpfeeds: ") && stderr.contains("Authentication failed for sensor"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_denied_channel_is_4() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let (code, stderr) = outcome(broker.sensor("publish").args(["-c", "events", "-c", "forbidden", "x"]));
    assert_eq!(code, Some(4));
    assert!(stderr.contains(r#"publish to "forbidden""#), "{stderr}");
    assert_eq!(peer.payloads(), ["x"]);
}

#[test]
fn an_unreachable_broker_is_exit_code_1() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut publish = tool();
    publish.args(["--host", "127.0.0.1", "-p", &port, "-i", "sensor", "-s", SECRET, "-c", "events", "publish", "x"]);
    let (code, stderr) = outcome(&mut publish);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with(&format!("hpfeeds: cannot connect to 127.0.0.1:{port}: ")), "{stderr}");
}

#[test]
fn a_host_that_does_not_exist_is_1() {
    let mut publish = tool();
    publish.args(["--host", "no-such-host.invalid", "-i", "sensor", "-s", SECRET, "-c", "events", "publish", "x"]);
    fails(&mut publish, 1, "cannot connect to no-such-host.invalid:20000");
}

#[test]
fn a_peer_that_is_no_broker_is_1() {
    let web = Scripted::start(1, |_, stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    fails(web.sensor("publish").arg("x"), 1, "does not speak hpfeeds");
    web.done();
}

#[test]
fn a_broker_that_never_answers_is_1() {
    let silent = Scripted::start(1, |_, _| {});
    let mut publish = silent.sensor("publish");
    publish.args(["--timeout", "0.3", "x"]);
    fails(&mut publish, 1, "did not answer as an hpfeeds broker within 300ms");
    silent.done();
}

#[test]
fn a_broker_that_never_confirms_is_1() {
    // It reads everything, and does not close when we do.
    let deaf = Scripted::authenticated(1, |_, stream| assert!(stream.read_to_end(&mut Vec::new()).is_ok()));
    let (code, stderr) = outcome(deaf.sensor("publish").args(["--timeout", "0.3", "x"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("did not confirm that it read"), "{stderr}");
    deaf.done();
}

#[test]
fn a_broker_that_stops_reading_is_1() {
    let stuck = Scripted::authenticated(1, |_, _| {});
    let mut publish = stuck.sensor("publish");
    // More than any socket buffers.
    publish.args(["--lines", "--timeout", "0.5"]).write_stdin(vec![b'\n'; 2 << 20]);
    let (code, stderr) = outcome(&mut publish);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("has read nothing for 500ms"), "{stderr}");
    stuck.done();
}

#[test]
fn a_broker_that_dies_before_it_has_read_everything_is_1() {
    let dying = Scripted::authenticated(1, |_, stream| {
        // The message is there, and never read: the system tells the tool, as when a process is
        // killed.
        stream.peek(&mut [0]).unwrap();
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut publish = dying.sensor("publish");
    let running = std::thread::spawn(move || outcome(publish.arg("x")));
    dying.done();
    let (code, stderr) = running.join().unwrap();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("did not confirm that it read"), "{stderr}");
}

#[test]
fn a_silent_rejection_is_3() {
    // As some brokers do: they close without a word.
    let silent = Scripted::authenticated(1, |_, stream| {
        read_frame(stream);
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let mut subscribe = silent.sensor("subscribe");
    let (code, stderr) = outcome(&mut subscribe);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("closed the connection right after ident \"sensor\" authenticated"), "{stderr}");
    silent.done();
}

#[test]
fn a_silent_rejection_does_not_look_like_a_confirmation() {
    let silent = Scripted::authenticated(1, |_, stream| stream.shutdown(Shutdown::Both).unwrap());
    let (code, stderr) = outcome(silent.sensor("publish").args(["-c", "events", "x"]));
    assert_eq!(code, Some(3), "{stderr}");
    silent.done();
}
