//! Hostile peers: bytes that are no frames, texts that act on a terminal, floods, and connections that stall.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use hpfeeds::wire::extension::{BrokerFrame, Code};
use socket2::{Domain, Socket, Type};

use super::{
    doctor,
    peers::{drain, serve, server},
};
use crate::support::{SOON, greet, read_frame};

const KEY: [&str; 4] = ["-i", "sensor", "-s", "secret"];

/// INFO of a broker with the extension, named `odd`, and HELLO of it, which names its software.
fn extended(stream: &mut TcpStream, software: &[u8]) {
    stream.write_all(b"\0\0\0\x13\x01\x09odd hpx/11234").unwrap();
    assert_eq!(read_frame(stream).unwrap()[4], 2);
    assert_eq!(read_frame(stream).unwrap()[4], 0x80);
    let mut hello = vec![0, 0, 0, u8::try_from(5 + 30 + software.len()).unwrap(), 0x80, 1, 3, 0, 0];
    hello.extend([7; 16]);
    hello.extend([0; 8]);
    hello.push(0);
    hello.push(u8::try_from(software.len()).unwrap());
    hello.extend(software);
    stream.write_all(&hello).unwrap();
}

fn is_harmless(text: &str) {
    for char in text.chars() {
        assert!(char == '\n' || char.is_ascii_graphic() || char == ' ', "{char:?} in {text}");
    }
}

#[test]
fn five_bytes_of_anything_are_no_broker() {
    for bytes in [
        [0xff, 0xff, 0xff, 0xff, 1],
        [0xff, 0xff, 0xff, 0xff, 3],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 4, 0],
        [0, 0, 0, 5, 1],
        [0, 0, 0, 5, 9],
        [0, 0, 0, 5, 0x80],
        [0, 0, 1, 0, 1],
        [0, 0, 0, 5, 4],
        [0x1b, b'[', b'2', b'J', 0x9b],
        [0xe2, 0x80, 0xae, b'\r', b'\n'],
    ] {
        for closes in [true, false] {
            let port = server(move |stream| {
                drop(stream.write_all(&bytes));
                if !closes {
                    drain(stream);
                }
            });
            let found = doctor(port, &[&KEY[..], &["--timeout", "1"]].concat());
            found.ends(1, "1 problem, 4 passed");
            found.says("FAIL", "protocol", &[]);
            is_harmless(&found.text);
        }
    }
}

#[test]
fn texts_of_a_broker_do_not_act_on_a_terminal() {
    const TEXT: &[u8] = "\u{1b}]0;x\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{200b}\r\n\u{feff}|\u{a0}'`$(x)".as_bytes();
    let in_error = server(|stream| {
        greet(stream);
        let length = u8::try_from(5 + TEXT.len()).unwrap();
        stream.write_all(&[&[0, 0, 0, length, 0], TEXT].concat()).unwrap();
        drain(stream);
    });
    let in_name = server(|stream| {
        let length = u8::try_from(5 + 1 + TEXT.len() + 4).unwrap();
        let name = u8::try_from(TEXT.len()).unwrap();
        stream.write_all(&[&[0, 0, 0, length, 1, name], TEXT, b"1234"].concat()).unwrap();
        drain(stream);
    });
    let in_software = server(|stream| {
        extended(stream, TEXT);
        drain(stream);
    });
    for port in [in_error, in_name, in_software] {
        for form in [&[][..], &["--json"], &["--nagios"]] {
            let found = doctor(port, &[&KEY[..], form, &["--strict"]].concat());
            if form.is_empty() {
                is_harmless(&found.text);
                assert!(found.text.contains(r"\u{1b}]0;x\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}"), "{}", found.text);
            } else if form == ["--json"] {
                let text = found.json().to_string();
                assert!(!text.chars().any(|char| char.is_control() || char == '\u{202e}'), "{text}");
            } else {
                assert_eq!(found.text.matches('|').count(), 1, "{}", found.text);
                assert_eq!(found.text.lines().count(), 1, "{}", found.text);
            }
        }
    }
}

#[test]
fn names_of_publishers_do_not_act_on_a_terminal() {
    let port = server(|stream| {
        // This one says that it has subscribed, so that what comes then is listened to.
        extended(stream, b"odd");
        assert_eq!(read_frame(stream).unwrap()[4], 4);
        let mut answer = BytesMut::new();
        BrokerFrame::SubAck { code: Code::DONE, channel: "events", text: "" }.encode(&mut answer).unwrap();
        stream.write_all(&answer).unwrap();
        let names = "\u{1b}[2J\u{202e}".as_bytes();
        let length = u8::try_from(names.len()).unwrap();
        let body = [&[length], names, &[length], names, b"\x1b[3J"].concat();
        let frame = [&[0, 0, 0, u8::try_from(5 + body.len()).unwrap(), 3], &body[..]].concat();
        drop(stream.write_all(&frame));
        drain(stream);
    });
    let found = doctor(port, &[&KEY[..], &["-c", "events", "--listen", "0.8"]].concat());
    found.says("ok", "listen", &[r"1 message in 800 ms | \u{1b}[2J\u{202e} on \u{1b}[2J\u{202e} 1"]);
    is_harmless(&found.text);
}

