//! Arguments and variables: where they can stand, which is missing, which makes no sense.

use crate::support::{SECRET, TestBroker, fails, outcome, tool};

#[test]
fn connection_options_work_before_and_after_the_action() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    let port = broker.port().to_string();
    let flags = ["--host", "127.0.0.1", "-p", &port, "-i", "sensor", "-s", SECRET, "-c", "events"];
    // Every place that the action can stand in, between two flags.
    for split in (0..=flags.len()).step_by(2) {
        let (before, after) = flags.split_at(split);
        tool().args(before).arg("publish").args(after).arg("x").assert().success();
        assert_eq!(peer.payloads(), ["x"], "split at {split}");
    }
    // As in the documentation of the Python tool.
    let python = ["--host=127.0.0.1", &format!("--port={port}"), "--ident=sensor", &format!("--secret={SECRET}")];
    tool().args(python).args(["--chan=events", "publish", "a", "b"]).assert().success();
    assert_eq!(peer.payloads(), ["a b"]);
    // Channels from both sides come together.
    tool().args(flags).args(["publish", "-c", "files", "x"]).assert().success();
    assert_eq!(peer.all().len(), 2);
    // Given twice, the later one counts.
    let wrong = ["-p", "1", "-i", "nobody", "-s", "wrong"];
    tool().args(wrong).arg("publish").args(flags).arg("x").assert().success();
    tool().args(wrong).args(flags).args(["publish", "x"]).assert().success();
    tool().arg("publish").args(wrong).args(flags).arg("x").assert().success();
    assert_eq!(peer.all().len(), 3);
}

#[test]
fn the_environment_stands_in_for_options() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let environment = [
        ("HPFEEDS_HOST", "127.0.0.1".to_owned()),
        ("HPFEEDS_PORT", broker.port().to_string()),
        ("HPFEEDS_IDENT", "sensor".to_owned()),
        ("HPFEEDS_SECRET", SECRET.to_owned()),
    ];
    tool().envs(environment).args(["publish", "-c", "events", "x"]).assert().success();
    assert_eq!(peer.payloads(), ["x"]);

    // The command line wins, wherever it stands.
    let wrong = ["HPFEEDS_PORT", "HPFEEDS_IDENT", "HPFEEDS_SECRET"].map(|name| (name, "1"));
    let port = broker.port().to_string();
    let flags = ["--port", &port, "--ident", "sensor", "--secret", SECRET, "--chan", "events"];
    tool().envs(wrong).args(flags).args(["publish", "x"]).assert().success();
    tool().envs(wrong).arg("publish").args(flags).arg("x").assert().success();
    assert_eq!(peer.payloads(), ["x", "x"]);
}

/// The value that Kubernetes sets in a pod beside a service named hpfeeds.
const LINK: &str = "tcp://10.43.0.17:20000";

#[test]
fn a_variable_whose_option_is_given_is_not_even_read() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let long = "x".repeat(256);
    let faulty = [("HPFEEDS_HOST", "a:b"), ("HPFEEDS_PORT", LINK), ("HPFEEDS_IDENT", &long)];
    let port = broker.port().to_string();
    let flags = ["--host", "127.0.0.1", "-p", &port, "-i", "sensor", "-s", SECRET, "-c", "events"];
    // Every place that the action can stand in.
    for split in (0..=flags.len()).step_by(2) {
        let (before, after) = flags.split_at(split);
        tool().envs(faulty).args(before).arg("publish").args(after).arg("x").assert().success().stderr("");
        assert_eq!(peer.payloads(), ["x"], "split at {split}");
    }
    tool().envs(faulty).args(["completions", "bash"]).assert().success();
    tool().envs(faulty).arg("--help").assert().success();
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    // The name that it is by default, and the port alone.
    broker.sensor("publish").env("HPFEEDS_HOST", "").args(["-c", "events", "x"]).assert().success();
    assert_eq!(peer.payloads(), ["x"]);
    let mut publish = tool();
    publish.envs([("HPFEEDS_HOST", "127.0.0.1"), ("HPFEEDS_PORT", "")]);
    publish.args(["publish", "--timeout", "0.1", "-i", "i", "-s", "s", "-c", "a", "x"]);
    // A broker that may listen there knows no such key.
    let (code, stderr) = outcome(&mut publish);
    assert!(code != Some(0) && code != Some(2) && stderr.contains("127.0.0.1:20000"), "{code:?}: {stderr}");
}

