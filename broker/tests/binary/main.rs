//! The program itself: arguments, files, signals, exit codes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod config;
mod health;
mod logs;
mod mailboxes;
mod maintenance;
#[path = "../../../tests/support/pages.rs"]
mod pages;
#[path = "../support/pki.rs"]
mod pki;
mod python;
mod relay;
#[path = "../support/scrape.rs"]
mod scrape;
mod signals;
#[path = "../../../tests/support/skip.rs"]
mod skip;
#[path = "../support/mod.rs"]
mod support;

use std::{fs, net::SocketAddr, process::Stdio};

use support::{Peer, publish, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    command.args(arguments).env_clear().envs(coverage()).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

/// Where `scripts/coverage` wants to have what it counts.
fn coverage() -> Option<(&'static str, std::ffi::OsString)> {
    Some(("LLVM_PROFILE_FILE", std::env::var_os("LLVM_PROFILE_FILE")?))
}

/// A file of its own, which is removed when this is dropped.
fn file(suffix: &str, text: impl AsRef<[u8]>) -> tempfile::TempPath {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    fs::write(&file, text).unwrap();
    file.into_temp_path()
}

/// Runs it to its end: exit code and stderr.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = within(command(arguments).output()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

async fn kill(signal: &str, pid: u32) {
    let kill = Command::new("/bin/kill").args([signal, &pid.to_string()]).status();
    assert!(within(kill).await.unwrap().success());
}

struct Running {
    child: Child,
    addr: SocketAddr,
    stdout: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = within(stdout.next_line()).await.unwrap().expect("a line");
        let addr = line.strip_prefix("listening on ").expect(&line).parse().unwrap();
        Self { child, addr, stdout }
    }

    async fn signal(&self, signal: &str) {
        kill(signal, self.child.id().unwrap()).await;
    }

    /// Signals it and waits for the end: exit code and stderr.
    async fn stop(self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal).await;
        self.end().await
    }

    /// Waits for the end: exit code and stderr, as far as it was not taken.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            within(pipe.read_to_string(&mut stderr)).await.unwrap();
        }
        (within(self.child.wait()).await.unwrap().code(), stderr)
    }
}

