//! One answer as text or JSON, its exit code, and what is asked for.

use std::net::TcpStream;

use super::{Dashboard, SNAPSHOT, TOKEN, outcome, private_file, server::respond, top, top_of};

fn dashboard() -> Dashboard {
    Dashboard::of("200 OK", "application/json", SNAPSHOT)
}

/// The printed text, with `PORT` in place of the port.
fn printed(dashboard: &Dashboard, args: &[&str]) -> String {
    let (code, stdout, stderr) = outcome(&mut top_of(dashboard, args));
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    stdout.replace(&dashboard.port().to_string(), "PORT")
}

#[test]
fn a_screen_of_text_is_printed_where_there_is_no_terminal() {
    let dashboard = dashboard();
    let text = printed(&dashboard, &[]);
    assert_eq!(text, SENSORS);
    assert_eq!(dashboard.paths(), ["GET /api/v1/snapshot?list=sensors&limit=15 HTTP/1.1"]);
    let head = dashboard.requests.lock().unwrap()[0].clone();
    for header in
        ["host: 127.0.0.1:".to_owned(), format!("authorization: bearer {TOKEN}"), "accept: application/json".into()]
    {
        assert!(head.iter().any(|line| line.starts_with(&header)), "{header} in {head:?}");
    }
}

const SENSORS: &str = include_str!("screens/once.txt");

#[test]
fn refused_clients_stand_above_the_command_that_mends_it() {
    assert_eq!(printed(&dashboard(), &["--once", "--show", "refused"]), REFUSED);
}

const REFUSED: &str = include_str!("screens/refused-once.txt");

#[test]
fn the_broker_filters_sorts_and_pages() {
    let dashboard = dashboard();
    let args = ["--once", "--state", "gone,silent", "--filter", "a b&c", "--sort", "-since", "--limit", "3"];
    printed(&dashboard, &args);
    let expected = "GET /api/v1/snapshot?list=sensors&limit=3&q=a%20b%26c&state=gone,silent&sort=-since HTTP/1.1";
    assert_eq!(dashboard.paths(), [expected]);
}

#[test]
fn json_is_the_answer_with_nothing_that_a_terminal_acts_on() {
    let raw = SNAPSHOT.replace("\\u202e", "\u{202e}").replace("\\u009b", "\u{9b}").replace("\\u200b", "\u{200b}");
    assert_ne!(raw, SNAPSHOT);
    let dashboard = Dashboard::of("200 OK", "application/json; charset=utf-8", raw);
    let text = printed(&dashboard, &["--json"]);
    assert!(text.ends_with("}\n") && !text.trim_end().contains(|char: char| char.is_control() || char == '\u{202e}'));
    let [printed, sent] = [&text, SNAPSHOT].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    assert_eq!(printed, sent, "also what this tool does not know");
    let lists = "sensors,consumers,channels,incidents,mailboxes";
    assert_eq!(dashboard.paths(), [format!("GET /api/v1/snapshot?list={lists}&limit=1000 HTTP/1.1")]);
}

#[test]
fn strict_ends_with_1_when_a_sensor_is_in_trouble() {
    let dashboard_of = |text: String| Dashboard::of("200 OK", "application/json", text);
    for (args, shown) in [(&["--strict"][..], "sensor-17"), (&["--strict", "--json"], "\"sensor-17\"")] {
        let (code, stdout, stderr) = outcome(&mut top_of(&dashboard(), args));
        assert_eq!((code, &*stderr), (Some(1), "hpfeeds: 4 sensors gone, silent or flooding\n"));
        assert!(stdout.contains(shown));
    }
    let calm = SNAPSHOT.replace("\"gone\": 2", "\"gone\": 0").replace("\"silent\": 1", "\"silent\": 0");
    let calm = calm.replace("\"flood\": 1", "\"flood\": 0");
    let (code, _, stderr) = outcome(&mut top_of(&dashboard_of(calm), &["--strict"]));
    assert_eq!((code, &*stderr), (Some(0), ""), "never and learning are no trouble");
}

#[test]
fn the_token_comes_from_a_file_the_address_or_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = private_file(&folder, &format!("view x\ntail {TOKEN}\n"));
    let file = file.to_str().unwrap();
    let wanted = format!("authorization: bearer {TOKEN}");
    let dashboard = Dashboard::start(move |head, stream| {
        let is_known = head.contains(&wanted);
        respond(stream, if is_known { "200 OK" } else { "401 Unauthorized" }, "application/json", SNAPSHOT)
    });
    let (plain, with_token) = (dashboard.url(), format!("{}/#token={TOKEN}", dashboard.url()));
    for (variable, args) in [
        (None, &["--url", &plain, "--token-file", file][..]),
        (None, &["--url", &with_token]),
        (Some(("HPFEEDS_TOP_URL", &with_token)), &[]),
        // The command line before the environment.
        (Some(("HPFEEDS_TOP_URL", &"http://192.0.2.1/#token=x".to_owned())), &["--url", &with_token]),
    ] {
        let mut command = top(args);
        command.env_remove("HPFEEDS_TOP_TOKEN").envs(variable);
        let (code, _, stderr) = outcome(&mut command);
        assert_eq!((code, &*stderr), (Some(0), ""), "{args:?} {variable:?}");
    }
    let mut command = top(&["--url", &plain, "--token-file", file]);
    command.env("HPFEEDS_TOP_TOKEN", "wrong");
    assert_eq!(outcome(&mut command).0, Some(0), "an option counts more than a variable");
}

#[test]
fn an_old_broker_and_an_empty_one_are_shown() {
    let dashboard = Dashboard::of("200 OK", "application/json", r#"{"at": 61000, "started": 1}"#);
    for (show, expected) in [("sensors", "sensors: there are none\n"), ("mailboxes", "mailboxes: there are none\n")] {
        let text = printed(&dashboard, &["--show", show]);
        assert!(
            text.starts_with("hpfeeds top | http://127.0.0.1:PORT | up 60 s\n") && text.ends_with(expected),
            "{text}"
        );
    }
}

#[test]
fn a_connection_that_the_server_closes_after_each_answer_is_no_fault() {
    let dashboard = Dashboard::start(|_, stream: &mut TcpStream| {
        respond(stream, "200 OK", "application/json", SNAPSHOT);
        false
    });
    printed(&dashboard, &[]);
}
