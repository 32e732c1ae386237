//! `hpfeeds-broker keys`, as an operator runs it.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use tempfile::TempDir;

use crate::skip::skip;

/// A folder and a store in it, or a database elsewhere.
struct Place {
    folder: TempDir,
    auth: String,
}

impl Place {
    fn new(auth: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), auth: auth.to_owned() }
    }

    fn output(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
        command.arg("keys").args(arguments).args(["--auth", &self.auth]).current_dir(self.folder.path());
        // Where `scripts/coverage` wants it.
        command.env_clear().envs(env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It need not read it.
        drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
        child.wait_with_output().unwrap()
    }

    /// The stdout of a command that succeeds.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{}: {arguments:?}", self.auth);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line that it says when it fails with this code.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{}: {arguments:?}: {stderr}", self.auth);
        assert!(stderr.starts_with("hpfeeds-broker: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        stderr
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

/// One of each kind; the servers only when `scripts/services` has started them.
fn places() -> Vec<Place> {
    let mut places: Vec<_> = ["sqlite", "users.json", "keys.sqlite3", "database+sqlite:///keys"].map(Place::new).into();
    for variable in ["HPFEEDS_TEST_POSTGRES", "HPFEEDS_TEST_MYSQL"] {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let Ok(server) = env::var(variable) else {
            skip(&format!("{variable} is not set (scripts/services run -- cargo test sets it)"));
            continue;
        };
        let name = format!("keys_{}_{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(create(&server, &name));
        places.push(Place::new(&format!("database+{}/{name}", server.rsplit_once('/').unwrap().0)));
    }
    places
}

async fn create(server: &str, name: &str) {
    use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};
    let sql = format!("CREATE DATABASE {name}");
    if server.starts_with("mysql") {
        MySqlConnection::connect(server).await.unwrap().execute(sql.as_str()).await.unwrap();
    } else {
        PgConnection::connect(server).await.unwrap().execute(sql.as_str()).await.unwrap();
    }
}

#[test]
fn keys_are_added_changed_listed_and_removed() {
    for place in places() {
        let has_owners = !place.auth.starts_with("database+");
        let secret = place.ok(&["add", "bob", "--publish", "a", "--publish", "b.*", "--subscribe", "*"]);
        let secret = secret.strip_suffix('\n').unwrap();
        assert_eq!(secret.len(), 32);
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{secret}");
        assert!(place.fails(1, &["add", "bob"]).contains("ident \"bob\" has a key already"));
        assert_eq!(place.ok(&["add", "eve", "--secret", "hunter2"]), "");
        if has_owners {
            assert_eq!(place.ok(&["set", "eve", "--owner", "team"]), "");
        } else {
            assert!(place.fails(1, &["set", "eve", "--owner", "team"]).contains("this store keeps no owners"));
        }
        let owner = if has_owners { "team" } else { "eve" };
        let table = place.ok(&["list"]);
        let rows: Vec<Vec<_>> =
            table.lines().map(|line| line.split("  ").filter(|s| !s.is_empty()).collect()).collect();
        let trimmed: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| cell.trim()).collect()).collect();
        assert_eq!(trimmed[1], ["bob", "bob", "a, b.*", "*", "enabled"], "{table}");
        assert_eq!(trimmed[2], ["eve", owner, "-", "-", "enabled"], "{table}");
        let json: serde_json::Value = serde_json::from_str(&place.ok(&["list", "--json"])).unwrap();
        assert_eq!(
            json[0],
            serde_json::json!({
                "ident": "bob", "owner": "bob", "publish": ["a", "b.*"], "subscribe": ["*"], "state": "enabled"
            })
        );
        assert!(!table.contains("hunter2") && !json.to_string().contains("hunter2"));
        assert!(!place.ok(&["show", "eve"]).contains("hunter2"));
        assert!(place.ok(&["show", "eve", "--secret"]).contains("secret:    hunter2\n"));
        // Fields that are not given stay.
        place.ok(&["set", "bob", "--publish", "c", "--no-subscribe"]);
        let shown = place.ok(&["show", "bob", "--secret"]);
        let expected = format!("ident:     bob\nowner:     bob\nsecret:    {secret}\npublish:   c\nsubscribe: -\n");
        let expected = expected + "state:     enabled\n";
        assert_eq!(shown, expected);
        let new = place.ok(&["set", "bob", "--new-secret"]);
        assert_ne!(new.trim_end(), secret);
        assert!(place.ok(&["show", "bob", "--secret"]).contains(new.trim_end()));
        let stdin = place.output(&["set", "bob", "--secret-stdin"], "from stdin\r\n");
        assert!(stdin.status.success());
        assert!(place.ok(&["show", "bob", "--secret"]).contains("secret:    from stdin\n"));
        assert_eq!(place.ok(&["remove", "bob"]), "");
        for arguments in [&["remove", "bob"][..], &["show", "bob"], &["set", "bob", "--publish", "a"]] {
            assert!(place.fails(1, arguments).contains("ident \"bob\" has no key"));
        }
    }
}

#[test]
fn a_list_is_added_to_and_taken_from() {
    for place in places() {
        place.ok(&["add", "bob", "--publish", "a", "--publish", "b.*", "--subscribe", "x"]);
        place.ok(&["set", "bob", "--add-publish", "c", "--add-publish", "a", "--drop-publish", "b.*"]);
        place.ok(&["set", "bob", "--add-subscribe", "y", "--drop-subscribe", "x"]);
        let shown = place.ok(&["show", "bob"]);
        assert!(shown.contains("publish:   a, c\nsubscribe: y\n"), "{}: {shown}", place.auth);
        // It must not be believed to be gone.
        let stderr = place.fails(1, &["set", "bob", "--drop-publish", "b.x", "--add-publish", "d"]);
        assert!(stderr.contains("\"b.x\" is not in the list of what it may publish to"), "{stderr}");
        assert_eq!(place.ok(&["show", "bob"]), shown);
        assert!(place.fails(2, &["set", "bob", "--add-publish", "d", "--publish", "e"]).contains("cannot be used"));
        assert!(place.fails(1, &["set", "eve", "--add-publish", "d"]).contains("ident \"eve\" has no key"));
        let long = "x".repeat(256);
        assert!(place.fails(1, &["set", "bob", "--add-subscribe", &long]).contains("is 256 bytes long"));
    }
}

/// The secret in the place where every broker looks, the Python one too.
fn stored(place: &Place) -> Option<String> {
    let json = fs::read(place.file("users.json")).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    Some(value["bob"]["secret"].as_str().unwrap().to_owned())
}

#[test]
fn a_disabled_key_keeps_its_secret_where_no_broker_looks() {
    for place in places() {
        place.ok(&["add", "bob", "--secret", "hunter2", "--publish", "a"]);
        place.ok(&["disable", "bob"]);
        place.ok(&["disable", "bob"]);
        assert!(stored(&place).is_none_or(|secret| secret.starts_with("disabled-") && secret.len() > 32));
        let shown = place.ok(&["show", "bob", "--secret"]);
        assert!(shown.contains("secret:    hunter2\n") && shown.ends_with("state:     disabled\n"), "{shown}");
        assert!(place.ok(&["list"]).lines().nth(1).unwrap().ends_with("disabled"));
        // It stays so in another store.
        let other = Place::new("copy.json");
        other.output(&["import", "-"], &place.ok(&["export"]));
        assert!(other.ok(&["show", "bob", "--secret"]).ends_with("state:     disabled\n"));
        assert!(place.output(&["import", "--replace", "-"], &other.ok(&["export"])).status.success());
        // A new secret and other channels do not enable it.
        place.ok(&["set", "bob", "--secret", "hunter3", "--add-publish", "b"]);
        assert!(place.ok(&["show", "bob"]).ends_with("state:     disabled\n"));
        place.ok(&["enable", "bob"]);
        let shown = place.ok(&["show", "bob", "--secret"]);
        assert!(shown.contains("secret:    hunter3\npublish:   a, b\n") && shown.ends_with("enabled\n"), "{shown}");
        assert!(stored(&place).is_none_or(|secret| secret == "hunter3"));
        // Nothing of it is left for the next key of that name.
        place.ok(&["disable", "bob"]);
        place.ok(&["remove", "bob"]);
        place.ok(&["add", "bob", "--secret", "s"]);
        assert!(place.ok(&["show", "bob"]).ends_with("state:     enabled\n"));
        assert!(place.fails(1, &["disable", "eve"]).contains("ident \"eve\" has no key"));
    }
}

#[test]
fn an_old_secret_counts_for_its_time_of_grace() {
    for place in places() {
        place.ok(&["add", "bob", "--secret", "one"]);
        place.ok(&["set", "bob", "--secret", "two", "--grace", "1d"]);
        let shown = place.ok(&["show", "bob", "--secret"]);
        assert!(shown.contains("secret:    two\n"), "{shown}");
        assert!(shown.ends_with("state:     old secret for another 23 h\n"), "{shown}");
        assert!(!shown.contains("one"), "{shown}");
        place.ok(&["set", "bob", "--new-secret", "--grace", "7d"]);
        assert!(place.ok(&["show", "bob"]).ends_with("state:     2 old secrets for another 6 days\n"));
        // Other changes leave it alone, and it goes along to another store.
        place.ok(&["set", "bob", "--add-publish", "a"]);
        let other = Place::new("copy.json");
        other.output(&["import", "-"], &place.ok(&["export"]));
        assert!(other.ok(&["show", "bob"]).ends_with("state:     2 old secrets for another 6 days\n"));
        assert!(place.output(&["import", "--replace", "-"], &other.ok(&["export"])).status.success());
        assert!(place.ok(&["show", "bob"]).ends_with("state:     2 old secrets for another 6 days\n"));
        for _ in 2..8 {
            place.ok(&["set", "bob", "--new-secret", "--grace", "7d"]);
        }
        assert!(place.fails(1, &["set", "bob", "--new-secret", "--grace", "7d"]).contains("8 old secrets still count"));
        place.ok(&["set", "bob", "--grace", "0"]);
        assert!(place.ok(&["show", "bob"]).ends_with("state:     enabled\n"));
        // Without a time, none counts: it may have leaked.
        place.ok(&["set", "bob", "--secret", "three", "--grace", "1h"]);
        place.ok(&["set", "bob", "--secret", "four"]);
        assert!(place.ok(&["show", "bob"]).ends_with("state:     enabled\n"));
        assert!(place.fails(1, &["set", "bob", "--grace", "1h"]).contains("a time of grace needs a new secret"));
        assert!(place.fails(2, &["set", "bob", "--grace", "soon"]).contains("not a time such as 3600"));
    }
}

#[test]
fn keys_move_from_every_store_to_every_other() {
    let text = r#"{"o'hara": {"owner": "o'hara", "secret": "s\"1", "pubchans": ["a", "b.*"], "subchans": []},
        "Bücherei": {"owner": "Bücherei", "secret": "ß", "pubchans": [], "subchans": ["*"]}}"#;
    let expected: serde_json::Value = serde_json::from_str(text).unwrap();
    let places = places();
    let mut before = text.to_owned();
    for place in &places {
        let output = place.output(&["import", "-"], &before);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "imported 2 keys\n", "{}", place.auth);
        before = place.ok(&["export"]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&before).unwrap(), expected, "{}", place.auth);
    }
    for place in &places {
        // One clash, or one fault: nothing is imported.
        let more = r#"{"a": {"owner": "a", "secret": "s", "pubchans": [], "subchans": []},
            "o'hara": {"owner": "o'hara", "secret": "other", "pubchans": [], "subchans": []}}"#;
        fs::write(place.file("more"), more).unwrap();
        assert!(place.fails(1, &["import", "more"]).contains("ident \"o'hara\" has a key already"));
        fs::write(place.file("bad"), more.replace(r#""owner": "a", "#, "")).unwrap();
        assert!(place.fails(1, &["import", "bad"]).contains("bad: user \"a\": \"owner\" is missing"));
        assert!(place.fails(1, &["show", "a"]).contains("no key"));
        assert!(place.output(&["import", "--replace", "more"], "").status.success());
        assert!(place.ok(&["show", "o'hara", "--secret"]).contains("secret:    other\n"));
        assert_eq!(place.ok(&["list"]).lines().count(), 1 + 3);
        // PostgreSQL cannot hold this, and says so without a name.
        fs::write(place.file("zero"), more.replace("\"a\"", r#""a\u0000b""#).replace("o'hara", "p")).unwrap();
        if place.auth.contains("postgresql") {
            let stderr = place.fails(1, &["import", "zero"]);
            assert!(stderr.contains("table auth_keys: ident \"a\\0b\" holds a zero byte"), "{stderr}");
        }
        // To a file that others cannot read.
        place.ok(&["export", "-o", "out"]);
        assert_eq!(fs::metadata(place.file("out")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(place.fails(1, &["export", "-o", "out"]).contains("out: File exists"));
    }
}

/// Two good keys and one between them that a hand has spoilt.
fn spoilt() -> Vec<Place> {
    let json = Place::new("users.json");
    let entry = |owner: &str| format!(r#"{{{owner}"secret": "hunter2", "pubchans": ["c*"], "subchans": []}}"#);
    let (good, bad) = (entry(r#""owner": "o", "#), entry(""));
    fs::write(json.file("users.json"), format!(r#"{{"alice": {good}, "bob": {bad}, "eve": {good}}}"#)).unwrap();
    let sqlite = Place::new("sqlite");
    for ident in ["alice", "bob", "eve"] {
        sqlite.output(&["add", ident, "--secret", "hunter2", "--publish", "c*"], "");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use sqlx::{Connection as _, Executor as _};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(sqlite.file("sqlite.db"));
        let mut file = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        file.execute("UPDATE authkeys SET pubchans = 'a,b' WHERE ident = 'bob'").await.unwrap();
        file.close().await.unwrap();
    });
    vec![json, sqlite]
}

#[test]
fn one_key_that_cannot_be_read_hides_no_other() {
    for place in spoilt() {
        for arguments in [&["list"][..], &["list", "--json"], &["export"], &["export", "-o", "out"]] {
            let output = place.output(arguments, "");
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
            let text = if arguments.contains(&"out") { fs::read(place.file("out")).unwrap() } else { output.stdout };
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("alice") && text.contains("eve") && !text.contains("bob"), "{arguments:?}: {text}");
            let faults: Vec<_> = stderr.lines().filter(|line| line.starts_with("not read: ")).collect();
            assert!(faults.len() == 1 && faults[0].contains("\"bob\""), "{stderr}");
            assert!(stderr.ends_with("hpfeeds-broker: 1 of 3 keys cannot be read and are left out\n"), "{stderr}");
            assert!(!stderr.contains("hunter2"), "{stderr}");
        }
        assert!(place.ok(&["show", "eve"]).contains("publish:   c*"));
        assert!(place.fails(1, &["show", "bob"]).contains("\"bob\""));
    }
}

#[test]
fn a_star_that_stands_for_itself_is_noted() {
    let place = Place::new("users.json");
    let text = r#"{"x": {"owner": "", "secret": "s", "pubchans": ["*.sessions"], "subchans": []}}"#;
    for (arguments, stdin) in [
        (&["add", "bob", "--secret", "s", "--publish", "*.sessions", "--publish", "a.*"][..], ""),
        (&["set", "bob", "--subscribe", "*.sessions"], ""),
        (&["list"], ""),
        (&["import", "-"], text),
    ] {
        let output = place.output(arguments, stdin);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        let notes: Vec<_> = stderr.lines().filter(|line| line.starts_with("note: user ")).collect();
        assert_eq!(notes.len(), 1 + usize::from(arguments[0] == "list"), "{arguments:?}: {stderr}");
        assert!(notes[0].contains("\"*.sessions\", which is the name of one channel: a pattern is * or ends in .*"));
    }
}

#[test]
fn a_secret_that_everybody_knows_reaches_no_store() {
    for place in places() {
        fs::write(place.file("in"), r#"{"x": {"owner": "x", "secret": "", "pubchans": [], "subchans": []}}"#).unwrap();
        assert!(place.fails(1, &["import", "in"]).contains("ident \"x\": the secret is empty"));
        assert!(place.fails(1, &["add", "x", "--secret="]).contains("the secret is empty"));
    }
}

#[test]
fn half_an_export_is_not_left_behind() {
    let place = Place::new("users.json");
    place.ok(&["add", "bob", "--owner", &"o".repeat(2000), "--secret", "s"]);
    // One block of 512 or 1024 bytes is all that a file may have.
    let script = format!("trap '' XFSZ; ulimit -f 1; exec {:?} \"$@\"", env!("CARGO_BIN_EXE_hpfeeds-broker"));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh", "keys", "export", "--auth", "users.json", "-o", "out"]);
    // The counters of `scripts/coverage` would not fit into a block either.
    command.env("LLVM_PROFILE_FILE", "/dev/null");
    let output = command.current_dir(place.folder.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("hpfeeds-broker: out: File too large") && stderr.lines().count() == 1, "{stderr}");
    assert!(!place.file("out").exists());
}

#[test]
fn a_json_file_keeps_its_mode_its_owner_and_what_nobody_knows() {
    let place = Place::new("link.json");
    let file = place.file("users.json");
    std::os::unix::fs::symlink("users.json", place.file("link.json")).unwrap();
    fs::write(
        &file,
        r#"{"bob": {"owner": "o", "secret": "s", "pubchans": [], "subchans": [], "note": "third floor"}}"#,
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file away.
    let _ = std::os::unix::fs::chown(&file, Some(12345), Some(12345));
    let before = fs::metadata(&file).unwrap();
    place.ok(&["set", "bob", "--publish", "a"]);
    let after = fs::metadata(&file).unwrap();
    assert_ne!(before.ino(), after.ino(), "it was not replaced");
    assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));
    assert!(fs::symlink_metadata(place.file("link.json")).unwrap().is_symlink());
    let value: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&value["bob"]["note"], &value["bob"]["pubchans"][0]), (&"third floor".into(), &"a".into()));
    let left: Vec<_> = fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // A file that no broker could read is not touched.
    fs::write(&file, "{\"bob\": 3}").unwrap();
    assert!(place.fails(1, &["add", "eve"]).contains("users.json: user \"bob\": must be an object"));
    assert_eq!(fs::read(&file).unwrap(), b"{\"bob\": 3}");
}

#[test]
fn a_new_store_is_for_its_owner_alone() {
    for (auth, file) in [("users.json", "users.json"), ("sqlite", "sqlite.db"), ("database+sqlite:///k", "k")] {
        let place = Place::new(auth);
        for arguments in [&["list"][..], &["remove", "bob"], &["set", "bob", "--new-secret"], &["export"]] {
            place.fails(1, arguments);
            assert!(!Path::exists(&place.file(file)), "{arguments:?} has created {file}");
        }
        place.ok(&["add", "bob", "--secret", "s"]);
        assert_eq!(fs::metadata(place.file(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn an_error_is_one_line() {
    let place = Place::new("users.json");
    let long = "x".repeat(256);
    let cases: [(i32, &[&str], &str); 8] = [
        (2, &[], "requires a subcommand"),
        (2, &["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (2, &["add"], "<IDENT>"),
        (2, &["add", "bob", "--secret", "hunter2", "--secret-stdin"], "cannot be used with"),
        (1, &["add", &long], "the ident is 256 bytes long: at most 255 are allowed"),
        (1, &["add", "bob", "--publish", &long], "a channel in \"publish\" is 256 bytes long"),
        (1, &["add", "bob", "--secret-stdin"], "the secret on stdin is empty"),
        (1, &["set", "bob"], "nothing to change"),
    ];
    for (code, arguments, expected) in cases {
        let stderr = place.fails(code, arguments);
        assert!(stderr.contains(expected) && !stderr.contains("hunter2"), "{arguments:?}: {stderr}");
    }
    assert!(Place::new("env").fails(1, &["list"]).contains("keys in the environment"));
    // Nothing listens at port 1.
    let stderr = Place::new("database+postgresql://u:hunter2@127.0.0.1:1/d").fails(1, &["list"]);
    assert!(stderr.contains("postgresql://127.0.0.1:1/d: cannot reach the database: Connection refused"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

/// MySQL says that somebody else has the lock by an answer, not by an error.
#[test]
fn keys_without_the_lock_changes_nothing() {
    use sqlx::{Connection as _, Executor as _, MySqlConnection};
    let Some(place) = places().into_iter().find(|place| place.auth.contains("mysql")) else {
        return;
    };
    place.ok(&["add", "bob", "--secret", "s"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut other = runtime.block_on(MySqlConnection::connect(place.auth.strip_prefix("database+").unwrap())).unwrap();
    runtime.block_on(other.execute("DO GET_LOCK(CONCAT(DATABASE(), '.auth_keys'), 0)")).unwrap();
    let stderr = place.fails(1, &["add", "eve"]);
    assert!(stderr.contains("table auth_keys: another program changes its keys"), "{stderr}");
    assert_eq!(place.ok(&["list"]).lines().count(), 1 + 1);
}
