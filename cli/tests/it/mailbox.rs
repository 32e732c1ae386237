//! `hpfeeds subscribe --mailbox`: what it tells the broker, and when. The broker is scripted.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use hpfeeds::wire::extension::{
    BrokerFrame, BrokerHello, ClientFrame, Code, ExtensionHeader, Flags, GapReason, Mode, Position,
};

use crate::support::{Running, SOON, Scripted, bare_tool, message, outcome, read_frame};

/// INFO of a broker that knows the extension.
const INFO: &[u8] = b"\x00\x00\x00\x13\x01\x09odd hpx/11234";

/// The last message of a mailbox that the tool has said to be printed.
type Told = Arc<Mutex<Vec<(String, u64)>>>;

fn say(stream: &mut TcpStream, frame: &BrokerFrame<'_>) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    // A tool that ends meanwhile hears nothing more.
    drop(stream.write_all(&bytes));
}

/// Greets, and grants all that HELLO asks for.
fn greet(stream: &mut TcpStream) {
    stream.write_all(INFO).unwrap();
    assert_eq!(read_frame(stream).unwrap()[4], 2, "not AUTH");
    let frame = read_frame(stream).unwrap();
    let header = ExtensionHeader::parse(&frame).unwrap().unwrap();
    let Ok(ClientFrame::Hello(hello)) = ClientFrame::parse(header.opcode, &frame[5..]) else { panic!("not HELLO") };
    assert!(hello.flags.contains(Flags::ORIGIN | Flags::WINDOW));
    say(stream, &BrokerFrame::Hello(BrokerHello { version: 1, flags: hello.flags, ..BrokerHello::default() }));
}

/// Reads `SUBSCRIBE_FROM`, and grants it.
fn granted(stream: &mut TcpStream) -> (Mode, Position, String) {
    let frame = read_frame(stream).unwrap();
    let header = ExtensionHeader::parse(&frame).unwrap().unwrap();
    match ClientFrame::parse(header.opcode, &frame[5..]) {
        Ok(ClientFrame::SubscribeFrom { mode, position, mailbox, channel: "events" }) => {
            say(stream, &BrokerFrame::SubAck { code: Code::DONE, channel: "events", text: "" });
            (mode, position, mailbox.to_owned())
        }
        other => panic!("{other:?}"),
    }
}

fn deliver(stream: &mut TcpStream, number: u64, payloads: &[&str]) {
    let (position, count) = (Position::new(3, number), u32::try_from(payloads.len()).unwrap());
    say(stream, &BrokerFrame::Origin { position, count, source: None, mailbox: "elastic" });
    for payload in payloads {
        drop(stream.write_all(&message(payload.as_bytes())));
    }
}

