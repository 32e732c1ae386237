//! `--config` and `--check-config`.

use std::{fs, net::TcpListener};

use super::{Running, command, file, run, support::Peer, within};

/// Runs it with a file to its end: exit code, stdout and stderr.
async fn check(text: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let file = file(".toml", text);
    let arguments = [&["--config", file.to_str().unwrap()], more].concat();
    let output = within(command(&arguments).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(file.to_str().unwrap(), "broker.toml");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_file_holds_flags_and_the_command_line_wins() {
    let keys = file(".json", r#"{"bob": {"owner": "o", "secret": "s", "pubchans": [], "subchans": ["private"]}}"#);
    let text = format!(
        "# ours\nname = \"from-the-file\"\nmax_connections = 1\nauth = [\"env\", {keys:?}]\n\
         endpoint = [\"tcp:interface=127.0.0.1:port=0\", \"tcp:interface=127.0.0.1:port=0\"]\nslow-deadline = 0.5\n"
    );
    let config = file(".toml", text);
    let config = config.to_str().unwrap();
    let mut both = Running::start(command(&["--config", config])).await;
    let second = within(both.stdout.next_line()).await.unwrap().expect("a second endpoint");
    assert!(second.starts_with("listening on 127.0.0.1:"), "{second}");
    let peer = Peer::connect(both.addr).await;
    assert_eq!(peer.name, "from-the-file hpx/1");
    // The only connection that there may be.
    let _next = Peer::connect(both.addr).await;
    peer.expect_error("Too many connections").await;
    both.stop("-TERM").await;

    let endpoint = "tcp:interface=127.0.0.1:port=0";
    let arguments = ["--config", config, "--name=x", "-e", endpoint, "--max-connections", "2", "--auth=env", "--debug"];
    let mut command = command(&arguments);
    command.env("HPFEEDS_EVE_SECRET", "s");
    let running = Running::start(command).await;
    let running_addr = running.addr;
    let eve = Peer::login(running.addr, "eve", "s").await;
    assert_eq!(eve.name, "x hpx/1");
    // The list of the command line replaces that of the file.
    Peer::login(running.addr, "bob", "s").await.expect_error("Authentication failed for bob").await;
    let (_, stderr) = running.stop("-TERM").await;
    assert!(stderr.contains(&format!("endpoints=[{running_addr}]")), "{stderr}");
}

#[tokio::test]
async fn a_flag_of_the_command_line_takes_the_place_of_what_it_excludes() {
    let text = "bind = \"192.0.2.1:1\"\nendpoint = \"tcp:port=1\"\nauth = \"env\"\nlog-level = \"error\"\n";
    let (code, stdout, stderr) = check(text, &["--dev", "--port", "7", "--debug", "--check-config"]).await;
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout, "configuration is valid\nwould listen on 127.0.0.1:7 (tcp:interface=127.0.0.1:port=7)\n");
}

#[tokio::test]
async fn each_fault_in_the_file_is_one_line_that_names_the_place() {
    let cases = [
        ("dev = true\nmax-conections = 1", ":2: max-conections: unknown key: did you mean max-connections?"),
        ("a = 1", ":1: a: unknown key"),
        ("\n\n[limits]\nmax-connections = 1", ":3: limits: sections are not used here"),
        ("dev = true\nmax-connections = [1]", ":2: max-connections: takes one N, not a list"),
        ("max-connections = true", ":1: max-connections: takes one N, not a boolean"),
        ("dev = \"yes\"", ":1: dev: takes true or false, not a string"),
        ("auth = [\n  \"env\",\n  1979-05-27,\n]", ":3: auth: takes a STORE or a list of them, not a date"),
        ("auth = [[\"env\"]]", ":1: auth: takes a STORE or a list of them, not a list"),
        ("max-connections = 0x10", ":1: max-connections: write the number with decimal digits"),
        ("max-connections = -1", ":1: invalid value '-1' for '--max-connections <N>'"),
        ("port = 65536", ":1: invalid value '65536' for '--port <PORT>'"),
        ("dev = true\nslow-policy = \"keep\"", "[possible values: disconnect, drop-oldest]"),
        (
            "endpoint = [\n \"tcp:port=1\",\n \"tcp:port=x\"]",
            ":3: invalid value 'tcp:port=x' for '--endpoint <ENDPOINT>'",
        ),
        ("name = \"a\"\nport = 1\nbind = \"127.0.0.1:1\"", ":2: the argument '--port <PORT>' cannot be used with"),
        ("max-connections = 1\nmax_connections = 2", ":2: max_connections: stands in line 1 already"),
        ("name = \"a\"\nname = \"b\"", ":2: duplicate key"),
        ("name = a", ":1: "),
        ("name = \"a\n", ":1: "),
        ("config = \"other.toml\"", ":1: config: belongs on the command line"),
        ("check-config = true", ":1: check-config: belongs on the command line"),
        ("help = true", ":1: help: belongs on the command line"),
    ];
    for (text, expected) in cases {
        for more in [&["--dev"][..], &["--check-config"]] {
            let (code, stdout, stderr) = check(text, more).await;
            assert_eq!((code, &*stdout, stderr.lines().count()), (Some(2), "", 1), "{text:?}: {stderr}");
            let named = stderr.starts_with("hpfeeds-broker: broker.toml:");
            assert!(named && stderr.contains(expected), "{text:?}: {stderr}");
        }
    }
    let (code, stderr) = run(&["--config", "/nonexistent/broker.toml"]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("hpfeeds-broker: /nonexistent/broker.toml: No such file"), "{stderr}");
    let binary = file(".toml", b"\xff");
    let (code, stderr) = run(&["--config", binary.to_str().unwrap()]).await;
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
}

#[tokio::test]
async fn a_password_in_an_address_is_not_repeated() {
    let (code, _, stderr) = check("auth = \"data+postgresql://u:hunter2@h/d\"", &[]).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains(":1: ") && !stderr.contains("hunter2"), "{stderr}");
}

#[tokio::test]
async fn a_file_that_everybody_can_read_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["users.json", "keys.db"] {
        let path = folder.path().join(name);
        assert_eq!(run(&["keys", "add", "bob", "--auth", path.to_str().unwrap()]).await, (Some(0), String::new()));
        for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            let (code, stderr) = run(&["--bind=127.0.0.1:0", "--auth", path.to_str().unwrap(), "--check-config"]).await;
            assert_eq!(code, Some(0), "{stderr}");
            let named =
                stderr.contains("everybody on this machine can read") && stderr.contains(path.to_str().unwrap());
            assert_eq!(named, warned, "{mode:o}: {stderr}");
        }
    }
}

