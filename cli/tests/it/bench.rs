//! `hpfeeds bench` against the embedded broker, a program that stands in for one, and a proxy that
//! spoils messages.

use std::{
    fs,
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use serde_json::Value;

use crate::support::{SECRET, TestBroker, fails, read_frame, tool};

/// `hpfeeds bench … --json` as somebody who may do everything.
fn bench(port: u16, args: &[&str]) -> assert_cmd::Command {
    let mut command = tool();
    command.arg("bench").args(args).args(["--json", "-i", "dev", "-s", "dev", "-p", &port.to_string()]);
    command
}

fn json(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

fn report(command: &mut assert_cmd::Command) -> Value {
    let output = command.output().unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["seconds"].as_f64().unwrap() > 0.0, "{report}");
    for field in ["cpu", "kernel", "date"] {
        assert!(!report["machine"][field].as_str().unwrap().is_empty(), "{report}");
    }
    report
}

/// Everything that was published reached everybody, once.
fn assert_complete(report: &Value, messages: u64, subscribers: u64) {
    let counts = ["messages", "delivered", "lost", "repeated"].map(|field| report[field].as_u64().unwrap());
    assert_eq!(counts, [messages, messages * subscribers, 0, 0], "{report}");
    let positive = ["messages_per_second", "bytes_per_second"].map(|field| report[field].as_f64().unwrap() > 0.0);
    assert_eq!(positive, [true, true], "{report}");
}

fn assert_ordered(percentiles: &Value) {
    let times = ["p50", "p90", "p99", "p99.9", "max"].map(|field| percentiles[field].as_f64().unwrap());
    assert!(times.is_sorted() && times[0] >= 0.0 && times[4] > 0.0, "{percentiles}");
}

#[test]
fn throughput_delivers_every_message_to_every_subscriber() {
    let broker = TestBroker::start();
    for (publishers, subscribers, size, messages) in
        [("1", "1", "12", 20_000), ("1", "7", "256", 5_000), ("300", "1", "100", 9_999), ("5", "5", "100K", 200)]
    {
        let count = messages.to_string();
        let args = ["throughput", "--publishers", publishers, "--subscribers", subscribers, "--size", size];
        let report = report(bench(broker.port(), &args).args(["--messages", &count]));
        assert_complete(&report, messages, subscribers.parse().unwrap());
        assert_eq!(report["workload"], "throughput");
        assert_eq!(report["parameters"]["messages"], messages);
    }
}

#[test]
fn throughput_stops_after_its_time() {
    let broker = TestBroker::start();
    // A long message has mostly been begun by then.
    for size in ["256", "900K"] {
        let args = ["throughput", "--seconds", "0.2", "--subscribers", "2", "--publishers", "3", "--size", size];
        let report = report(&mut bench(broker.port(), &args));
        assert_complete(&report, report["messages"].as_u64().unwrap(), 2);
        assert!(report["messages"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn a_message_may_be_as_long_as_the_broker_takes() {
    let broker = TestBroker::with_max_message(4 << 20);
    let args = ["throughput", "--size", "3M", "--messages", "3"];
    assert_complete(&report(bench(broker.port(), &args).args(["--max-message", "4M"])), 3, 1);
    fails(&mut bench(broker.port(), &args), 1, "raise --max-message");
}

#[test]
fn latency_keeps_the_rate_and_has_percentiles() {
    let broker = TestBroker::start();
    let args = ["latency", "--rate", "2000", "--seconds", "0.5", "--subscribers", "3"];
    let report = report(&mut bench(broker.port(), &args));
    assert_complete(&report, 1000, 3);
    assert!(report["seconds"].as_f64().unwrap() >= 0.4995, "{report}");
    assert_ordered(&report["latency_us"]);
    assert_ordered(&report["late_us"]);
}

#[test]
fn idle_connections_are_counted_and_proven() {
    let broker = TestBroker::start();
    let pid = std::process::id().to_string();
    let report = report(bench(broker.port(), &["idle", "--connections", "50"]).args(["--pid", &pid]));
    assert_complete(&report, 50, 1);
    assert_eq!(report["connections"], 50);
    assert!(report["rss_bytes_per_connection"].is_number(), "{report}");
}

#[test]
fn connect_makes_as_many_connections_as_it_says() {
    let broker = TestBroker::start();
    let args = ["connect", "--connections", "100", "--concurrency", "3"];
    let report = report(&mut bench(broker.port(), &args));
    assert_eq!(report["connections"], 100);
    assert!(report["connections_per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert_ordered(&report["latency_us"]);
    assert!(report.get("broker_cpu_us_per_connection").is_none(), "{report}");
}

#[test]
fn the_processor_time_of_a_process_is_over_its_messages() {
    let broker = TestBroker::start();
    let pid = std::process::id().to_string();
    let report = report(bench(broker.port(), &["throughput", "--messages", "50000"]).args(["--pid", &pid]));
    let [each, all] = ["broker_cpu_ns_per_message", "broker_cpu_seconds"].map(|field| report[field].as_f64().unwrap());
    assert!((each * 50_000.0 / 1e9 - all).abs() < 1e-6, "{report}");
    assert!(report["broker_rss_bytes"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_process_that_cannot_be_measured_is_named() {
    let broker = TestBroker::start();
    fails(bench(broker.port(), &["connect"]).args(["--pid", "4294967295"]), 1, "the process 4294967295 uses");
}

#[test]
fn lines_for_a_person() {
    let broker = TestBroker::start();
    let mut command = tool();
    command.args(["bench", "throughput", "--messages", "100", "--subscribers", "3", "-c", "events"]);
    let output = command.args(["-i", "dev", "-s", "dev", "-p", &broker.port().to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{text}");
    assert!(text.contains("\ndelivered         300, lost 0, repeated 0\n"), "{text}");
}

/// The harm that a proxy does to messages on their way to the subscriber.
#[derive(Clone, Copy)]
enum Harm {
    Drop,
    Corrupt,
    Repeat,
    Cut,
    Swallow,
}

/// A broker behind something that harms the message with number 500 of the first publisher.
fn harmed(broker: &TestBroker, harm: Harm) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, broker) = (listener.local_addr().unwrap().port(), broker.port());
    thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            let server = TcpStream::connect(("127.0.0.1", broker)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                drop(std::io::copy(&mut from, &mut to));
                drop(to.shutdown(Shutdown::Write));
            });
            thread::spawn(move || drop(deliver(server, client, harm)));
        }
    });
    port
}

fn deliver(mut from: TcpStream, mut to: TcpStream, harm: Harm) -> std::io::Result<()> {
    let mut swallowing = false;
    while let Some(mut frame) = read_frame(&mut from) {
        let stamp = frame.len().saturating_sub(256);
        let hit = frame.get(stamp..stamp + 12) == Some(&[&[0; 4][..], &500_u64.to_be_bytes()].concat());
        match harm {
            _ if !hit => {}
            Harm::Drop => continue,
            Harm::Corrupt => frame[stamp + 200] ^= 1,
            Harm::Repeat => to.write_all(&frame)?,
            Harm::Cut => return to.shutdown(Shutdown::Both),
            Harm::Swallow => swallowing = true,
        }
        if !swallowing {
            to.write_all(&frame)?;
        }
    }
    to.shutdown(Shutdown::Write)
}

#[test]
fn a_broker_that_loses_or_changes_something_is_found_out() {
    let broker = TestBroker::start();
    for (harm, expected, has_report) in [
        (Harm::Drop, "of 1000 messages, 1 were lost and 0 repeated", true),
        (Harm::Corrupt, "byte 200 of the payload of message 500 from publisher 0 is wrong", false),
        (Harm::Repeat, "0 were lost and 1 repeated", true),
        (Harm::Cut, "the broker closed the connection of a subscriber", false),
        (Harm::Swallow, "of 1000 messages, 500 were lost", true),
    ] {
        let args = ["throughput", "--messages", "1000", "--timeout", "2"];
        let output = bench(harmed(&broker, harm), &args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{expected:?} in {stderr}");
        assert_eq!(!output.stdout.is_empty(), has_report, "{stderr}");
        if has_report {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(report["lost"].as_u64().unwrap() + report["repeated"].as_u64().unwrap() > 0, "{report}");
        }
    }
}

#[test]
fn the_latency_of_a_broker_that_loses_something_is_no_result() {
    let broker = TestBroker::start();
    let args = ["latency", "--rate", "10000", "--seconds", "0.1", "--timeout", "2"];
    fails(&mut bench(harmed(&broker, Harm::Drop), &args), 1, "1 were lost");
}

#[test]
fn where_nobody_listens_it_fails() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for workload in ["throughput", "latency", "idle", "connect"] {
        fails(&mut bench(port, &[workload]), 1, "cannot connect to localhost:");
    }
}

#[test]
fn something_that_is_no_broker_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            drop(stream.write_all(b"SSH-2.0-OpenSSH\r\n"));
            drop(stream.read(&mut [0; 100]));
        }
    });
    fails(&mut bench(port, &["connect"]), 1, "is no hpfeeds broker");
}

#[test]
fn rejected_is_3_and_denied_is_4() {
    let broker = TestBroker::start();
    for workload in ["throughput", "latency", "idle", "connect"] {
        fails(bench(broker.port(), &[workload]).args(["-s", "wrong"]), 3, "the broker says: ");
    }
    for (ident, channel) in [("sensor", "events"), ("collector", "events"), ("sensor", "forbidden")] {
        let mut command = bench(broker.port(), &["throughput"]);
        fails(command.args(["-i", ident, "-s", SECRET, "-c", channel]), 4, "Authkey not allowed to");
    }
}

#[test]
fn the_command_line_is_checked() {
    let cases: [(&[&str], &str); 8] = [
        (&["throughput", "--size", "11", "-p", "1"], "every message carries its number"),
        (&["throughput", "-p", "1"], "no ident"),
        (&["throughput", "-p", "1", "--tls", "-i", "a", "-s", "b"], "bench does not speak TLS"),
        (&["throughput", "-p", "1", "--broker", "x", "-i", "a", "-s", "b"], "--broker PATH starts a broker"),
        (&["throughput", "--pid", "1"], "--pid PID is for an existing broker"),
        (&["latency", "--rate", "0"], "0 is not in"),
        (&["idle", "--connections", "0"], "0 is not in"),
        (&["throughput", "--messages", "0"], "0"),
    ];
    for (args, text) in cases {
        fails(tool().arg("bench").args(args), 2, text);
    }
    let mut twice = tool();
    fails(twice.args(["-c", "a", "bench", "throughput", "-c", "b"]), 2, "give --chan once");
}

#[test]
fn the_address_counts_wherever_it_comes_from() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    let key = ["-i", "dev", "-s", "dev"];
    let connect = ["connect", "--connections", "1"];
    tool().args(["-p", &port]).args(key).arg("bench").args(connect).assert().success();
    tool().arg("bench").args(["-p", &port]).args(key).args(connect).assert().success();
    tool().env("HPFEEDS_PORT", &port).arg("bench").args(connect).args(key).assert().success();
}

#[test]
fn a_broker_that_cannot_be_started_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let start = |program: PathBuf, text: &str| {
        let mut command = tool();
        fails(command.args(["bench", "connect", "--broker"]).arg(program), 1, text);
    };
    start(dir.path().join("missing"), "No such file or directory");
    let program = executable(dir.path(), "#!/bin/sh\necho first >&2\necho no room >&2\n");
    start(program, "no room; give --broker PATH, or --host and --port");
}

