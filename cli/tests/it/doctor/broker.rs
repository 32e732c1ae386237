//! Brokers with and without the extension: the key, channels, the echo, listening, and the forms of the report.

use std::thread;

use hpfeeds_broker::{Broker, Key};
use serde_json::json;
use tokio::runtime::Runtime;

use super::{Found, doctor, run};
use crate::support::{SECRET, TestBroker, bare_tool, tool};

/// A broker with or without the extension, and its port. `sensor` may publish to `events` and subscribe to nothing;
/// `dev` may do everything.
struct Peer {
    port: u16,
    _broker: Broker,
    _runtime: Runtime,
}

fn broker(extensions: bool, max_message: u32) -> Peer {
    let runtime = Runtime::new().unwrap();
    let key = Key::new("sensor", SECRET).unwrap().publish(["events"]).unwrap();
    let builder = Broker::dev_builder().extensions(extensions).max_message(max_message).user(key);
    let broker = runtime.block_on(builder.listen("127.0.0.1:0").unwrap().start()).unwrap();
    Peer { port: broker.local_addr().port(), _broker: broker, _runtime: runtime }
}

fn as_dev(peer: &Peer, args: &[&str]) -> Found {
    doctor(peer.port, &[&["-i", "dev", "-s", "dev"], args].concat())
}

#[test]
fn a_good_broker_passes_every_check() {
    let peer = broker(true, 1 << 20);
    let found = as_dev(&peer, &["-c", "a", "-c", "b", "--echo", "test"]);
    found.ends(0, "10 passed");
    for (check, parts) in [
        ("settings", &["host, port, ident, secret from the command line"][..]),
        ("clock", &[" UTC"]),
        ("DNS", &["not needed"]),
        ("TCP", &["127.0.0.1 "]),
        ("protocol", &["hpfeeds, without TLS"]),
        ("INFO", &["\"hpfeeds\" in ", "nonce of 4 bytes", "extension hpx/1"]),
        ("AUTH", &["accepted in ", "confirms as routed", "at most 1 MiB each"]),
        ("version", &[concat!("hpfeeds-broker/", env!("CARGO_PKG_VERSION"))]),
        ("subscribe", &["a, b | confirmed in "]),
        ("echo", &["test | 1 KiB ", " | 64 KiB ", " | largest (1048567 B) "]),
    ] {
        found.says("ok", check, parts);
    }
}

#[test]
fn a_broker_without_the_extension_is_judged_by_its_silence() {
    let peer = broker(false, 1 << 20);
    let found = as_dev(&peer, &["-c", "a", "--echo", "test"]);
    found.ends(0, "9 passed");
    found.says("ok", "INFO", &["no extension"]);
    found.says("ok", "AUTH", &["no refusal in 500 ms: brokers without the extension say no more"]);
    found.says("ok", "subscribe", &["a | no refusal in 500 ms"]);
    found.says("ok", "echo", &["1 KiB ", "64 KiB ", "largest "]);
}

#[test]
fn without_a_key_everything_before_it_is_checked() {
    let peer = broker(true, 1 << 20);
    let found = doctor(peer.port, &[]);
    found.ends(0, "6 passed, 1 not checked");
    found.says("skip", "AUTH", &["no ident and secret are given"]);
    doctor(peer.port, &["-i", "dev", "--strict"]).ends(1, "1 warning, 5 passed, 1 not checked");
    // The key is needed for these.
    let missing = |args: &[&str]| tool().arg("doctor").args(args).assert().code(2).get_output().stderr.clone();
    assert!(String::from_utf8(missing(&["-c", "a"])).unwrap().contains("no ident"));
    assert!(String::from_utf8(missing(&["--echo", "a", "-i", "x"])).unwrap().contains("no secret"));
    let listen = missing(&["--listen", "1", "-i", "x", "-s", "y"]);
    assert!(String::from_utf8(listen).unwrap().contains("--listen SECONDS needs a channel"));
}

#[test]
fn a_wrong_secret_is_3_and_says_what_to_look_at() {
    for extensions in [true, false] {
        let peer = broker(extensions, 1 << 20);
        let found = doctor(peer.port, &["-i", "sensor", "-s", "wrong", "-c", "a", "--echo", "b", "--listen", "1"]);
        found.ends(3, "1 problem, 6 passed, 3 not checked");
        let rejected = "rejected: \"Authentication failed for sensor\" on the broker: hpfeeds-broker keys show sensor";
        found.says("FAIL", "AUTH", &[rejected]);
        for skipped in ["subscribe", "echo", "listen"] {
            found.says("skip", skipped, &["AUTH failed"]);
        }
    }
}