#[test]
fn a_megabyte_of_error_is_cut() {
    let port = server(|stream| {
        greet(stream);
        let length = u32::try_from(5 + (1 << 20)).unwrap();
        drop(stream.write_all(&[&length.to_be_bytes()[..], &[0], &vec![b'x'; 1 << 20]].concat()));
        drain(stream);
    });
    let found = doctor(port, &KEY);
    found.says("FAIL", "AUTH", &["the broker says \"xxxx", "x...\""]);
    assert!(found.text.len() < 2000, "{}", found.text.len());
}

#[test]
fn a_flood_of_messages_ends_with_the_check() {
    let port = server(|stream| {
        drop(stream.write_all(b"\0\0\0\x13\x01\x09odd hpx/11234"));
        let flood = b"\0\0\0\x0d\x03\x01i\x01cabcd".repeat(10_000);
        while stream.write_all(&flood).is_ok() {}
    });
    let started = Instant::now();
    let found = doctor(port, &[&KEY[..], &["--timeout", "1"]].concat());
    found.says("FAIL", "AUTH", &["no answer in 1 s"]);
    assert!(started.elapsed() < SOON);
}

#[test]
fn an_answer_for_another_channel_is_no_answer() {
    let port = server(|stream| {
        extended(stream, b"odd/1");
        drop(stream.write_all(b"\0\0\0\x08\x83\0\x01x"));
        drain(stream);
    });
    let found = doctor(port, &[&KEY[..], &["-c", "a", "-c", "b"]].concat());
    found.ends(1, "2 problems, 8 passed");
    found.says("FAIL", "subscribe", &["a: the broker answers for another channel"]);
}

/// A broker of the old kind that gives each message back, up to so many bytes of all that it reads, and then reads
/// nothing more.
fn stalling(stream: &mut TcpStream, mut left: usize) {
    greet(stream);
    let mut header = [0; 5];
    while stream.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let mut body = vec![0; (length - 5).min(left)];
        stream.read_exact(&mut body).unwrap();
        left -= body.len();
        if body.len() < length - 5 {
            // Held open, and not read.
            thread::park_timeout(SOON);
            return;
        }
        if header[4] == 3 {
            stream.write_all(&[&header[..], &body].concat()).unwrap();
        }
    }
}

#[test]
fn a_broker_that_stops_reading_is_told_from_a_network_that_loses() {
    // A small window from the beginning on, so that its system does not take all of it.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(10).unwrap();
    let port = serve(socket.into(), |stream| stalling(stream, 32 * 1024));
    let found = doctor(port, &[&KEY[..], &["--echo", "test", "--timeout", "1"]].concat());
    assert_eq!(found.code, Some(1), "{}", found.text);
    assert!(found.text.contains("test | 1 KiB "), "{}", found.text);
    let text = found.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let stuck = "FAIL echo 64 KiB is stuck: the broker reads no more of it for 1 s";
    assert!(text.contains(stuck), "{}", found.text);
}

#[test]
fn an_echo_that_is_slow_and_goes_on_passes() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(10).unwrap();
    // 16 KiB a second.
    let port = serve(socket.into(), |stream| {
        greet(stream);
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            all.extend_from_slice(&chunk[..n]);
            thread::sleep(Duration::from_millis(250));
            while let Some(length) = all.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
                && length <= all.len()
            {
                let frame: Vec<_> = all.drain(..length).collect();
                if frame[4] == 3 {
                    stream.write_all(&frame).unwrap();
                }
            }
        }
    });
    let found = doctor(port, &[&KEY[..], &["--echo", "test", "--timeout", "3", "--max-message", "80000"]].concat());
    found.ends(0, "8 passed");
    let echo = found.check("echo").unwrap();
    // Each longer than the time that may pass without any progress.
    assert!(echo.contains(" s | largest (79988 B) ") && echo.ends_with(" s"), "{echo}");
}

#[test]
fn a_message_that_the_broker_keeps_is_told_from_one_that_is_stuck() {
    let port = server(|stream| {
        greet(stream);
        assert_eq!(read_frame(stream).unwrap()[4], 4);
        // Somebody else's, of the same length.
        let length = u32::try_from(5 + 1 + 6 + 1 + 4 + 1024).unwrap().to_be_bytes();
        drop(stream.write_all(&[&length[..], b"\x03\x06sensor\x04test", &[b'x'; 1024]].concat()));
        drain(stream);
    });
    let found = doctor(port, &[&KEY[..], &["--echo", "test", "--timeout", "1"]].concat());
    found.ends(1, "1 problem, 7 passed");
    found.says("FAIL", "echo", &["1 KiB was sent, and did not come back in 1 s"]);
}
