//! `hpfeeds subscribe`: which messages it prints, which of their fields, and its report.

use serde_json::{Value, json};

use crate::support::{TestBroker, bare_tool, fails, tool};

const FIRST: &str = r#"{"peerIP":"192.0.2.1","port":22,"login":["root","a\tb"]}"#;
const SECOND: &str = r#"{"peerIP":"192.0.2.2","port":23}"#;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn messages_that_meet_all_conditions_are_printed_and_counted() {
    let broker = TestBroker::start();
    let args = ["--where", "peerIP~192.0.2.*", "--where", "port!=22", "--where", "ident=sensor", "--count", "1"];
    let mut tool = broker.subscribed(&args);
    broker.publish([FIRST, "peerIP=192.0.2.2", "{", SECOND, SECOND]);
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    assert_eq!(text(tool.stdout()), format!("[events] sensor: {SECOND}\n"));
}

#[test]
fn what_does_not_meet_a_condition_is_told_when_nothing_else_came() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--where", "peerIP=192.0.2.9", "--timeout", "4"]);
    broker.publish([FIRST, SECOND]);
    assert_eq!(tool.wait(), Some(5));
    let said = "nothing wanted arrived within 4s, and 2 messages that do not meet --where";
    assert!(tool.stderr().contains(said) && tool.stdout().is_empty(), "{}", tool.stderr());
}

#[test]
fn fields_stand_in_columns_or_in_objects() {
    let broker = TestBroker::start();
    let fields = ["--fields", "ident,port,login[1],missing", "--count", "3"];
    let mut columns = broker.subscribed(&fields);
    let mut objects = broker.subscribed(&[&fields[..], &["--format", "ndjson"]].concat());
    broker.publish([FIRST, SECOND, "\x1b[2J"]);
    assert_eq!((columns.wait(), objects.wait()), (Some(0), Some(0)));
    assert_eq!(text(columns.stdout()), "sensor\t22\ta\\tb\t\nsensor\t23\t\t\nsensor\t\t\t\n");
    let expected = [
        r#"{"ident":"sensor","port":22,"login[1]":"a\tb","missing":null}"#,
        r#"{"ident":"sensor","port":23,"login[1]":null,"missing":null}"#,
        r#"{"ident":"sensor","port":null,"login[1]":null,"missing":null}"#,
    ];
    assert_eq!(text(objects.stdout()).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn pretty_lays_out_json_in_a_pipe_and_leaves_the_rest_as_lines() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--pretty", "--count", "3"]);
    broker.publish([r#"{"b":[1],"b":{}}"#, "text\n", "5"]);
    assert_eq!(tool.wait(), Some(0));
    let expected =
        "[events] sensor: {\n  \"b\": [\n    1\n  ],\n  \"b\": {}\n}\n[events] sensor: text\\n\n[events] sensor: 5\n";
    assert_eq!(text(tool.stdout()), expected);
}

#[test]
fn a_report_is_printed_at_the_end_also_after_ctrl_c() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--report", "--fields", "peerIP,ident", "--where", "port~*"]);
    broker.publish([FIRST, SECOND, SECOND, "no JSON"]);
    // Messages that the broker has for it by then are counted, too.
    tool.signal("INT");
    assert_eq!(tool.wait(), Some(0), "{}", tool.stderr());
    let printed = text(tool.stdout());
    let (first, rest) = printed.split_once('\n').unwrap();
    let bytes = FIRST.len() + 2 * SECOND.len();
    assert!(first.starts_with(&format!("3 messages with {bytes} bytes in ")), "{first}");
    let expected = "channel (1 value)\n         3  events\nident (1 value)\n         3  sensor\n\
                    peerIP (2 values)\n         2  192.0.2.2\n         1  192.0.2.1\n\n";
    assert_eq!(rest, expected);
}

#[test]
fn a_report_comes_again_and_again_and_counts_from_the_start() {
    let broker = TestBroker::start();
    let mut tool = broker.subscribed(&["--report", "--report-every", "0.05", "--format", "ndjson"]);
    tool.wait_for_stdout(b"{");
    broker.publish([FIRST]);
    // So many bytes are several reports.
    let reports = |tool: &crate::support::Running| -> Vec<Value> {
        let whole = text(tool.stdout());
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let counted = |report: &Value| report["messages"] == 1;
    let begun = std::time::Instant::now();
    while reports(&tool).iter().filter(|report| counted(report)).count() < 2 {
        assert!(begun.elapsed() < crate::support::SOON, "{}", text(tool.stdout()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    tool.signal("TERM");
    assert_eq!(tool.wait(), Some(0));
    let all = reports(&tool);
    assert_eq!(all[0]["messages"], 0);
    let last = all.last().unwrap();
    assert_eq!((&last["messages"], &last["bytes"]), (&json!(1), &json!(FIRST.len())));
    assert_eq!(last["fields"][1]["top"], json!([{"value": "sensor", "messages": 1}]));
}

#[test]
fn selections_that_make_no_sense_are_refused_before_anything_else() {
    for (args, said) in [
        (&["--where", "peerIP"][..], "there is no operator behind peerIP"),
        (&["--where", "a..b=1"], "a part of the name is empty"),
        (&["--fields", "a,a"], "a is there twice"),
        (&["--fields", "a[x]"], "in brackets stands a number"),
        (&["--fields", "a", "--format", "raw"], "--fields prints values with tabs"),
        (&["--fields", "a", "--pretty"], "--fields prints values with tabs"),
        (&["--fields", "a", "--save-dir", "d"], "--fields has no place"),
        (&["--pretty", "--format", "line"], "cannot be used with"),
        (&["--report", "--format", "raw"], "--report prints text"),
        (&["--report", "--save-dir", "d"], "there can be no --save-dir"),
        (&["--report", "--mailbox", "m"], "take them out of the mailbox"),
        (&["--report-every", "1"], "--report"),
    ] {
        let mut command = tool();
        command.args(["subscribe", "-i", "i", "-s", "s", "a"]).args(args);
        fails(&mut command, 2, said);
    }
    let help = bare_tool().args(["subscribe", "--help"]).output().unwrap();
    let help = text(help.stdout);
    assert!(["--where", "--fields", "--report-every", "--pretty"].iter().all(|flag| help.contains(flag)), "{help}");
}