#[test]
fn a_line_break_at_the_end_of_the_secret_is_named() {
    let peer = broker(true, 1 << 20);
    let mut command = tool();
    command.args(["doctor", "--host", "127.0.0.1", "-p", &peer.port.to_string(), "-i", "sensor"]);
    let found = run(command.env("HPFEEDS_SECRET", format!("{SECRET}\r\n")));
    found.ends(3, "1 problem, 1 warning, 5 passed");
    found.says("warn", "settings", &["the secret ends in a line break set HPFEEDS_SECRET without it"]);
    found.says("FAIL", "AUTH", &["the secret ends in a line break: is that meant?"]);
    assert!(!found.text.contains("hunter2"), "{}", found.text);
}

#[test]
fn a_variable_that_is_not_used_is_named() {
    let peer = broker(true, 1 << 20);
    let mut command = tool();
    command.args(["doctor", "-p", &peer.port.to_string(), "-i", "sensor", "-s", SECRET]);
    let found = run(command.env("HPFEEDS_SECRET", "hunter2-other").env("HPFEEDS_IDENT", "sensor"));
    found.says("warn", "settings", &["--secret is used, and HPFEEDS_SECRET says something else unset HPFEEDS_SECRET"]);
    assert!(found.code == Some(0) && !found.text.contains("hunter2"), "{}", found.text);
}

#[test]
fn a_denied_channel_is_4_and_the_others_are_checked() {
    for extensions in [true, false] {
        let peer = broker(extensions, 1 << 20);
        let denied = doctor(peer.port, &["-i", "sensor", "-s", SECRET, "-c", "a", "-c", "b"]);
        let passed = if extensions { 8 } else { 7 };
        denied.ends(4, &format!("2 problems, {passed} passed"));
        denied.says("FAIL", "subscribe", &["a denied: ", "hpfeeds-broker keys set sensor --add-subscribe a"]);
        assert!(denied.text.contains("--add-subscribe b"), "{}", denied.text);
    }
    // One of several.
    let broker = TestBroker::start();
    let found = doctor(broker.port(), &["-i", "collector", "-s", SECRET, "-c", "events", "-c", "no", "-c", "files"]);
    found.says("ok", "subscribe", &["events, files"]);
    assert_eq!(found.code, Some(4), "{}", found.text);
    assert!(found.text.contains("no denied:"), "{}", found.text);
}

#[test]
fn a_key_that_only_publishes_is_confirmed_and_not_echoed() {
    let peer = broker(true, 1 << 20);
    let found = doctor(peer.port, &["-i", "sensor", "-s", SECRET, "--echo", "events"]);
    found.ends(0, "9 passed");
    found.says("ok", "echo", &["events | confirmed, as this key may not subscribe there: 1 KiB ", "largest ("]);
    let denied = doctor(peer.port, &["-i", "sensor", "-s", SECRET, "--echo", "other"]);
    denied.ends(4, "1 problem, 8 passed");
    denied.says("FAIL", "echo", &["publishing to other denied: ", "keys set sensor --add-publish other"]);
}

#[test]
fn a_broker_with_a_lower_limit_is_a_warning_and_the_echo_keeps_it() {
    let peer = broker(true, 100_000);
    let found = as_dev(&peer, &["--echo", "test"]);
    found.ends(0, "1 warning, 9 passed");
    assert!(found.text.contains("--max-message is 1 MiB, and the broker takes 100000 B"), "{}", found.text);
    found.says("ok", "echo", &["64 KiB ", "largest (99991 B)"]);
    as_dev(&peer, &["--max-message", "100000", "--strict"]).ends(0, "8 passed");
}

#[test]
fn listening_counts_publishers_and_silence_is_a_warning() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    let mut command = bare_tool();
    command.args(["doctor", "-p", &port, "-i", "dev", "-s", "dev", "-c", "events", "--listen", "2"]);
    let listening = thread::spawn(move || command.output().unwrap());
    // Published until the listener ends: it has no way to say when it listens.
    while !listening.is_finished() {
        broker.publish(["x"]);
        broker.publish_as("dev", "events", ["y"]);
    }
    let output = listening.join().unwrap();
    let found = Found { code: output.status.code(), text: String::from_utf8(output.stdout).unwrap() };
    found.says("ok", "listen", &[" messages in 2 s", "sensor on events ", "dev on events "]);
    let silent = doctor(broker.port(), &["-i", "dev", "-s", "dev", "-c", "events", "--listen", "0.2"]);
    silent.ends(0, "1 warning, 9 passed");
    silent.says("warn", "listen", &["nothing arrived in 200 ms see whether sensors publish"]);
}

