//! Faults of a dashboard: each of them says what to do, in bounded time and memory.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{Dashboard, SNAPSHOT, fails, private_file, top, top_of};
use crate::support::TestBroker;

/// Answers a request, and says whether the connection goes on.
type Answer = fn(&mut TcpStream) -> bool;

#[test]
fn a_command_line_that_makes_no_sense_says_so() {
    let without_token = |args: &[&str]| {
        let mut command = top(args);
        command.env_remove("HPFEEDS_TOP_TOKEN");
        command
    };
    fails(&mut without_token(&[]), 2, "no token: give --token-file FILE");
    fails(&mut without_token(&["--token-file", "/nonexistent"]), 2, "the token file /nonexistent: No such file");
    fails(&mut top(&["--url", "hpfeeds://a:0123456789abcdefthetoken@b"]), 2, "that is the address for messages");
    fails(&mut top(&["--url", "http://127.0.0.1:1", "--tls"]), 2, "give one with https://");
    let folder = tempfile::tempdir().unwrap();
    let file = private_file(&folder, "secret");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fails(&mut without_token(&["--token-file", file.to_str().unwrap()]), 2, "others on this machine can read it");
    for (args, text) in [
        (&["--host", "broker.example"][..], "--host, --port and --profile are for a broker's messages"),
        (&["--once", "--show", "tail"], "--show tail goes on for ever"),
        (&["--once", "--json"], "cannot be used with"),
        (&["--state", "GONE"], "not states such as gone,silent"),
        (&["--limit", "0"], "0 is not in 1..=10000"),
        (&["--interval", "0"], "no time at all"),
    ] {
        let output = top(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
}

#[test]
fn each_wrong_answer_says_what_to_do() {
    for (status, text, code) in [
        ("401 Unauthorized", "does not take this token: give the one that the broker made", 3),
        ("400 Bad Request", "does not know what is asked for: sort: state or ident\\n\\u{1b}[2J", 1),
        ("403 Forbidden", "the one behind `tail` in the token file", 1),
        ("404 Not Found", "it is started with --dashboard ADDR", 1),
        ("421 Misdirected Request", "does not go by the name 127.0.0.1", 1),
        ("500 Internal Server Error", "no dashboard, or a proxy before it failed (500", 1),
        ("503 Service Unavailable", "has no time or is ending (503)", 1),
        ("302 Found", "says to ask elsewhere (302 Found): check --url", 1),
    ] {
        let dashboard = Dashboard::of(status, "text/plain", "sort: state or ident\n\u{1b}[2J");
        fails(&mut top_of(&dashboard, &[]), code, text);
    }
    for (kind, body) in [("text/html", SNAPSHOT), ("", SNAPSHOT), ("application/json", "{}"), ("application/json", "[")]
    {
        let dashboard = Dashboard::of("200 OK", kind, body);
        fails(&mut top_of(&dashboard, &[]), 1, "is no dashboard");
    }
    let dashboard = Dashboard::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 301 Moved\r\nLocation: https://b.example/\x1b[2J\r\n\r\n").is_ok()
    });
    fails(&mut top_of(&dashboard, &[]), 1, "");
}

#[test]
fn what_is_no_dashboard_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails(&mut top(&["--url", &format!("http://{closed}")]), 1, "connection refused: does the broker run");
    let broker = TestBroker::start();
    let port = broker.port();
    fails(&mut top(&["--url", &format!("http://127.0.0.1:{port}")]), 1, "a broker's port for messages answers");
    fails(&mut top(&["--url", &format!("https://127.0.0.1:{port}")]), 1, "give that of its dashboard");
    let dashboard = Dashboard::of("200 OK", "application/json", SNAPSHOT);
    let https = format!("https://127.0.0.1:{}", dashboard.port());
    fails(&mut top(&["--url", &https]), 1, "HTTP without TLS answers");
    fails(&mut top(&["--url", "http://host.invalid:1"]), 1, "cannot connect to host.invalid:1");
}

#[test]
fn an_endless_answer_is_given_up() {
    let endless: [(&str, Answer); 4] = [
        ("longer than 1 MiB", |stream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\":[";
            let mut written = stream.write_all(head.as_bytes());
            while written.is_ok() {
                written = stream.write_all(&b"0,".repeat(8192));
            }
            false
        }),
        ("longer than 1 MiB", |stream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n";
            let mut written = stream.write_all(head.as_bytes());
            while written.is_ok() {
                written = stream.write_all(&[b' '; 8192]);
            }
            false
        }),
        ("is no HTTP", |stream| {
            let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while written.is_ok() {
                written = stream.write_all(&[b'a'; 8192]);
            }
            false
        }),
        ("no dashboard, or a proxy", |stream| {
            let mut written = stream.write_all(b"HTTP/1.1 500 No\r\n\r\n");
            while written.is_ok() {
                written = stream.write_all(&[b'a'; 8192]);
            }
            false
        }),
    ];
    for (text, answer) in endless {
        let dashboard = Dashboard::start(move |_, stream| answer(stream));
        fails(&mut top_of(&dashboard, &["--limit", "1"]), 1, text);
    }
}

#[test]
fn a_server_that_is_slow_is_not_waited_for() {
    let slow: [Answer; 3] = [
        // Nothing.
        |stream| {
            drop(std::io::copy(stream, &mut std::io::sink()));
            false
        },
        // A head, and a byte now and then.
        |stream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
            let mut written = stream.write_all(head.as_bytes());
            while written.is_ok() {
                written = stream.write_all(b" ");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            false
        },
        // An error whose text does not come.
        |stream| {
            drop(stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n"));
            drop(std::io::copy(stream, &mut std::io::sink()));
            false
        },
    ];
    for (answer, text) in slow.into_iter().zip(["within 500 ms", "within 500 ms", "(500"]) {
        let dashboard = Dashboard::start(move |_, stream| answer(stream));
        let start = Instant::now();
        fails(&mut top_of(&dashboard, &["--timeout", "0.5"]), 1, text);
        assert!(start.elapsed() < crate::support::SOON / 2);
    }
}

#[test]
fn huge_and_deep_json_is_read_or_refused_in_bounded_memory() {
    for body in [
        format!(r#"{{"at":1,"started":1,"x":{}"#, "[".repeat(1 << 19)),
        format!(r#"{{"at":1,"started":1,"sensors":{{"rows":[{}{{}}]}}}}x"#, "{},".repeat(1 << 18)),
    ] {
        let dashboard = Dashboard::of("200 OK", "application/json", body);
        fails(&mut top_of(&dashboard, &["--once"]), 1, "is no dashboard that is known here");
    }
}
