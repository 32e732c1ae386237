//! `hpfeeds-broker health`: a health check of the broker on this machine, for Docker and the like.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use clap::Args;
use hpfeeds::{
    visible::acts_on_a_terminal,
    wire::{FrameRef, Header, Limits, Opcode},
};

use super::{mailbox::print, values::parse_seconds};

/// The most bytes of an answer that are read: more than the longest greeting.
const LONGEST: usize = 2048;

/// Ask whether the broker on this machine serves, for health checks
///
/// Connects to its port, and waits for the greeting. With --exporter, asks that for /readyz instead,
/// which also says when the broker stops, and when its journal has failed. Exit code 0 if it serves, 1
/// if it does not; either is said on one line.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct HealthCommand {
    /// The address of an endpoint without TLS
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:20000")]
    endpoint: String,

    /// The address of the exporter, which is asked instead
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "endpoint")]
    exporter: Option<String>,

    /// The longest wait
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    timeout: Duration,
}

/// A question: how the peer answers, behind its address, or what is wrong with it.
type Ask = fn(&mut Peer) -> Result<String, String>;

impl HealthCommand {
    pub(crate) fn run(&self) -> Result<(), String> {
        let deadline = Instant::now().checked_add(self.timeout);
        let (address, ask): (_, Ask) = match &self.exporter {
            Some(exporter) => (exporter, readiness),
            None => (&self.endpoint, greeting),
        };
        let said = Peer::connect(address, deadline).and_then(|mut peer| ask(&mut peer));
        match said {
            Ok(said) => print(&format!("healthy: {address} {said}\n")),
            Err(fault) => Err(format!("not healthy: {address} {fault}")),
        }
    }
}

/// The greeting of an endpoint: the INFO frame.
fn greeting(peer: &mut Peer) -> Result<String, String> {
    loop {
        let header = Header::parse(&peer.received, Limits::default()).map_err(|_| "does not speak hpfeeds")?;
        if let Some(header) = header {
            if !matches!(header.opcode, Opcode::Info | Opcode::Error) || header.length > LONGEST {
                return Err("does not speak hpfeeds".to_owned());
            }
            if let Some(body) = header.body(&peer.received) {
                return match FrameRef::parse(header.opcode, body) {
                    Ok(FrameRef::Info { name, .. }) => Ok(format!("greets as {:?}", plain(name.as_bytes()))),
                    Ok(FrameRef::Error { message }) => Err(format!("refuses: {}", plain(message))),
                    _ => Err("does not speak hpfeeds".to_owned()),
                };
            }
        }
        match peer.read() {
            Ok(0) => return Err("ends the connection without a greeting".to_owned()),
            Ok(_) => {}
            Err(cause) if is_over(&cause) => {
                return Err("does not greet: if it waits for TLS or a PROXY header, ask the exporter with --exporter \
                            ADDR:PORT"
                    .to_owned());
            }
            Err(cause) => return Err(format!("breaks the connection: {cause}")),
        }
    }
}

/// The answer of an exporter to `/readyz`.
fn readiness(peer: &mut Peer) -> Result<String, String> {
    peer.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(|cause| format!("breaks the connection: {cause}"))?;
    while peer.received.len() < LONGEST {
        match peer.read() {
            Ok(0) => break,
            Ok(_) => {}
            Err(cause) if is_over(&cause) => return Err("does not answer".to_owned()),
            Err(cause) => return Err(format!("breaks the connection: {cause}")),
        }
    }
    let answer = String::from_utf8_lossy(&peer.received);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let said = plain(body.lines().next().unwrap_or_default().as_bytes());
    match status {
        Some("200") if body == "ready\n" => Ok("is ready".to_owned()),
        Some("503") => Err(format!("is not ready: {said}")),
        _ => Err("is no exporter of a broker: it does not answer /readyz".to_owned()),
    }
}

/// A connection whose waits together have one deadline.
struct Peer {
    stream: TcpStream,
    deadline: Option<Instant>,
    received: Vec<u8>,
}

