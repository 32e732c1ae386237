//! The tool on a terminal. `script` (util-linux) gives the tool one.

use std::{fs, io::Write as _, net::Shutdown, process::Command};

use crate::{
    skip::skip,
    support::{SECRET, Scripted, TestBroker, message, read_frame},
};

/// The exit code, and what a person would have seen; nothing when there is no `script`.
fn on_a_terminal(arguments: &str) -> Option<(Option<i32>, String)> {
    on_a_terminal_with(&[], arguments)
}

fn on_a_terminal_with(variables: &[(&str, &str)], arguments: &str) -> Option<(Option<i32>, String)> {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("{} {arguments}", env!("CARGO_BIN_EXE_hpfeeds"))]);
    script.arg("/dev/null").env("HPFEEDS_SECRET", SECRET).env("TERM", "xterm").stdin(std::process::Stdio::null());
    script.env_remove("NO_COLOR").envs(variables.iter().copied());
    match script.output() {
        Ok(output) => Some((output.status.code(), String::from_utf8(output.stdout).unwrap())),
        Err(cause) => {
            skip(&format!("cannot run script (util-linux): {cause}"));
            None
        }
    }
}

#[test]
fn sendfile_shows_a_bar_and_says_that_it_is_done() {
    let broker = TestBroker::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, vec![b'x'; 300_000]).unwrap();
    let arguments = format!("sendfile -p {} -i sensor -c files -c events {}", broker.port(), path.display());
    let Some((code, seen)) = on_a_terminal(&arguments) else { return };
    assert_eq!(code, Some(0), "{seen:?}");
    assert!(seen.contains("the broker has read 2 messages, 585.94 KiB"), "{seen:?}");
}

#[test]
fn raw_payloads_do_not_go_to_a_terminal() {
    let Some((code, seen)) = on_a_terminal("subscribe --format raw -i sensor -c events") else { return };
    assert_eq!(code, Some(2));
    assert!(seen.contains("--format raw does not print to a terminal"), "{seen:?}");
}

#[test]
fn json_is_laid_out_on_a_terminal_with_colours_unless_they_are_unwanted() {
    let payload = "{\"k\u{9b}\": [1, \"\u{202e}x\\u001b\", null]}";
    let safe = "{\n  \"k\\u009b\": [\n    1,\n    \"\\u202ex\\u001b\",\n    null\n  ]\n}";
    let painted = safe
        .replace("\"k\\u009b\"", "\u{1b}[36m\"k\\u009b\"\u{1b}[0m")
        .replace("1,\n", "\u{1b}[33m1\u{1b}[0m,\n")
        .replace("\"\\u202ex\\u001b\"", "\u{1b}[32m\"\\u202ex\\u001b\"\u{1b}[0m")
        .replace("null", "\u{1b}[33mnull\u{1b}[0m");
    for (variables, format, expected) in [
        (&[][..], "", &*painted),
        (&[("NO_COLOR", "1")], "", safe),
        (&[("TERM", "dumb")], "", safe),
        (&[], "--format line", "{\"k\\u{9b}\": [1, \"\\u{202e}x\\u001b\", null]}"),
    ] {
        let broker = Scripted::authenticated(1, move |_, stream| {
            read_frame(stream).unwrap();
            stream.write_all(&message(payload.as_bytes())).unwrap();
            while read_frame(stream).is_some() {}
            stream.shutdown(Shutdown::Both).unwrap();
        });
        let arguments = format!("subscribe -p {} -i sensor events --count 1 {format}", broker.port());
        let Some((code, seen)) = on_a_terminal_with(variables, &arguments) else { return };
        assert_eq!(code, Some(0), "{seen:?}");
        let seen = seen.replace("\r\n", "\n");
        assert!(seen.contains(&format!("[events] i: {expected}\n")), "{seen:?}\n{expected:?}");
        broker.done();
    }
}

#[test]
fn publish_says_that_it_reads_the_terminal() {
    let broker = TestBroker::start();
    // The terminal of `script` without input is at its end at once.
    let arguments = format!("publish -p {} -i sensor -c events", broker.port());
    let Some((code, seen)) = on_a_terminal(&arguments) else { return };
    assert_eq!(code, Some(0), "{seen:?}");
    assert!(seen.contains("Ctrl-D ends it"), "{seen:?}");
}

/// A run of this test program in which the first test of a terminal cannot be run.
#[test]
fn a_test_that_cannot_be_run_fails_where_all_are_required() {
    for (required, passes) in [(None, true), (Some("1"), false)] {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.args(["--exact", "terminal::raw_payloads_do_not_go_to_a_terminal", "--nocapture"]);
        // There is no `script`.
        tests.env("PATH", "/nonexistent").env_remove("HPFEEDS_TEST_REQUIRE");
        tests.envs(required.map(|value| ("HPFEEDS_TEST_REQUIRE", value)));
        let output = tests.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), passes, "{stderr}");
        let says = if passes { "skipped: cannot run script" } else { "HPFEEDS_TEST_REQUIRE lets no test be skipped" };
        assert!(stderr.contains(says), "{stderr}");
    }
}
