//! The secret is in nothing that the tool prints.

use crate::support::{SECRET, TestBroker, tool};

#[test]
fn no_output_holds_the_secret() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    let wrong = format!("{SECRET}-wrong");
    let endings: [&[&str]; 6] = [
        &["publish", "-c", "events", "x"],
        &["publish", "-c", "forbidden", "x"],
        &["publish", "-c", "events", "-p", "1", "x"],
        &["subscribe", "-c", "events", "--timeout", "0.4"],
        &["subscribe", "-c", "events", "--no-such-option"],
        &["publish", "x"],
    ];
    for ending in endings {
        for secret in [SECRET, &wrong] {
            for on_command_line in [true, false] {
                let mut command = tool();
                command.args(["--debug", "-p", &port, "-i", "sensor"]).env("RUST_LOG", "trace");
                if on_command_line {
                    command.args(["-s", secret])
                } else {
                    command.env("HPFEEDS_SECRET", secret)
                };
                let output = command.args(ending).output().unwrap();
                let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                assert!(!text.contains("hunter2"), "{text}");
            }
        }
    }
}

#[test]
fn debug_tells_what_happens() {
    let broker = TestBroker::start();
    let output = broker.sensor("publish").args(["--debug", "-c", "events", "x"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("connecting") && stderr.contains("connected"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "{stderr}");
    let refused = broker.sensor("publish").args(["--debug", "-c", "events", "-s", "wrong", "x"]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("disconnected") && !stderr.contains("retry_in"), "it does not try again: {stderr}");
    let quiet = broker.sensor("publish").args(["-c", "events", "x"]).output().unwrap();
    assert_eq!(quiet.stderr, b"");
}