#[test]
fn a_fault_in_a_variable_names_the_variable() {
    let long = "x".repeat(256);
    let cases = [
        ("HPFEEDS_HOST", "localhost:20000", "give a name or an address alone"),
        ("HPFEEDS_PORT", "http", r#""http" is not a port from 1 to 65535"#),
        ("HPFEEDS_PORT", "0", "not a port from 1 to 65535"),
        ("HPFEEDS_PORT", "70000", "not a port from 1 to 65535"),
        ("HPFEEDS_PORT", LINK, "is a link that Kubernetes sets for a service named hpfeeds"),
        ("HPFEEDS_IDENT", &long, "is 256 bytes long"),
    ];
    for (variable, value, words) in cases {
        let mut publish = tool();
        publish.env(variable, value).args(["publish", "-s", "s", "-c", "a", "x"]);
        if variable != "HPFEEDS_IDENT" {
            publish.args(["-i", "i"]);
        }
        let (code, stderr) = outcome(&mut publish);
        assert_eq!(code, Some(2), "{variable}={value}: {stderr}");
        assert!(stderr.starts_with(&format!("hpfeeds: the variable {variable}: ")), "{stderr}");
        assert!(stderr.contains(words), "{words:?} in {stderr}");
    }
    let mut publish = tool();
    let secret: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"hunter2\xff".to_vec());
    publish.env("HPFEEDS_SECRET", secret).args(["publish", "-i", "i", "-c", "a", "x"]);
    let (code, stderr) = outcome(&mut publish);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("HPFEEDS_SECRET: it is not UTF-8") && !stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn missing_arguments_are_named() {
    let cases: [(&[&str], &[&str]); 8] = [
        (&["publish", "-c", "a", "-s", "s", "x"], &["no ident", "--ident", "HPFEEDS_IDENT"]),
        (&["subscribe", "-c", "a", "-i", "i"], &["no secret", "--secret", "HPFEEDS_SECRET"]),
        (&["sendfile", "-c", "a", "-i", "i", "-s", "", "f"], &["no secret"]),
        (&["publish", "-i", "i", "-s", "s", "x"], &["no channel", "--chan"]),
        (&["subscribe", "-i", "i", "-s", "s"], &["no channel", "--chan"]),
        (&["sendfile", "-i", "i", "-s", "s", "-c", "a"], &["<PATH>"]),
        (&["publish", "-i", "i", "-s", "s", "-c", "a", "--tls-client-cert", "f", "x"], &["--tls-client-key"]),
        (&["publish", "-i", "i", "-s", "s", "-c", "a", "--tls-client-key", "f", "x"], &["--tls-client-cert"]),
    ];
    for (arguments, words) in cases {
        let (code, stderr) = outcome(tool().args(arguments));
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.starts_with("hpfeeds: "), "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{words:?} in {stderr}");
    }
    // A variable without a value counts as not set.
    let mut publish = tool();
    publish.envs([("HPFEEDS_IDENT", ""), ("HPFEEDS_SECRET", "s")]).args(["publish", "-c", "a", "x"]);
    fails(&mut publish, 2, "no ident");
}

