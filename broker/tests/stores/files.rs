//! Files that change, and files of the Python broker.

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio, time::Duration};

use hpfeeds_broker::{
    AuthStore, Broker, ChainStore, DatabaseAddress, Endpoint, EnvStore, JsonStore, MemoryStore, SqlStore,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStderr, Command},
};

use crate::{
    databases::Scratch,
    support::{Peer, within},
};

fn users(ident: &str) -> String {
    format!(r#"{{"{ident}": {{"owner": "o", "secret": "s", "pubchans": ["private"], "subchans": ["private"]}}}}"#)
}

/// Waits until an ident has, or has not, a key.
async fn until_known(store: &JsonStore, ident: &str, known: bool) {
    within(async {
        while store.lookup(ident).await.unwrap().is_some() != known {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_json_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, users("written")).unwrap();
    let store = JsonStore::open(&path).unwrap();
    // Written anew, to the same length.
    fs::write(&path, users("rewrite")).unwrap();
    until_known(&store, "rewrite", true).await;
    assert!(store.lookup("written").await.unwrap().is_none());
    // Replaced.
    let new = folder.path().join("new");
    fs::write(&new, users("renamed")).unwrap();
    fs::rename(&new, &path).unwrap();
    until_known(&store, "renamed", true).await;
    // Absent for a while: the keys stay, until it is back.
    fs::remove_file(&path).unwrap();
    assert!(store.reload().is_err());
    assert!(store.lookup("renamed").await.unwrap().is_some());
    fs::write(&path, users("returned")).unwrap();
    until_known(&store, "returned", true).await;
}

/// Kubernetes mounts a secret as a link to a file in a folder that is a link, and swaps that.
#[tokio::test]
async fn a_json_file_behind_links_is_read_again_when_one_changes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("users.json"), users(version)).unwrap();
    }
    symlink("one", at("..data")).unwrap();
    symlink(Path::new("..data").join("users.json"), at("users.json")).unwrap();
    let store = JsonStore::open(at("users.json")).unwrap();
    assert!(store.lookup("one").await.unwrap().is_some());
    symlink("two", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    until_known(&store, "two", true).await;
    assert!(store.lookup("one").await.unwrap().is_none());
}

#[tokio::test]
async fn a_json_file_that_changes_counts_for_live_connections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, users("first")).unwrap();
    // Alone, and behind another.
    let mut chain = ChainStore::new();
    chain.push(MemoryStore::new());
    chain.push(JsonStore::open(&path).unwrap());
    let alone = Broker::builder().auth(JsonStore::open(&path).unwrap());
    let mut lives = Vec::new();
    for builder in [alone, Broker::builder().auth(chain)] {
        // Not before the end of this test, if nobody tells of the change.
        let builder = builder.recheck_keys(Duration::from_secs(24 * 60 * 60));
        let broker = builder.endpoint(Endpoint::tcp("127.0.0.1", 0)).start().await.unwrap();
        let mut peer = Peer::login(broker.local_addr(), "first", "s").await;
        peer.settle().await;
        lives.push((broker, peer));
    }
    fs::write(&path, users("second")).unwrap();
    for (broker, peer) in lives {
        peer.expect_error("Authentication failed for first").await;
        Peer::login(broker.local_addr(), "second", "s").await.settle().await;
        within(broker.shutdown()).await;
    }
}

#[tokio::test]
async fn a_bad_json_file_changes_nothing_and_the_log_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, users("bob")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
    command.args(["--bind=127.0.0.1:0", "--auth"]).arg(&path).kill_on_drop(true);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(stdout.next_line()).await.unwrap().unwrap();
    let addr = line.strip_prefix("listening on ").unwrap().parse().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();

    fs::write(&path, users("bob").replace("\"s\"", "\"hunter2\" x")).unwrap();
    let line = said(&mut log, "the keys stay as they were").await;
    assert!(line.contains("WARN") && line.contains(&format!("{}: expected `,` or `}}` at", path.display())), "{line}");
    assert!(!line.contains("hunter2"), "{line}");
    Peer::login(addr, "bob", "s").await.settle().await;
    fs::write(&path, users("eve")).unwrap();
    let line = said(&mut log, "the keys have been read again").await;
    assert!(line.contains("keys=1"), "{line}");
    Peer::login(addr, "eve", "s").await.settle().await;
    Peer::login(addr, "bob", "s").await.expect_error("Authentication failed for bob").await;
}

/// A secret that is mounted as a file.
#[tokio::test]
async fn another_secret_in_a_file_of_the_environment_ends_connections_with_the_old_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "leaked\n").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let store = EnvStore::with(move |name| match name {
        "HPFEEDS_BOB_SECRET_FILE" => Ok(path.clone()),
        "HPFEEDS_BOB_PUBCHANS" | "HPFEEDS_BOB_SUBCHANS" => Ok("private".to_owned()),
        _ => Err(std::env::VarError::NotPresent),
    });
    let builder = Broker::builder().auth(store).recheck_keys(Duration::from_millis(50));
    let broker = builder.endpoint(Endpoint::tcp("127.0.0.1", 0)).start().await.unwrap();
    let mut bob = Peer::login(broker.local_addr(), "bob", "leaked").await;
    bob.settle().await;
    fs::write(&file, "new\n").unwrap();
    bob.expect_error("Authentication failed for bob").await;
    Peer::login(broker.local_addr(), "bob", "new").await.settle().await;
}

/// The next line of a log that says something.
async fn said(log: &mut Lines<BufReader<ChildStderr>>, text: &str) -> String {
    within(async {
        loop {
            let line = log.next_line().await.unwrap().expect("it has ended");
            if line.contains(text) {
                return line;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_sqlite_file_of_the_python_broker_is_read_as_it_is() {
    let scratch = Scratch::sqlite("");
    // The tables that version 3.1.0 creates, and the statements that it tells its users to type.
    scratch
        .raw(
            r#"create table logs (id integer primary key autoincrement, data TEXT);
            create table stats (id integer primary key autoincrement, ak TEXT, uid TEXT, data TEXT);
            create table authkeys (id integer primary key autoincrement, owner TEXT, ident TEXT, secret TEXT,
                pubchans TEXT, subchans TEXT);
            insert into authkeys (owner, ident, secret, pubchans, subchans)
                values ('owner', 'ident', 's3cret', '["private", ""]', '["private"]');
            insert into authkeys (owner, ident, secret, pubchans, subchans) values (null, 'number', 17, '[]', '[]');"#,
        )
        .await;
    let store = SqlStore::open(scratch.address()).await.unwrap();
    let broker = hpfeeds_broker::Broker::builder().auth(store).listen("127.0.0.1:0").unwrap().start().await.unwrap();
    Peer::login(broker.local_addr(), "ident", "s3cret").await.settle().await;
    let mut number = Peer::login(broker.local_addr(), "number", "17").await;
    number.send(crate::support::subscribe("number", "private")).await;
    number.expect_error("Authkey not allowed to sub here. ident=number, chan=private").await;
}

#[tokio::test]
async fn a_new_sqlite_file_has_the_tables_of_the_python_broker_and_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sqlite.db");
    let store = SqlStore::open(DatabaseAddress::sqlite(&path)).await.unwrap();
    assert!(store.lookup("bob").await.unwrap().is_none());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // The queries of the Python broker when it opens a database.
    let scratch = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&scratch).await.unwrap();
    sqlx::raw_sql("select * from logs, authkeys, stats where 1=0").execute(&mut connection).await.unwrap();
}