/// Notes what the tool says, to the end of its stream.
fn listen(stream: &mut TcpStream, told: &Told) {
    while let Some(frame) = read_frame(stream) {
        let Ok(Some(header)) = ExtensionHeader::parse(&frame) else { continue };
        if let Ok(ClientFrame::Consumed { position, mailbox, .. }) = ClientFrame::parse(header.opcode, &frame[5..])
            && position != Position::NONE
        {
            assert_eq!(position.epoch, 3);
            told.lock().unwrap().push((mailbox.to_owned(), position.number));
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

/// A broker with a mailbox that delivers these messages, from number 10 on, to one connection.
fn broker(payloads: &'static [&'static str]) -> (Scripted, Told) {
    let told = Told::default();
    let notes = Arc::clone(&told);
    let scripted = Scripted::start(1, move |_, stream| {
        greet(stream);
        assert_eq!(granted(stream), (Mode::CURSOR, Position::NONE, "elastic".to_owned()));
        deliver(stream, 10, payloads);
        listen(stream, &notes);
    });
    (scripted, told)
}

fn subscribe(scripted: &Scripted, args: &[&str]) -> std::process::Command {
    let mut command = bare_tool();
    command.args(["subscribe", "-p", &scripted.port().to_string(), "-i", "sensor", "-s", "secret", "events"]);
    command.args(["--mailbox", "elastic"]).args(args);
    command
}

/// Waits until this was said last.
fn wait_for(told: &Told, number: u64) {
    let start = Instant::now();
    while told.lock().unwrap().last() != Some(&("elastic".to_owned(), number)) {
        assert!(start.elapsed() < SOON, "{:?}", told.lock().unwrap());
        // There is no waiting with a deadline for what another thread notes; this is that, not a guess.
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn printed_messages_are_told_and_have_positions() {
    let (scripted, told) = broker(&["one", "two"]);
    let mut tool = Running::start(&mut subscribe(&scripted, &["--format", "ndjson"]));
    wait_for(&told, 11);
    tool.signal("INT");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    scripted.done();
    let lines = String::from_utf8(tool.stdout()).unwrap();
    let positions: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["position"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(positions, ["3:10", "3:11"]);
}

#[test]
fn only_so_many_messages_are_told_as_were_wanted() {
    let (scripted, told) = broker(&["one", "two", "three"]);
    let mut tool = Running::start(&mut subscribe(&scripted, &["--count", "2"]));
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert_eq!(tool.stdout(), b"[events] i: one\n[events] i: two\n");
    scripted.done();
    assert_eq!(told.lock().unwrap().last(), Some(&("elastic".to_owned(), 11)));
}

#[test]
fn messages_that_meet_no_condition_count_as_processed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let (scripted, told) = broker(&["one", "two", "three"]);
    let args = ["--where", "payload=two", "--output", file.to_str().unwrap()];
    let mut tool = Running::start(&mut subscribe(&scripted, &args));
    wait_for(&told, 12);
    assert_eq!(fs::read_to_string(&file).unwrap(), "[events] i: two\n");
    tool.signal("INT");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    scripted.done();
    // One that cannot be written is not processed, and nothing behind it.
    let (scripted, told) = broker(&["one", "two", "three"]);
    let mut tool = Running::start(&mut subscribe(&scripted, &["--where", "payload!=one", "--output", "/dev/full"]));
    assert_eq!(tool.wait(), Some(1), "{}", tool.stderr());
    scripted.done();
    assert_eq!(told.lock().unwrap().last(), None);
}

#[test]
fn a_file_is_told_of_when_it_is_on_the_disk_also_where_it_was_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (file, moved) = (dir.path().join("out"), dir.path().join("moved"));
    let told = Told::default();
    let notes = Arc::clone(&told);
    let places = (file.clone(), moved.clone());
    let scripted = Scripted::start(1, move |_, stream| {
        greet(stream);
        granted(stream);
        deliver(stream, 10, &["one"]);
        wait_for_file(&places.0, "[events] i: one\n");
        fs::rename(&places.0, &places.1).unwrap();
        deliver(stream, 11, &["two"]);
        listen(stream, &notes);
    });
    let payloads = dir.path().join("payloads");
    let mut tool = Running::start(&mut subscribe(&scripted, &["--output", file.to_str().unwrap()]));
    wait_for(&told, 11);
    assert_eq!(fs::read_to_string(&file).unwrap(), "[events] i: two\n");
    assert_eq!(fs::read_to_string(&moved).unwrap(), "[events] i: one\n");
    tool.signal("TERM");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    scripted.done();
    // The end needs no second to pass.
    let (scripted, told) = broker(&["one", "two"]);
    let args = ["--count", "2", "--save-dir", payloads.to_str().unwrap()];
    assert_eq!(Running::start(&mut subscribe(&scripted, &args)).wait(), Some(0));
    scripted.done();
    assert_eq!(told.lock().unwrap().last(), Some(&("elastic".to_owned(), 11)));
    assert_eq!(fs::read_dir(&payloads).unwrap().count(), 2);
}

fn wait_for_file(path: &Path, content: &str) {
    let start = Instant::now();
    while fs::read_to_string(path).unwrap_or_default() != content {
        assert!(start.elapsed() < SOON, "{:?}", fs::read_to_string(path));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn messages_that_could_not_be_printed_are_not_told() {
    // The reader of the pipe goes after the first one.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let told = Told::default();
    let (notes, (gone, has_gone)) = (Arc::clone(&told), std::sync::mpsc::channel());
    let scripted = Scripted::start(1, move |_, stream| {
        greet(stream);
        granted(stream);
        deliver(stream, 10, &["one"]);
        has_gone.recv().unwrap();
        deliver(stream, 11, &["two", "three"]);
        listen(stream, &notes);
    });
    let mut tool = Running::between(std::process::Stdio::null(), &mut subscribe(&scripted, &[]), writer);
    let mut line = [0; 16];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"[events] i: one\n");
    drop(reader);
    gone.send(()).unwrap();
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    scripted.done();
    assert!(told.lock().unwrap().iter().all(|(_, number)| *number == 10), "{told:?}");
    // The disk takes nothing.
    if Path::new("/dev/full").exists() {
        let (scripted, told) = broker(&["one", "two"]);
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut tool = Running::between(std::process::Stdio::null(), &mut subscribe(&scripted, &[]), full);
        assert_eq!(tool.wait(), Some(1), "{}", tool.stderr());
        scripted.done();
        assert_eq!(*told.lock().unwrap(), []);
    }
}

#[test]
fn a_reconnect_goes_on_from_the_cursor_and_a_position_is_for_the_first_connection() {
    let told = Told::default();
    let notes = Arc::clone(&told);
    let scripted = Scripted::start(2, move |connection, stream| {
        greet(stream);
        let position = if connection == 0 { Position::new(3, 10) } else { Position::NONE };
        assert_eq!(granted(stream), (Mode::CURSOR, position, "elastic".to_owned()));
        deliver(stream, 10 + connection as u64, &["message"]);
        if connection == 0 {
            // Told of, and then gone.
            while read_frame(stream).is_some_and(|frame| frame[4] != 0x85 || frame[13..29] == [0; 16]) {}
            stream.shutdown(Shutdown::Both).unwrap();
            return;
        }
        say(stream, &BrokerFrame::Gap { messages: 7, reason: GapReason::RETENTION, mailbox: "elastic", text: "a: 7" });
        listen(stream, &notes);
    });
    let mut tool = Running::start(&mut subscribe(&scripted, &["--from", "3:10"]));
    wait_for(&told, 11);
    tool.wait_for_stderr("the mailbox \"elastic\" has lost 7 messages (retention): \"a: 7\"");
    tool.wait_for_stderr_times("subscribed to events", 2);
    tool.signal("INT");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert!(tool.stderr().contains("the mailbox had lost 7 messages"), "{}", tool.stderr());
    scripted.done();
}

#[test]
fn a_mailbox_that_does_not_exist_is_4_and_says_what_to_do() {
    let scripted = Scripted::start(1, |_, stream| {
        greet(stream);
        read_frame(stream).unwrap();
        say(stream, &BrokerFrame::SubAck { code: Code::NO_MAILBOX, channel: "events", text: "sensor/elastic is none" });
        while read_frame(stream).is_some() {}
    });
    let mut tool = Running::start(&mut subscribe(&scripted, &[]));
    assert_eq!(tool.wait(), Some(4));
    assert!(tool.stderr().contains("has no mailbox \"elastic\" of this ident"), "{}", tool.stderr());
    assert!(tool.stderr().contains("--data-dir and --mailbox 'IDENT/NAME=CHANNELS'"), "{}", tool.stderr());
    // A broker that never heard of mailboxes.
    let scripted = Scripted::authenticated(1, |_, stream| while read_frame(stream).is_some() {});
    let mut tool = Running::start(&mut subscribe(&scripted, &[]));
    assert_eq!(tool.wait(), Some(4));
    assert!(tool.stderr().contains("does not know the extension hpx/1"), "{}", tool.stderr());
}

#[test]
fn a_beginning_that_makes_no_sense_is_2() {
    let scripted = Scripted::start(0, |_, _| {});
    for (args, words) in [
        (&["--mailbox", "a", "--from", "live"][..], "are for subscriptions without --mailbox"),
        (&["--from", "3:7"], "name it with --mailbox"),
        (&["--from", "yesterday"], "there are live, last-value"),
        (&["--mailbox", "other/a"], "belongs to the ident \"other\""),
    ] {
        let (code, stderr) = outcome(scripted.sensor("subscribe").args(args));
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}