#[tokio::test]
async fn checking_starts_nothing() {
    // It works beside a broker that runs.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.set_nonblocking(true).unwrap();
    let addr = taken.local_addr().unwrap();
    let keys = file(".json", "{}");
    let text = format!("bind = \"{addr}\"\nauth = {keys:?}\n");
    let (code, stdout, stderr) = check(&text, &["--check-config"]).await;
    let endpoint = format!("tcp:interface=127.0.0.1:port={}", addr.port());
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout, format!("configuration is valid\nwould listen on {addr} ({endpoint})\n"));
    let (code, stdout, _) = check(&text, &["--check-config", "--exporter", &addr.to_string()]).await;
    assert_eq!((code, stdout.lines().last()), (Some(0), Some(&*format!("metrics would be at http://{addr}/metrics"))));
    assert!(taken.accept().is_err(), "nobody connects");

    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("keys.db");
    let (code, _, stderr) = check(&format!("bind = \"{addr}\"\nauth = {database:?}\n"), &["--check-config"]).await;
    assert_eq!((code, &*stderr, database.exists()), (Some(0), "", false));

    fs::write(&keys, "{").unwrap();
    let cases = [
        (text, 1, "EOF while parsing an object at line 1 column 1"),
        ("auth = \"/nonexistent.json\"".to_owned(), 1, "/nonexistent.json: No such file"),
        ("auth = \"/nonexistent/keys.db\"".to_owned(), 1, "/nonexistent/keys.db: cannot create it: entity not found"),
        ("dev = true\nendpoint = \"tcp:interface=127.0.0.1:port=1:device=none\"".to_owned(), 1, "device \"none\""),
        ("dev = true\nendpoint = \"tls:interface=127.0.0.1:port=1:cert=/none.pem\"".to_owned(), 1, "/none.pem"),
        (format!("auth = {database:?}\nendpoint = \"tcp:interface=host.invalid:port=1\""), 1, "\"host.invalid\""),
        ("dev = true\nfloor-rate = 0".to_owned(), 2, "the floor rate is 0"),
        ("dev = true\nbind = \"0.0.0.0:0\"".to_owned(), 2, "loopback interface only"),
    ];
    for (text, expected_code, expected) in cases {
        let (code, stdout, stderr) = check(&text, &["--check-config"]).await;
        assert_eq!((code, &*stdout, stderr.lines().count()), (Some(expected_code), "", 1), "{text}: {stderr}");
        assert!(stderr.starts_with("hpfeeds-broker: ") && stderr.contains(expected), "{text}: {stderr}");
    }
}

/// The rows of a database are read, and a file is, before the broker starts.
#[tokio::test]
async fn a_check_names_each_key_that_may_not_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let rows = r#"('o', 'bad', 's', 'a,b', '[]'), ('o', 'star', 's', '["cowrie*"]', '[]'),
        ('o', 'empty', '', '[]', '[]'), ('o', 'null', null, '[]', '[]')"#;
    let sql = format!(
        "CREATE TABLE authkeys (id integer primary key autoincrement, owner TEXT, ident TEXT, secret TEXT,
            pubchans TEXT, subchans TEXT);
        INSERT INTO authkeys (owner, ident, secret, pubchans, subchans) VALUES {rows}"
    );
    sqlx::raw_sql(&sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let json = file(
        ".json",
        "\u{FEFF}{\"star\": {\"owner\": null, \"secret\": \"\", \"pubchans\": [\"cowrie*\"], \"subchans\": [1]}}",
    );
    let (sqlite, json) = (path.to_str().unwrap(), json.to_str().unwrap());
    for (store, expected) in [(sqlite, &["bad", "star", "empty", "null"][..]), (json, &["star", "star", "star"])] {
        let arguments = ["--auth", store, "--bind", "127.0.0.1:0", "--check-config"];
        let output = within(command(&arguments).output()).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr.matches("a key may not be what").count(), expected.len(), "{stderr}");
        for ident in expected {
            let named = |line: &str| line.contains("WARN") && line.contains(ident) && line.contains(store);
            assert!(stderr.lines().any(named), "{ident}: {stderr}");
        }
    }
    let (code, _, stderr) = check("\u{FEFF}bind = \"127.0.0.1:0\"\nauth = \"env\"\n", &["--check-config"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("there is no key in the environment: HPFEEDS_<IDENT>_SECRET or"), "{stderr}");
    let utf_16 = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs::write(&utf_16, b"\xFF\xFEd\0e\0v\0").unwrap();
    let (path, end) = (utf_16.path().to_str().unwrap(), "is not UTF-8 (but UTF-16, say): save it as UTF-8");
    let output = within(command(&["--config", path]).output()).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains(&format!("{path}: {end}")), "{stderr}");
}
