//! Addresses as URLs, on the command line, in the environment and in profiles.

use std::{fs, path::Path};

use crate::support::{SECRET, TestBroker, fails, outcome, tool};

fn url(broker: &TestBroker, channels: &str) -> String {
    format!("hpfeeds://sensor:{SECRET}@127.0.0.1:{}/{channels}", broker.port())
}

#[test]
fn a_url_says_where_the_broker_is_which_key_and_which_channels() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events", "files"]);
    let full = url(&broker, "events,files");
    tool().args(["--url", &full, "publish", "x"]).assert().success();
    assert_eq!(peer.all().len(), 2);
    tool().args(["publish", "--url", &full, "-c", "events", "y"]).assert().success();
    assert_eq!(peer.payloads(), ["y"], "a channel that is given takes the place of those in the URL");
    tool().env("HPFEEDS_URL", url(&broker, "events")).args(["publish", "z"]).assert().success();
    assert_eq!(peer.payloads(), ["z"]);
    // A key in the environment completes a URL without one, and options come before either.
    let place = format!("hpfeeds://127.0.0.1:{}", broker.port());
    let key = [("HPFEEDS_IDENT", "sensor"), ("HPFEEDS_SECRET", SECRET)];
    tool().envs(key).args(["--url", &place, "publish", "-c", "events", "1"]).assert().success();
    let wrong = format!("hpfeeds://nobody:wrong@127.0.0.1:{}/events", broker.port());
    tool().args(["--url", &wrong, "-i", "sensor", "-s", SECRET, "publish", "2"]).assert().success();
    assert_eq!(peer.payloads(), ["1", "2"]);
    fails(tool().envs(key).args(["--url", &wrong, "publish", "3"]), 3, "nobody");
}

#[test]
fn an_option_that_says_where_the_broker_is_goes_before_the_variable() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let mut publish = broker.sensor("publish");
    publish
        .env("HPFEEDS_URL", "hpfeeds+tls://nobody:wrong@192.0.2.1/files")
        .args(["-c", "events", "x"])
        .assert()
        .success();
    assert_eq!(peer.payloads(), ["x"]);
    // A variable that is not used is not read.
    let mut publish = broker.sensor("publish");
    publish.env("HPFEEDS_URL", "nonsense").args(["-c", "events", "y"]).assert().success();
    assert_eq!(peer.payloads(), ["y"]);
}

#[test]
fn doctor_says_what_a_url_has_given() {
    let broker = TestBroker::start();
    let full = url(&broker, "events");
    let told = |command: &mut assert_cmd::Command| {
        let output = command.env("LANG", "C").env_remove("LC_ALL").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let said = told(tool().args(["doctor", "--url", &full]));
    assert!(said.contains("ok settings url from the command line | ident, secret from the URL"), "{said}");
    let said = told(tool().env("HPFEEDS_URL", &full).args(["doctor", "-i", "sensor"]));
    assert!(said.contains("ident from the command line | url from the environment | secret from the URL"), "{said}");
    let said = told(tool().args(["doctor", "--url", &full.replace(SECRET, "hunter2%20")]));
    assert!(said.contains("the secret ends in a space write the secret in the URL without it"), "{said}");
}

#[test]
fn a_url_that_makes_no_sense_is_refused_without_its_secret() {
    let given = ["publish", "-c", "events", "x"];
    for (bad, text) in [
        ("http://me:hunter2@h", "another scheme"),
        ("hpfeeds://me:hunter2/@h", "%2F"),
        ("hpfeeds://me:hunter2@h:port", "no number"),
        ("hunter2", "no scheme"),
    ] {
        for (mut command, place) in [(tool(), "url"), (tool(), "variable")] {
            let command = if place == "url" { command.args(["--url", bad]) } else { command.env("HPFEEDS_URL", bad) };
            let (code, stderr) = outcome(command.args(given));
            assert_eq!(code, Some(2), "{stderr}");
            assert!(stderr.contains(text) && !stderr.contains("hunter2"), "{stderr}");
        }
    }
    let good = "hpfeeds://me:hunter2@h";
    for (arguments, text) in [
        (&["--url", good, "--host", "h"][..], "--host"),
        (&["--url", good, "-p", "1"], "--port"),
        (&["--url", good, "--profile", "lab"], "--profile"),
        (&["--profile", "lab", "--port", "1"], "--port"),
        (&["--host", good, "-i", "me", "-s", "x"], "--url"),
        (&["--url", "hpfeeds://h", "-s", "x"], "no ident"),
    ] {
        let (code, stderr) = outcome(tool().args(arguments).args(given));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(text) && !stderr.contains("hunter2"), "{stderr}");
    }
    let (_, stderr) = outcome(tool().env("HPFEEDS_HOST", good).args(["-i", "me", "-s", "x"]).args(given));
    assert!(stderr.contains("HPFEEDS_URL") && !stderr.contains("hunter2"), "{stderr}");
    fails(tool().args(["--url", "hpfeeds+tls://me:x@h", "bench", "idle"]), 2, "does not speak TLS");
}

#[cfg(unix)]
#[test]
fn a_profile_is_read_from_a_file_of_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    let home = tempfile::tempdir().unwrap();
    let write = |folder: &Path, text: &str, mode| {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join("lab");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let publish = |arguments: &[&str]| {
        let mut command = tool();
        command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
        command.args(["publish", "--profile", "lab"]).args(arguments);
        command
    };
    let text = format!("# the broker of the lab\nurl = {}\n", url(&broker, "events"));
    fails(&mut publish(&["x"]), 2, ".config/hpfeeds/profiles/lab: there is none");
    write(&home.path().join(".config/hpfeeds/profiles"), &text, 0o600);
    publish(&["x"]).assert().success();
    assert_eq!(peer.payloads(), ["x"]);
    // The folder of the environment, and a channel that is given.
    let other = home.path().join("xdg");
    write(&other.join("hpfeeds/profiles"), &text, 0o400);
    publish(&["-c", "events", "y"]).env("XDG_CONFIG_HOME", &other).assert().success();
    assert_eq!(peer.payloads(), ["y"]);
    for mode in [0o640, 0o604, 0o660, 0o601] {
        write(&other.join("hpfeeds/profiles"), &text, mode);
        let (code, stderr) = outcome(publish(&["z"]).env("XDG_CONFIG_HOME", &other));
        assert_eq!(code, Some(2), "{mode:o}: {stderr}");
        assert!(stderr.contains("chmod 600") && !stderr.contains(SECRET), "{mode:o}: {stderr}");
    }
    write(&other.join("hpfeeds/profiles"), "url = hpfeeds://me:hunter2@h/\nhunter2", 0o600);
    let (code, stderr) = outcome(publish(&["z"]).env("XDG_CONFIG_HOME", &other));
    assert!(code == Some(2) && stderr.contains("line 2") && !stderr.contains("hunter2"), "{stderr}");
    fails(tool().args(["publish", "--profile", "../lab", "-c", "a", "x"]), 2, "no name of a profile");
}