#[test]
fn values_that_make_no_sense_are_named() {
    let key = ["-i", "i", "-s", "s", "-c", "a"];
    let long = "x".repeat(256);
    let cases: [(&[&str], &str); 26] = [
        (&["publish", "-p", "70000", "x"], "70000"),
        (&["publish", "-p", "0", "x"], "'0'"),
        (&["publish", "-p", "http", "x"], "http"),
        (&["publish", "--host", "localhost:20000", "x"], "--port"),
        (&["publish", "--host", "", "x"], "--host"),
        (&["publish", "--max-message", "big", "x"], "not a size such as 65536, 64k, 10M or 1GiB"),
        (&["publish", "--max-message", "0", "x"], "no size at all: give at least 1 byte"),
        (&["publish", "--timeout", "1e300", "x"], "too long: at most 1e19 seconds"),
        (&["publish", "--timeout", "0", "x"], "seconds"),
        (&["publish", "-c", "", "x"], "is empty"),
        (&["publish", "-c", &long, "x"], "256 bytes long"),
        (&["publish", "-i", &long, "x"], "256 bytes long"),
        (&["publish", "--lines", "x"], "--lines reads the messages from stdin"),
        (&["publish", "--ndjson", "x"], "--ndjson reads the messages from stdin"),
        (&["publish", "--ndjson", "--lines"], "cannot be used with"),
        (&["publish", "--skip-bad", "--lines"], "cannot be used with"),
        (&["publish", "--speed", "1"], "--ndjson"),
        (&["publish", "--ndjson", "--speed", "fast"], "neither max nor a number such as 1, 10 or 0.5"),
        (&["publish", "--ndjson", "--speed", "0"], "not above zero"),
        (&["publish", "--ndjson", "--max-gap", "9"], "--speed"),
        (&["-o", "f", "publish", "x"], "--output FILE is for subscribe"),
        (&["subscribe", "--count", "0"], "no message at all: give at least 1"),
        (&["subscribe", "--timeout", "-1"], "--timeout"),
        (&["subscribe", "--format", "xml"], "ndjson"),
        (&["subscribe", "--format", "raw", "--save-dir", "d"], "--save-dir"),
        (&["publish", "--tlscert", "/no/such/file.pem", "x"], "/no/such/file.pem"),
    ];
    for (arguments, word) in cases {
        let (code, stderr) = outcome(tool().args(key).args(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("hpfeeds: ") && stderr.contains(word), "{word:?} in {stderr}");
    }
    fails(tool().arg("listen"), 2, "'listen'");
}

#[test]
fn a_key_may_look_like_an_option() {
    let broker = TestBroker::start();
    let port = broker.port().to_string();
    let mut publish = tool();
    publish.args(["publish", "-p", &port, "-i", "-sensor", "-s", SECRET, "-c", "events", "x"]).assert().success();
    let mut publish = tool();
    publish.args(["publish", "-p", &port, "-i", "sensor", "-s", "--tls", "-c", "events", "x"]);
    publish.assert().code(3);
}

#[test]
fn help_explains_codes_and_variables() {
    for arguments in [vec!["--help"], vec!["-h"], vec!["help"]] {
        let assert = tool().env("HPFEEDS_SECRET", SECRET).args(arguments).assert().success().stderr("");
        let help = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        for word in ["Exit codes:", "  130  ", "Environment:", "HPFEEDS_SECRET", "[default: 20000]", "sendfile"] {
            assert!(help.contains(word), "{word} in {help}");
        }
        assert!(!help.contains(SECRET), "{help}");
    }
    for action in ["subscribe", "publish", "sendfile", "spool", "completions"] {
        let assert = tool().env("HPFEEDS_SECRET", SECRET).args([action, "--help"]).assert().success().stderr("");
        assert!(!String::from_utf8_lossy(&assert.get_output().stdout).contains(SECRET));
    }
    // Nothing to do: told on stderr, and not a success.
    let (code, stderr) = outcome(&mut tool());
    assert!(code == Some(2) && stderr.contains("Exit codes:"), "{stderr}");
}

#[test]
fn version() {
    let expected = format!("hpfeeds {}\n", env!("CARGO_PKG_VERSION"));
    tool().arg("--version").assert().success().stdout(expected);
}

#[test]
fn manual_pages_are_there_for_each_action() {
    let mut expected = vec!["hpfeeds.1".to_owned()];
    let actions = [
        "bench",
        "bench-connect",
        "bench-idle",
        "bench-latency",
        "bench-throughput",
        "completions",
        "demo",
        "doctor",
        "man",
        "publish",
        "sendfile",
        "spool",
        "spool-drain",
        "spool-dump",
        "spool-status",
        "spool-verify",
        "subscribe",
        "top",
    ];
    let built_in = |action: &&str| match *action {
        "demo" => cfg!(feature = "demo"),
        "top" => cfg!(feature = "top"),
        _ => true,
    };
    expected.extend(actions.into_iter().filter(built_in).map(|action| format!("hpfeeds-{action}.1")));
    expected.sort();
    assert_eq!(crate::pages::written(env!("CARGO_BIN_EXE_hpfeeds")), expected);
    fails(tool().args(["man", "/nonexistent"]), 1, "cannot write manual pages into /nonexistent: No such file");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let assert = tool().args(["completions", shell]).assert().success().stderr("");
        let script = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        assert!(
            ["sendfile", "max-message", "ndjson", "verify"].iter().all(|word| script.contains(word)),
            "{shell}: {script}"
        );
    }
    fails(tool().args(["completions", "cmd"]), 2, "bash");
}
