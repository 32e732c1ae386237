//! Peers that are no broker, or none that answers: a closed port, a black hole, other protocols, silence.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::{Found, doctor};
use crate::{
    skip::skip,
    support::{Running, Scripted, bare_tool, greet, read_frame, tool},
};

/// A server that does this with each connection, until the test ends.
pub(super) fn server(each: impl Fn(&mut TcpStream) + Send + Clone + 'static) -> u16 {
    serve(TcpListener::bind("127.0.0.1:0").unwrap(), each)
}

/// As [`server`], with a listener that is there.
pub(super) fn serve(listener: TcpListener, each: impl Fn(&mut TcpStream) + Send + Clone + 'static) -> u16 {
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, each) = (stream.unwrap(), each.clone());
            thread::spawn(move || each(&mut stream));
        }
    });
    port
}

/// Reads until the peer has gone.
pub(super) fn drain(stream: &mut TcpStream) {
    drop(std::io::copy(stream, &mut std::io::sink()));
}

const KEY: [&str; 4] = ["-i", "sensor", "-s", "secret"];

#[test]
fn a_closed_port_is_refused() {
    // Free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let found = doctor(port, &KEY);
    found.ends(1, "1 problem, 3 passed");
    found.says("FAIL", "TCP", &["127.0.0.1 refused", &format!("nothing listens on port {port}")]);
    found.says("FAIL", "TCP", &[&format!("on the broker: ss -ltn 'sport = :{port}'")]);
}

#[test]
fn a_black_hole_is_told_from_a_closed_port() {
    // A listener that accepts nothing, and whose queue is full: its system drops what comes then.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        if waiting.len() > 100 {
            return skip("this system queues more than a listener asks for");
        }
    }
    let found = doctor(address.port(), &["--timeout", "1"]);
    found.ends(1, "1 problem, 3 passed");
    found.says("FAIL", "TCP", &["127.0.0.1 no answer in 1 s packets get lost", "firewall"]);
}

#[test]
fn an_unknown_host_is_a_problem_of_dns() {
    let mut command = tool();
    let found = super::run(command.args(["doctor", "--host", "no-such-host.invalid"]));
    assert_eq!(found.code, Some(1));
    // Where the machine has no name server, that is what fails.
    let dns = found.check("DNS").unwrap();
    assert!(dns.starts_with("FAIL DNS ") && dns.contains("no-such-host.invalid"), "{dns}");
    assert!(dns.contains("check --host") || dns.contains("name server"), "{dns}");
    assert!(found.check("TCP").is_none());
}

#[test]
fn a_name_has_its_addresses_shown() {
    let port = server(drain);
    let mut command = tool();
    let found = super::run(command.args(["doctor", "--host", "localhost", "--timeout", "1", "-p", &port.to_string()]));
    found.says("ok", "DNS", &["A 127.0.0.1"]);
    found.says("ok", "TCP", &["127.0.0.1 "]);
}

#[test]
fn an_ssh_server_is_named() {
    let port = server(|stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").unwrap();
        drain(stream);
    });
    let found = doctor(port, &KEY);
    found.ends(1, "1 problem, 4 passed");
    found.says("FAIL", "protocol", &["SSH answers there, and not hpfeeds check --port"]);
    doctor(port, &["--tls"]).says("FAIL", "protocol", &["SSH answers there"]);
}

/// A web server that speaks only when it is spoken to.
fn web(stream: &mut TcpStream) {
    let mut request = [0; 512];
    if stream.read(&mut request).is_ok_and(|n| n > 0) {
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"));
    }
}

#[test]
fn a_web_server_is_named_although_it_waits() {
    let port = server(web);
    let found = doctor(port, &KEY);
    found.ends(1, "1 problem, 4 passed");
    found.says("FAIL", "protocol", &["HTTP answers there, and not hpfeeds", "web server"]);
    doctor(port, &["--tls"]).says("FAIL", "protocol", &["HTTP answers there"]);
}

#[test]
fn a_peer_that_says_nothing_is_silent_for_the_time_that_is_named() {
    let port = server(drain);
    for (args, words) in
        [(&[][..], "connected, and not a word in 1 s"), (&["--tls"], "connected, and no answer to TLS in 1 s")]
    {
        let found = doctor(port, &[&["--timeout", "1"], args].concat());
        // A machine without roots has no TLS to try.
        if found.text.contains("no root certificates") {
            continue;
        }
        found.ends(1, "1 problem, 4 passed");
        found.says("FAIL", "protocol", &[words]);
    }
}