impl Peer {
    fn connect(address: &str, deadline: Option<Instant>) -> Result<Self, String> {
        let found: Vec<SocketAddr> =
            address.to_socket_addrs().map_err(|cause| format!("is no address: {cause}"))?.collect();
        let mut fault = "is no address".to_owned();
        // `localhost` is two of them.
        for addr in found {
            let connected = match left(deadline) {
                Ok(None) => TcpStream::connect(addr),
                Ok(Some(left)) => TcpStream::connect_timeout(&addr, left),
                Err(over) => Err(over),
            };
            match connected {
                Ok(stream) => return Ok(Self { stream, deadline, received: Vec::new() }),
                Err(cause) if is_over(&cause) => fault = String::from("does not answer"),
                Err(cause) => fault = format!("takes no connection: {cause}"),
            }
        }
        Err(fault)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(left(self.deadline)?)?;
        self.stream.write_all(bytes)
    }

    /// How many bytes have come; 0 at the end of the stream.
    fn read(&mut self) -> io::Result<usize> {
        self.stream.set_read_timeout(left(self.deadline)?)?;
        let mut bytes = [0; LONGEST];
        let count = self.stream.read(&mut bytes)?;
        self.received.extend(&bytes[..count]);
        Ok(count)
    }
}

/// The time that is left; an error when there is none. A time beyond the clock is none that ends.
fn left(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left == Some(Duration::ZERO) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_over(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Text of a peer on one line of a terminal.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|char| if acts_on_a_terminal(char) { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// The answer about a peer that takes one connection, writes these bytes, and ends it or waits.
    fn said_of(
        answer: &'static [u8],
        ends: bool,
        ask: fn(&mut Peer) -> Result<String, String>,
    ) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            if ends {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // Until the other end is gone.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let patience = if ends { 30_000 } else { 100 };
        let deadline = Instant::now().checked_add(Duration::from_millis(patience));
        let said = ask(&mut Peer::connect(&address, deadline).unwrap());
        peer.join().unwrap();
        said
    }

    #[test]
    fn greeting_is_told_from_everything_else() {
        let strange = Err("does not speak hpfeeds".to_owned());
        let cases: [(&[u8], Result<String, String>); 7] = [
            (b"\0\0\0\x0c\x01\x02hp1234", Ok(r#"greets as "hp""#.to_owned())),
            (b"\0\0\0\x0c\x01\x02\x1bp1234", Ok("greets as \"\u{fffd}p\"".to_owned())),
            (b"\0\0\0\x0a\0full\n", Err("refuses: full\u{fffd}".to_owned())),
            (b"\0\0\0\x0c\x03\x02hp1234", strange.clone()),
            (b"HTTP/1.1 200 OK\r\n\r\n", strange.clone()),
            (b"\0\0\x40\0\x01\x02hp", strange),
            (b"\0\0\0\x0c\x01", Err("ends the connection without a greeting".to_owned())),
        ];
        for (bytes, expected) in cases {
            assert_eq!(said_of(bytes, true, greeting), expected, "{}", bytes.escape_ascii());
        }
        let silent = said_of(b"\0\0\0", false, greeting).unwrap_err();
        assert!(silent.starts_with("does not greet: if it waits for TLS"), "{silent}");
    }

    #[test]
    fn exporter_is_ready_or_says_why_not() {
        let strange = Err("is no exporter of a broker: it does not answer /readyz".to_owned());
        let cases: [(&[u8], Result<String, String>); 5] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n", Ok("is ready".to_owned())),
            (
                b"HTTP/1.1 503 Service Unavailable\r\n\r\nstop\x1bping\n",
                Err("is not ready: stop\u{fffd}ping".to_owned()),
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", strange.clone()),
            (b"\0\0\0\x0c\x01\x02hp1234", strange.clone()),
            (b"", strange),
        ];
        for (bytes, expected) in cases {
            assert_eq!(said_of(bytes, true, readiness), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(said_of(b"HTTP/1.1 200 OK\r\n", false, readiness), Err("does not answer".to_owned()));
    }
}