#[tokio::test]
async fn dev_runs_and_says_what_to_type_next() {
    let mut running = Running::start(command(&["--dev", "--port", "0"])).await;
    assert!(running.addr.ip().is_loopback());
    let hpfeeds = format!("hpfeeds --host localhost -p {} -i dev -s dev -c test", running.addr.port());
    let hints = [format!("subscribe with: {hpfeeds} subscribe"), format!("publish with:   {hpfeeds} publish 'hello'")];
    for hint in hints {
        assert_eq!(within(running.stdout.next_line()).await.unwrap(), Some(hint));
    }
    Peer::login(running.addr, "dev", "dev").await.settle().await;
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(r#"connected ident="dev" owner="dev" peer=127.0.0.1:"#), "{stderr}");
    assert!(!stderr.contains('\x1b'), "colours in a file: {stderr}");
}

#[tokio::test]
async fn keys_come_from_the_environment_and_files() {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    fs::write(
        &file,
        r#"{"bob": {"owner": "o", "secret": "hunter2", "pubchans": ["c"], "subchans": ["c", "private"]}}"#,
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = command(&["--bind=127.0.0.1:0", "--auth=env", "--auth", path, "--name", "x", "--debug"]);
    command.env("HPFEEDS_EVE_SECRET", "s3cret").env("HPFEEDS_EVE_PUBCHANS", "c,private");
    let running = Running::start(command).await;
    let mut bob = Peer::login(running.addr, "bob", "hunter2").await;
    bob.send(support::subscribe("bob", "c")).await;
    bob.send(publish("bob", "c", "echo")).await;
    assert_eq!(bob.next().await, Some(publish("bob", "c", "echo")));
    let mut eve = Peer::login(running.addr, "eve", "s3cret").await;
    eve.send(publish("eve", "c", "hello")).await;
    assert_eq!(bob.next().await, Some(publish("eve", "c", "hello")));
    Peer::login(running.addr, "ev\r\ne", "wrong").await.expect_error("Authentication failed for ev\r\ne").await;
    let (code, stderr) = running.stop("-INT").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("hunter2") && !stderr.contains("s3cret"), "{stderr}");
    assert!(stderr.contains(r#"ident="ev\r\ne""#), "{stderr}");
}

#[test]
fn manual_pages_are_there_for_each_subcommand() {
    let subcommands = [
        "completions",
        "drain",
        "health",
        "journal",
        "journal-backup",
        "journal-verify",
        "keys",
        "keys-add",
        "keys-disable",
        "keys-enable",
        "keys-export",
        "keys-import",
        "keys-list",
        "keys-remove",
        "keys-set",
        "keys-show",
        "mailbox",
        "man",
        "relay",
    ];
    let pages = pages::written(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    for subcommand in subcommands {
        assert!(pages.contains(&format!("hpfeeds-broker-{subcommand}.1")), "{subcommand}: {pages:?}");
    }
    assert!(pages.contains(&"hpfeeds-broker.1".to_owned()), "{pages:?}");
}

#[tokio::test]
async fn completions_are_there_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = within(command(&["completions", shell]).output()).await.unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
        assert!(
            ["slow-policy", "new-secret", "check-config"].iter().all(|word| script.contains(word)),
            "{shell}: {script}"
        );
    }
}

#[tokio::test]
async fn wrong_arguments_are_one_line_and_exit_2() {
    let cases: &[(&[&str], &str)] = &[
        (&["--auth", "database+oracle://u:hunter2@h/d"], r#"--auth: unknown database "oracle""#),
        (&["--auth", "database+mysql://u:hunter2@h/d?x=y"], r#"--auth: unknown parameter "x""#),
        (&["--auth", "database+postgresql://u:12/hunter2@h/d"], "--auth: cannot tell the password from the rest"),
        (&["--auth", "env", "keys", "list"], "subcommand 'keys' cannot be used with '--auth <STORE>'"),
        (&["--auth", "users"], "unknown kind of key store"),
        (&["--dev", "--exporter", "9431"], r#"'--exporter <ADDR:PORT>': endpoint "9431": not of the form ADDR:PORT"#),
        (&["--dev", "--tlscert", "c"], "required arguments were not provided: --tlskey <FILE>"),
        (&["--dev", "-e", "tcp:interface=127.0.0.1:port=0", "--tlscert=c", "--tlskey=k"], "--tlscert is for --bind"),
        (&["--dev", "--bind", "20000"], r#"endpoint "20000": not of the form ADDR:PORT"#),
        (&["--dev", "-e", "tcp:port=1:prot=2"], r#"unknown key "prot""#),
        (&["--dev", "--max-message", "1T"], "not a size such as 65536, 64k, 10M or 1GiB"),
        (&["--dev", "--max-message", "4G"], "too large: a frame holds less than 4G"),
        (&["--dev", "--slow-deadline", "1e300"], "too long: at most 1e19 seconds"),
        (&["--dev", "--slow-deadline", "-1"], "unexpected argument '-1'"),
        (&["--dev", "--slow-deadline=-1"], "not a number of seconds such as 10 or 0.5"),
        (&["--dev", "--slow-policy", "keep"], "'keep'"),
        (&["--dev", "--slow-policy", "drop-old"], ": did you mean drop-oldest? (try --help)"),
        (&["--dev", "--max-conections=1"], "'--max-conections' found: did you mean --max-connections? (try --help)"),
        (&["kyes"], "unrecognized subcommand 'kyes': did you mean keys? (try --help)"),
        (&["keys", "lits"], ": did you mean list? (try --help)"),
        (&["keys", "list", "--auht=env"], "'--auht' found: did you mean --auth? (try --help)"),
        (&["--dev", "--bind", "0.0.0.0:0"], "--dev lets everybody in: it listens on the loopback interface only"),
        (&["--dev", "--floor-rate", "0"], "the floor rate is 0"),
        (&["--dev", "--max-message", "0"], "the maximum message is 0 bytes"),
        (
            &["--dev", "--publish-rate", "0"],
            "invalid value '0' for '--publish-rate <N>': must be at least 1 (try --help)",
        ),
        (&["--dev", "--high-mark", "1"], "the high mark (1 bytes) is below the low mark"),
        (&["--dev", "--frobnicate"], "unexpected argument '--frobnicate'"),
    ];
    for (arguments, expected) in cases {
        let (code, stderr) = run(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("hpfeeds-broker: ") && stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test]
async fn a_failed_start_is_one_line_and_exit_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let bad = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    fs::write(&bad, "{\"bob\": {\n\"secret\": \"hunter2\" x").unwrap();
    let wrong = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    fs::write(&wrong, r#"{"bob": {"owner": "o", "secret": "hunter2", "pubchans": "c", "subchans": []}}"#).unwrap();
    let (bad, wrong) = (bad.path().to_str().unwrap(), wrong.path().to_str().unwrap());
    // A database that somebody else has made holds the tables that it holds.
    let empty = tempfile::NamedTempFile::new().unwrap();
    let (empty, database) = (empty.path().to_str().unwrap(), format!("database+sqlite:///{}", empty.path().display()));
    let cases: [(&[&str], String); 9] = [
        (&["--auth", &database], format!("{empty}: no such table: auth_keys")),
        (&["--dev", "--bind", &addr], format!("cannot listen on {addr}: Address already in use")),
        (&["--dev", "-p0", "--exporter", &addr], format!("cannot listen on {addr}: Address already in use")),
        (&["--dev", "-p0", "--dashboard", &addr], format!("cannot listen on {addr}: Address already in use")),
        (&["--auth", "/nonexistent.json"], "/nonexistent.json: No such file or directory".to_owned()),
        (&["--auth", bad], format!("{bad}: expected `,` or `}}` at line 2 column 21")),
        (&["--auth", wrong], format!(r#"{wrong}: user "bob": "pubchans" must be a list of strings, not a string"#)),
        (
            &["--dev", "-e", "tls:interface=127.0.0.1:port=0:cert=/no.pem"],
            "key=key.pem:cert=/no.pem\": cert /no.pem: No such file or directory".to_owned(),
        ),
        (
            &["--dev", "-e", "tcp:interface=127.0.0.1:port=0:device=nonexistent"],
            "cannot bind to device \"nonexistent\"".to_owned(),
        ),
    ];
    for (arguments, expected) in cases {
        let (code, stderr) = run(arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("hpfeeds-broker: ") && stderr.contains(&expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test]
async fn the_exporter_says_where_it_is() {
    let mut running = Running::start(command(&["--dev", "-p0", "--exporter", "127.0.0.1:0"])).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let url = line.strip_prefix("metrics at http://").expect(&line);
    let addr: SocketAddr = url.strip_suffix("/metrics").expect(url).parse().unwrap();
    let answer = scrape::request(addr, "GET", "/metrics", "").await;
    assert_eq!(answer.status, 200);
    let exposed = scrape::Exposed::parse(&answer.body);
    assert_eq!(exposed.sum("hpfeeds_broker_connection_made_total"), Some(0.0));
    assert_eq!(running.stop("-TERM").await.0, Some(0));
}

#[tokio::test]
async fn the_dashboard_says_where_it_is_and_its_new_token_once() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let arguments = ["--dev", "-p0", "--dashboard", "127.0.0.1:0", "--dashboard-tokens", tokens.to_str().unwrap()];
    let mut running = Running::start(command(&arguments)).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    let (addr, token) = line.strip_prefix("dashboard at http://").expect(&line).split_once("/#token=").expect(&line);
    let addr: SocketAddr = addr.parse().unwrap();
    let more = |token: &str| format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    let scope = scrape::request(addr, "GET", "/api/v1/scope", &more(token)).await;
    assert_eq!((scope.status, &*scope.body), (200, r#"{"scope":"tail"}"#));
    assert_eq!(scrape::request(addr, "GET", "/api/v1/scope", &more("x")).await.status, 401);
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!((code, stderr.contains(token)), (Some(0), false), "{stderr}");
    // The second start finds the file.
    let mut running = Running::start(command(&arguments)).await;
    let line = within(running.stdout.next_line()).await.unwrap().unwrap();
    assert!(line.starts_with("dashboard at http://127.0.0.1:") && line.ends_with('/'), "{line}");
    assert_eq!(running.stop("-TERM").await.0, Some(0));
}

#[tokio::test]
async fn the_broker_serves_while_its_stdout_is_closed() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = command(&["--dev", "--port", &port.to_string(), "--slow-deadline", "1e19"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    within(async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let pid = child.id().unwrap().to_string();
    assert!(within(Command::new("/bin/kill").args(["-TERM", &pid]).status()).await.unwrap().success());
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(0));
    let mut lines = Vec::new();
    while let Some(line) = within(stderr.next_line()).await.unwrap() {
        lines.push(line);
    }
    assert!(lines.iter().any(|line| line.contains("SIGTERM: stopping")), "{lines:?}");
}

/// Both outputs on a disk that is full.
#[tokio::test]
async fn a_full_disk_behind_stdout_and_stderr_keeps_nobody_out() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = command(&["--dev", "--port", &port.to_string()]);
    let mut child = command.stdout(full()).stderr(full()).spawn().unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    within(async {
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended");
            tokio::task::yield_now().await;
        }
    })
    .await;
    Peer::login(addr, "dev", "dev").await.settle().await;
    let pid = child.id().unwrap().to_string();
    assert!(within(Command::new("/bin/kill").args(["-TERM", &pid]).status()).await.unwrap().success());
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(0));

    let ended = async |arguments: &[&str]| {
        let mut command = self::command(arguments);
        within(command.stdout(full()).stderr(full()).status()).await.unwrap().code()
    };
    assert_eq!(ended(&["--frobnicate"]).await, Some(2));
    assert_eq!(ended(&["keys", "list", "--auth=/nonexistent.json"]).await, Some(1));
    // The output that was asked for is missing.
    assert_eq!(ended(&["--dev", "--check-config"]).await, Some(1));
}

#[tokio::test]
async fn sizes_are_written_as_for_the_tool_and_times_may_be_as_long_as_one_likes() {
    let sizes =
        ["--max-message=10m", "--high-mark=1GiB", "--low-mark=512KB", "--floor-rate=64KiB", "--publish-bytes=1g"];
    let endless = ["--slow-deadline", "--handshake-timeout", "--write-timeout", "--recheck-keys"];
    let endless: Vec<_> = endless.iter().flat_map(|flag| [*flag, "1e19"]).collect();
    let running = Running::start(command(&[&["--dev", "-p0"], &sizes[..], &endless].concat())).await;
    let mut peer = Peer::login(running.addr, "dev", "dev").await;
    peer.send(support::subscribe("dev", "c")).await;
    peer.send(publish("dev", "c", "hello")).await;
    assert_eq!(peer.next().await, Some(publish("dev", "c", "hello")));
    drop(peer);
    let (code, stderr) = running.stop("-TERM").await;
    assert_eq!(code, Some(0), "{stderr}");
}

#[tokio::test]
async fn help_states_the_memory_bounds() {
    let output = within(command(&["--help"]).output()).await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    // The keys of endpoints, too.
    let keys = ["mode=", "backlog=", "reuseport=", "recvbuf=", "sendbuf=", "keepalive=", "clientca", "clientauth="];
    for key in keys {
        assert!(help.contains(key), "{key} is missing in {help}");
    }
    for part in ["--high-mark", "--max-buffered", "twice", "--max-subscriptions", "Memory:"] {
        assert!(help.contains(part), "{part} is missing in {help}");
    }
}

#[tokio::test]
async fn it_waits_when_there_are_no_file_descriptors() {
    const FILES: usize = 32;
    let mut command = Command::new("/bin/sh");
    let program = env!("CARGO_BIN_EXE_hpfeeds-broker");
    // The hard limit as well, which the broker cannot raise.
    command.args(["-c", &format!("ulimit -n {FILES}; exec {program:?} --dev --port 0")]);
    command
        .env_clear()
        .envs(coverage())
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running::start(command).await;
    let mut stderr = BufReader::new(running.child.stderr.take().unwrap()).lines();
    let mut streams = Vec::new();
    for _ in 0..FILES {
        streams.push(within(tokio::net::TcpStream::connect(running.addr)).await.unwrap());
    }
    let mut waits = 0;
    while waits < 3 {
        let line = within(stderr.next_line()).await.unwrap().expect("the broker goes on");
        waits += usize::from(line.contains("cannot accept connections cause=Too many open files"));
    }
    // Connections that came too late are served as soon as others are gone.
    let mut last = streams.pop().unwrap();
    drop(streams);
    let mut info = [0; 5];
    within(last.read_exact(&mut info)).await.unwrap();
    assert_eq!(info[4], 1);
    Peer::login(running.addr, "dev", "dev").await.settle().await;
}
