//! A scripted broker: sends and reads what a test says, on real sockets.

use std::{
    io::{Read, Write as _},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use super::{SOON, tool};

/// INFO of a broker named `odd`, with the nonce `1234`.
const INFO: &[u8] = b"\x00\x00\x00\x0d\x01\x03odd1234";

/// A broker that does what a test says, to one connection after the other. They stay open until it
/// is dropped, unless the test shuts them down.
pub(crate) struct Scripted {
    port: u16,
    thread: JoinHandle<Vec<TcpStream>>,
}

impl Scripted {
    /// Each connection is given to `serve`, numbered from 0, before its first byte.
    pub(crate) fn start(connections: usize, serve: impl Fn(usize, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let served = (0..connections).map(|number| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                serve(number, &mut stream);
                stream
            });
            served.collect()
        });
        Self { port, thread }
    }

    /// As [`start`](Self::start), after INFO was sent and AUTH was read.
    pub(crate) fn authenticated(connections: usize, serve: impl Fn(usize, &mut TcpStream) + Send + 'static) -> Self {
        Self::start(connections, move |number, stream| {
            greet(stream);
            serve(number, stream);
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn sensor(&self, action: &str) -> assert_cmd::Command {
        let mut command = tool();
        command.args([action, "-p", &self.port.to_string(), "-i", "sensor", "-s", "secret", "-c", "events"]);
        command
    }

    /// Waits until all connections were served; a panic in there fails the test.
    pub(crate) fn done(self) {
        self.thread.join().unwrap();
    }
}

/// Sends INFO and reads AUTH.
pub(crate) fn greet(stream: &mut TcpStream) {
    stream.write_all(INFO).unwrap();
    assert_eq!(read_frame(stream).unwrap()[4], 2, "not AUTH");
}

/// A whole frame, or nothing when the peer has closed.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).ok()?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    frame.resize(length, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// ERROR.
pub(crate) fn error(text: &str) -> Vec<u8> {
    frame(0, text.as_bytes())
}

/// PUBLISH by `i` on `events`.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    frame(3, &[b"\x01i\x06events", payload].concat())
}

fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + body.len()).unwrap();
    [&length.to_be_bytes()[..], &[opcode], body].concat()
}
