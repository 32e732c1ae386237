//! `hpfeeds demo`: events that have travelled through its broker, its dashboard, and its end.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{Running, SOON, bare_tool, fails, tool};

/// The words behind a name at the start of a line of stderr.
fn behind(stderr: &str, name: &str) -> String {
    let line = stderr.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name:?} in {stderr}")).trim().to_owned()
}

#[test]
fn prints_events_of_four_sensors_and_ends_after_count() {
    let mut demo = Running::start(bare_tool().args(["demo", "--rate", "200", "--count", "40"]));
    assert_eq!(demo.wait(), Some(0), "{}", demo.stderr());
    let text = String::from_utf8(demo.stdout()).unwrap();
    assert_eq!(text.lines().count(), 40, "{text}");
    let sensors: BTreeSet<_> =
        text.lines().filter_map(|line| line.split_once("] ")?.1.split_once(": ")).map(|(ident, _)| ident).collect();
    assert_eq!(
        sensors.into_iter().collect::<Vec<_>>(),
        ["conpot-turin", "cowrie-berlin", "cowrie-oslo", "dionaea-lima"]
    );
}

#[test]
fn another_program_can_subscribe_and_the_dashboard_answers() {
    let mut demo = Running::start(bare_tool().args(["demo", "--rate", "100"]));
    demo.wait_for_stderr("Ctrl-C ends all of it.");
    let stderr = demo.stderr();
    let command = behind(&stderr, "subscribe");
    let words: Vec<_> = command.split(' ').skip(1).map(|word| word.trim_matches('\'')).collect();
    let mut subscriber = Running::start(bare_tool().args(words).args(["--count", "3"]));
    assert_eq!(subscriber.wait(), Some(0), "{}", subscriber.stderr());
    let command = behind(&stderr, "watch");
    let words = command.split(' ').skip(1).map(|word| word.trim_matches('\''));
    let watched = tool().args(words).arg("--once").output().unwrap();
    let text = String::from_utf8(watched.stdout).unwrap();
    assert!(watched.status.success() && text.contains("cowrie-oslo"), "{text}");

    let url = behind(&stderr, "dashboard");
    let (addr, token) = url.strip_prefix("http://").and_then(|url| url.split_once("/#token=")).unwrap();
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let request = format!(
        "GET /api/v1/snapshot HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"ident\":\"cowrie-berlin\""), "{answer}");

    demo.signal("INT");
    assert_eq!(demo.wait(), Some(0), "{}", demo.stderr());
}

#[test]
fn refuses_a_rate_out_of_bounds_and_a_dashboard_for_the_network() {
    fails(tool().args(["demo", "--rate", "0"]), 2, "not between 0.01 and 1000 events a second");
    fails(tool().args(["demo", "--dashboard", "0.0.0.0:0"]), 1, "not on the loopback interface");
}