#[test]
fn the_short_form_has_only_what_is_wrong() {
    let peer = broker(true, 1 << 20);
    let found = as_dev(&peer, &["--short"]);
    assert_eq!(found.text.lines().count(), 2, "{}", found.text);
    found.ends(0, "8 passed");
    let found = doctor(peer.port, &["--short", "-i", "sensor", "-s", "wrong", "-c", "a"]);
    let lines: Vec<_> = found.text.lines().map(str::trim_start).collect();
    assert_eq!(lines[0], format!("127.0.0.1:{} as sensor", peer.port));
    assert!(lines[1].starts_with("FAIL AUTH "), "{lines:?}");
    assert_eq!(lines.len(), 5, "{lines:?}");
}

#[test]
fn json_is_one_object_with_the_figures() {
    let peer = broker(true, 1 << 20);
    let found = as_dev(&peer, &["--json", "-c", "a", "--echo", "test"]).json();
    assert_eq!(
        [&found["exit_code"], &found["problems"], &found["passed"], &found["tls"], &found["ident"]],
        [&json!(0), &json!(0), &json!(10), &json!(false), &json!("dev")]
    );
    let check = |name: &str| found["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap();
    assert_eq!(check("INFO")["details"]["nonce_bytes"], 4);
    assert_eq!(check("subscribe")["details"]["channels"], json!(["a"]));
    assert_eq!(check("TCP")["details"]["addresses"][0]["result"], "connected");
    let messages = check("echo")["details"]["messages"].as_array().unwrap();
    assert_eq!(
        messages.iter().map(|message| message["bytes"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1024, 65_536, 1_048_567]
    );
    let wrong = doctor(peer.port, &["--json", "-i", "sensor", "-s", "wrong"]).json();
    assert_eq!((&wrong["exit_code"], &wrong["problems"]), (&json!(3), &json!(1)));
}

#[test]
fn the_nagios_form_is_one_line_with_its_codes() {
    let peer = broker(true, 1 << 20);
    for (args, code, begins) in [
        (&["-i", "dev", "-s", "dev", "--echo", "test"][..], 0, "HPFEEDS OK - 127.0.0.1:"),
        (&["-i", "dev"], 1, "HPFEEDS WARNING - settings: an ident is given and no secret | time="),
        (&["-i", "dev", "--strict"], 2, "HPFEEDS CRITICAL - settings: "),
        (
            &["-i", "sensor", "-s", "no"],
            2,
            "HPFEEDS CRITICAL - AUTH: rejected: \"Authentication failed for sensor\" | ",
        ),
    ] {
        let found = doctor(peer.port, &[&["--nagios"], args].concat());
        assert_eq!((found.code, found.text.lines().count()), (Some(code), 1), "{}", found.text);
        assert!(found.text.starts_with(begins), "{}", found.text);
        assert_eq!(found.text.contains(" round_trip=0."), args.contains(&"--echo"), "{}", found.text);
    }
}

#[test]
fn a_check_of_nagios_that_makes_no_sense_is_unknown() {
    for (args, says) in [
        (&["-c", "a"][..], "HPFEEDS UNKNOWN - no ident: give --ident IDENT or set HPFEEDS_IDENT\n"),
        (&["--no|such"], "HPFEEDS UNKNOWN - unexpected argument '--no/such' found\n"),
        (&["--json"], "HPFEEDS UNKNOWN - the argument '--nagios' cannot be used with '--json'\n"),
    ] {
        tool().args(["doctor", "--nagios"]).args(args).assert().code(3).stdout(says).stderr("");
    }
    tool().args(["doctor", "--nagios", "--help"]).assert().code(0);
    tool().args(["publish", "--nagios"]).assert().code(2).stdout("");
}

#[test]
fn channels_before_the_action_are_checked_once() {
    let peer = broker(true, 1 << 20);
    let mut command = tool();
    command.args(["-c", "a", "-i", "dev", "-s", "dev", "-p", &peer.port.to_string(), "doctor", "-c", "b", "-c", "a"]);
    run(&mut command).says("ok", "subscribe", &["a, b | confirmed in "]);
}

#[test]
fn no_form_of_the_report_holds_the_secret() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    for form in [&[][..], &["--json"], &["--nagios"], &["--debug"]] {
        for secret in [SECRET.to_owned(), format!("{SECRET} "), format!("\"{SECRET}\"")] {
            for on_command_line in [true, false] {
                let mut command = tool();
                command.args(["doctor", "-p", &port, "-i", "sensor", "-c", "events"]).args(form);
                if on_command_line {
                    command.args(["-s", &secret]).env("HPFEEDS_SECRET", "hunter2-other")
                } else {
                    command.env("HPFEEDS_SECRET", &secret)
                };
                let output = command.output().unwrap();
                let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                assert!(!text.contains("hunter2") && text.contains("sensor"), "{text}");
            }
        }
    }
}