#[test]
fn an_interrupt_ends_it_with_130() {
    let port = server(drain).to_string();
    let mut waiting =
        Running::start(bare_tool().args(["doctor", "--host", "127.0.0.1", "-p", &port, "--timeout", "60"]));
    waiting.wait_for_stdout(b"127.0.0.1:");
    waiting.signal("INT");
    assert_eq!(waiting.wait(), Some(130));
}

#[test]
fn a_peer_that_closes_at_once_has_no_greeting() {
    let port = server(|stream| drop(stream.shutdown(Shutdown::Both)));
    doctor(port, &[]).says("FAIL", "protocol", &["the broker closed the connection, without a greeting"]);
    let full = server(|stream| {
        stream.write_all(b"\0\0\0\x19\0Too many connections").unwrap();
        drain(stream);
    });
    doctor(full, &[]).says("FAIL", "protocol", &["turns connections away: \"Too many connections\""]);
}

fn greeting(port: u16, args: &[&str]) -> Found {
    doctor(port, &[&KEY[..], args].concat())
}

#[test]
fn a_broker_that_closes_after_auth_has_rejected_the_key() {
    let broker = Scripted::authenticated(1, |_, stream| stream.shutdown(Shutdown::Both).unwrap());
    let found = greeting(broker.port(), &[]);
    found.ends(3, "1 problem, 6 passed");
    found.says("FAIL", "AUTH", &["closed without a word: most likely the ident or the secret"]);
    broker.done();
}

#[test]
fn a_broker_that_does_not_answer_hello_is_stuck() {
    let port = server(|stream| {
        stream.write_all(b"\0\0\0\x13\x01\x09odd hpx/11234").unwrap();
        drain(stream);
    });
    let found = greeting(port, &["--timeout", "1"]);
    found.ends(1, "1 problem, 6 passed");
    found.says("FAIL", "AUTH", &["no answer in 1 s the broker is stuck, or its key store is"]);
}

#[test]
fn a_slow_line_passes_and_a_slow_greeting_is_a_warning() {
    let slow = |stream: &mut TcpStream, pause| {
        thread::sleep(Duration::from_millis(pause));
        // A byte at a time.
        for byte in *b"\0\0\0\x0d\x01\x03odd1234" {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(pause / 20));
        }
        drain(stream);
    };
    let found = greeting(server(move |stream| slow(stream, 200)), &[]);
    found.ends(0, "7 passed");
    // One that is asked by TLS meanwhile, and answers in its own way.
    let found = greeting(server(move |stream| slow(stream, 2100)), &["--strict"]);
    found.ends(1, "1 warning, 6 passed");
    found.says("warn", "INFO", &["the greeting took long"]);
}

#[test]
fn a_broker_that_closes_after_subscribe_has_denied_the_channel() {
    let port = server(|stream| {
        greet(stream);
        read_frame(stream);
    });
    let found = greeting(port, &["-c", "a", "--listen", "1"]);
    found.ends(4, "1 problem, 7 passed, 1 not checked");
    found.says("FAIL", "subscribe", &["a denied: \"the broker closed the connection without a word\""]);
    found.says("skip", "listen", &["no channel is subscribed to"]);
}

/// A broker of the old kind that denies `no` without naming it, and publishes on `a` as soon and as long as that is
/// subscribed to.
fn old(stream: &mut TcpStream) {
    greet(stream);
    let mut publishes = false;
    while let Some(frame) = read_frame(stream) {
        if frame.ends_with(b"no") {
            drop(stream.write_all(b"\0\0\0\x10\0accessfail."));
            return;
        }
        if frame.ends_with(b"a") && !publishes {
            publishes = true;
            let mut stream = stream.try_clone().unwrap();
            thread::spawn(move || {
                while stream.write_all(b"\0\0\0\x0b\x03\x02me\x01a!").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    }
}

#[test]
fn what_is_granted_beside_a_denial_is_listened_to() {
    let found = greeting(server(old), &["-c", "a", "-c", "no", "--listen", "1"]);
    found.ends(4, "1 problem, 9 passed");
    found.says("ok", "listen", &[" messages in 1 s | me on a "]);
}

#[test]
fn a_denial_without_a_name_is_found_channel_by_channel() {
    let found = greeting(server(old), &["-c", "a", "-c", "no", "-c", "b"]);
    found.ends(4, "1 problem, 8 passed");
    found.says("ok", "subscribe", &["a, b | no refusal in 500 ms"]);
    assert!(found.text.contains("no denied: \"accessfail.\""), "{}", found.text);
}
