//! `hpfeeds publish --ndjson`: each line is a message as `subscribe --format ndjson` prints it.

use std::time::{Duration, Instant};

use crate::support::{Running, TestBroker, bare_tool, fails, largest, outcome};

/// The command with its key and these arguments.
fn publish(broker: &TestBroker, args: &[&str]) -> assert_cmd::Command {
    let mut command = broker.sensor("publish");
    command.arg("--ndjson").args(args);
    command
}

fn line(channel: &str, payload: &str) -> String {
    serde_json::json!({"time": "2026-01-31T12:00:00.5Z", "ident": "else", "channel": channel, "payload": payload})
        .to_string()
}

#[test]
fn lines_go_to_their_channels_under_the_ident_of_the_connection() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "odd.one"]);
    let input = [line("events", "x"), String::new(), line("odd.one", ""), line("events", "y")].join("\n");
    publish(&broker, &[]).write_stdin(input).assert().success().stderr("");
    let got: Vec<_> =
        peer.all().into_iter().map(|(ident, channel, payload)| (ident, channel.to_string(), payload)).collect();
    let sensor = |channel: &str, payload: &'static str| ("sensor".parse().unwrap(), channel.to_owned(), payload.into());
    assert_eq!(got, [sensor("events", "x"), sensor("odd.one", ""), sensor("events", "y")]);
}

#[test]
fn given_channels_take_the_place_of_those_of_the_lines() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files", "odd.one"]);
    let input = line("odd.one", "x") + "\n{\"payload\":\"y\"}\n";
    publish(&broker, &["-c", "events", "-c", "files"]).write_stdin(input).assert().success();
    let got: Vec<_> = peer.all().into_iter().map(|(_, channel, payload)| (channel.to_string(), payload)).collect();
    let expected = [("events", "x"), ("files", "x"), ("events", "y"), ("files", "y")];
    assert_eq!(got, expected.map(|(channel, payload)| (channel.to_owned(), payload.into())));
}

#[test]
fn a_line_that_is_wrong_ends_it_when_those_before_it_are_published() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    let input = [&line("events", "1"), "", &line("events", "2"), "{\"payload\":7}", "x", &line("events", "3"), "{"];
    let (code, stderr) = outcome(publish(&broker, &[]).write_stdin(input.join("\n")));
    assert_eq!(code, Some(1));
    let expected = "hpfeeds: line 4 of stdin is not a message in JSON: invalid type: integer `7`, expected a string at \
                    column 12; the broker has read the 2 messages before that; lines 5 to 6 of stdin were read and not \
                    sent, and 1 byte of a line that had not ended\n";
    assert_eq!(stderr, expected);
    assert_eq!(peer.payloads(), ["1", "2"]);
    // One that is wrong for a single channel goes to none.
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(largest("events.longer") + 1));
    let mut publish = publish(&broker, &["-c", "events", "-c", "odd.ev.longer"]);
    fails(publish.write_stdin(long), 1, "line 1 of stdin has a payload of 1048556 bytes: at most 1048555 fit");
    assert!(peer.all().is_empty());
}

#[test]
fn lines_that_are_wrong_can_be_skipped_and_are_counted() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(7 << 20));
    let input = ["{}", &line("events", "1"), &long, "[]", &line("events", "2")].join("\n");
    let (code, stderr) = outcome(publish(&broker, &["--skip-bad"]).write_stdin(input));
    assert_eq!(code, Some(6));
    let told: Vec<_> = stderr.lines().collect();
    assert_eq!(
        told[0],
        "hpfeeds: line 1 of stdin has no channel: give one in the line, or for all lines with --chan: skipped"
    );
    assert_eq!(told[1], "hpfeeds: line 3 of stdin is longer than 6357022 bytes, more than any message makes: skipped");
    assert!(told[2].starts_with("hpfeeds: line 4 of stdin is not a message in JSON: "), "{stderr}");
    assert_eq!(told[3..], ["hpfeeds: skipped 3 lines of stdin; the broker has read the 2 messages of the others"]);
    assert_eq!(peer.payloads(), ["1", "2"]);
    // Of very many, ten are told.
    let (code, stderr) = outcome(publish(&broker, &["--skip-bad"]).write_stdin("{}\n".repeat(5000)));
    assert_eq!((code, stderr.lines().count()), (Some(6), 11));
    assert!(stderr.contains("line 10 of stdin has no channel: give one in the line, or for all lines with --chan: skipped, as further ones will be\n"), "{stderr}");
}

#[test]
fn a_recording_is_played_by_its_times() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let at =
        |time: &str, payload| format!("{{\"time\":\"{time}\",\"channel\":\"events\",\"payload\":\"{payload}\"}}\n");
    let recorded = [
        at("2026-01-31T12:00:00Z", "a"),
        at("2026-01-31T12:03:20Z", "b"),
        // The clock was wrong.
        at("1970-01-01T00:00:00Z", "c"),
        at("2026-01-31T12:05:00Z", "d"),
    ]
    .concat();
    let start = Instant::now();
    publish(&broker, &["--speed", "1000"]).write_stdin(recorded.clone()).assert().success().stderr("");
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(peer.payloads(), ["a", "b", "c", "d"]);
    // As it is not waited for, and without its times.
    publish(&broker, &["--speed", "max"]).write_stdin("{\"channel\":\"events\",\"payload\":\"e\"}").assert().success();
    assert_eq!(peer.payloads(), ["e"]);
    let mut publish = publish(&broker, &["--speed", "1", "--max-gap", "0.1"]);
    let (code, stderr) = outcome(publish.write_stdin(recorded));
    assert_eq!(code, Some(0));
    let told: Vec<_> = stderr.lines().collect();
    assert_eq!(told.len(), 2, "{stderr}");
    assert!(
        told[0].starts_with("hpfeeds: line 2 of stdin would be due in 200s: waiting ")
            && told[0].ends_with("(--max-gap)"),
        "{stderr}"
    );
    assert!(told[1].starts_with("hpfeeds: line 4 of stdin would be due in 100s"), "{stderr}");
}

#[test]
fn a_recording_that_is_interrupted_says_what_was_not_played() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut command = bare_tool();
    command.args(["publish", "--ndjson", "--speed", "1", "-i", "dev", "-s", "dev", "-p", &broker.port().to_string()]);
    let mut tool = Running::start(&mut command);
    let at = |hour, payload| {
        format!("{{\"time\":\"2026-01-31T{hour}:00:00Z\",\"channel\":\"events\",\"payload\":\"{payload}\"}}\n")
    };
    tool.type_in([at("12", "a"), at("13", "b"), at("14", "c")].concat().as_bytes());
    assert_eq!(peer.next().2, "a");
    tool.signal("INT");
    assert_eq!(tool.wait_with_open_stdin(), Some(130));
    let expected = "hpfeeds: interrupted; the broker has read the 1 message before that; lines 2 to 3 of stdin were read \
                    and not sent\n";
    assert_eq!(tool.stderr(), expected);
    assert!(peer.all().is_empty());
}

#[test]
fn a_denied_channel_is_4() {
    let broker = TestBroker::start();
    let input = line("forbidden", "x");
    fails(publish(&broker, &[]).write_stdin(input), 4, r#"publish to "forbidden""#);
}
