//! `hpfeeds sendfile`: files of all sizes, pipes, and failures.

use std::{fs, io::Read as _, process::Command, thread::sleep, time::Duration};

use crate::{
    skip::skip,
    support::{Running, Scripted, TestBroker, largest, outcome},
};

#[test]
fn each_file_is_a_message() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["files", "events"]);
    let dir = tempfile::tempdir().unwrap();
    let [a, empty, spaced] = ["a", "empty", "with space\n"].map(|name| dir.path().join(name));
    fs::write(&a, b"\0\xff\n").unwrap();
    fs::write(&empty, b"").unwrap();
    fs::write(&spaced, b"spaced").unwrap();
    let mut sendfile = broker.sensor("sendfile");
    // No bar and no other word, since stderr is no terminal.
    sendfile.args(["-c", "files"]).args([&a, &empty]).assert().success().stdout("").stderr("");
    assert_eq!(peer.payloads(), [&b"\0\xff\n"[..], b""]);
    broker.sensor("sendfile").args(["-c", "files", "-c", "events"]).arg(&spaced).assert().success();
    assert_eq!(peer.payloads(), ["spaced", "spaced"]);
}

#[test]
fn a_file_may_be_as_long_as_the_maximum_and_no_longer() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["files"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let most: Vec<u8> = (0..largest("files")).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fs::write(&path, &most).unwrap();
    broker.sensor("sendfile").args(["-c", "files"]).arg(&path).assert().success();
    assert!(peer.payloads() == [most.as_slice()]);

    fs::write(&path, [&most[..], b"x"].concat()).unwrap();
    let small = dir.path().join("small");
    fs::write(&small, "small").unwrap();
    let (code, stderr) = outcome(broker.sensor("sendfile").args(["-c", "files"]).args([&small, &path]));
    assert_eq!(code, Some(1));
    let expected = format!("{} bytes long: at most {} fit", most.len() + 1, most.len());
    assert!(stderr.contains(&expected) && stderr.contains(path.to_str().unwrap()), "{stderr}");
    assert!(peer.all().is_empty(), "a file before the one that is too long was sent");
}

#[test]
fn a_huge_file_is_refused_without_reading_it() {
    let broker = TestBroker::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    // Sparse: 1 TB that reading would take minutes for.
    if let Err(cause) = file.as_file().set_len(1 << 40) {
        return skip(&format!("this file system has no large files: {cause}"));
    }
    broker.sensor("sendfile").args(["-c", "files"]).arg(file.path()).assert().code(1);
}

#[test]
fn unreadable_files_are_named() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["files"]);
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    fs::write(&good, "good").unwrap();
    for (bad, word) in [(dir.path().join("no such file"), "No such file"), (dir.path().into(), "is a directory")] {
        let (code, stderr) = outcome(broker.sensor("sendfile").args(["-c", "files"]).args([&good, &bad]));
        assert_eq!(code, Some(1));
        assert!(stderr.contains(word) && stderr.contains(bad.to_str().unwrap()), "{stderr}");
    }
    assert!(peer.all().is_empty());
}

#[test]
fn rejected_is_3_and_denied_is_4() {
    let broker = TestBroker::start();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (code, _) = outcome(broker.sensor("sendfile").args(["-c", "files", "-s", "wrong", file]));
    assert_eq!(code, Some(3));
    let (code, stderr) = outcome(broker.sensor("sendfile").args(["-c", "forbidden", file]));
    assert_eq!(code, Some(4));
    assert!(stderr.contains(r#"publish to "forbidden""#), "{stderr}");
}

#[test]
fn a_pipe_can_be_sent() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["files"]);
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (length, code) in [(1000, 0), (1 << 20, 1)] {
        let mut command = crate::support::bare_tool();
        command.args(["sendfile", "-c", "files", "-i", "dev", "-s", "dev", "-p", &broker.port().to_string()]);
        let mut tool = Running::start(command.arg(&fifo));
        // The tool closes a pipe from which too much comes.
        drop(fs::write(&fifo, vec![b'x'; length]));
        assert_eq!(tool.wait(), Some(code), "{}", tool.stderr());
    }
    assert_eq!(peer.payloads().iter().map(bytes::Bytes::len).collect::<Vec<_>>(), [1000]);
}

/// Neither the room in the queue, which comes back with the last byte of a file, nor the
/// confirmation at the end comes within the deadline: that is one of silence.
#[test]
fn a_broker_that_reads_slowly_gets_everything() {
    let slow = Scripted::authenticated(1, |_, stream| {
        socket2::SockRef::from(&*stream).set_recv_buffer_size(64 * 1024).unwrap();
        let mut bytes = vec![0; 20_000];
        let mut read = 0;
        loop {
            match stream.read(&mut bytes).unwrap() {
                0 => break,
                n => read += n,
            }
            sleep(Duration::from_millis(80));
        }
        assert!(read > 2_000_000, "{read}");
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, vec![7; 1_000_000]).unwrap();
    let mut sendfile = slow.sensor("sendfile");
    let (code, stderr) = outcome(sendfile.args(["--timeout", "3"]).args([&path, &path]));
    assert_eq!(code, Some(0), "{stderr}");
    slow.done();
}