/// A script. Another process makes it: while this one has it open, a child of another test could
/// too, and it would be too busy to run.
fn executable(dir: &Path, script: &str) -> PathBuf {
    let (text, program) = (dir.join("text"), dir.join("broker"));
    fs::write(&text, script).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).args([&text, &program]).status().unwrap().success());
    program
}

/// Where its arguments, its key and its end can be seen.
#[test]
fn a_broker_is_started_and_ended() {
    let broker = TestBroker::start();
    let dir = tempfile::tempdir().unwrap();
    // It tells of another broker, which does not know the key; what counts is what it was given,
    // and that it ends.
    let script = format!(
        "#!/bin/sh\ncd {}\necho \"$@\" > args; cp \"$4\" keys; echo $$ > pid\necho listening on 127.0.0.1:{}\nexec sleep 1000\n",
        dir.path().display(),
        broker.port()
    );
    let program = executable(dir.path(), &script);
    let mut command = tool();
    command.args(["bench", "connect", "-c", "odd", "--max-message", "2M", "--broker"]).arg(&program);
    fails(&mut command, 3, "the broker says: ");
    let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
    let args = read("args");
    assert!(args.starts_with("-e tcp:interface=127.0.0.1:port=0 --auth ") && args.contains("2097152"), "{args}");
    let keys: Value = serde_json::from_str(&read("keys")).unwrap();
    assert_eq!(keys["bench"]["pubchans"], keys["bench"]["subchans"]);
    assert_eq!(keys["bench"]["pubchans"][0], "odd");
    assert!(!fs::exists(format!("/proc/{}", read("pid").trim())).unwrap(), "still running");
}
