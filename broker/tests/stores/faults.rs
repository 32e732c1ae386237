//! Databases that are not there, or not as they should be.

use hpfeeds_broker::{AuthStore, DatabaseAddress, SqlStore};

use crate::{databases::Scratch, support::within};

async fn refusal(auth: &str) -> String {
    let error = within(SqlStore::open(auth.parse().unwrap())).await.unwrap_err().to_string();
    assert!(!error.contains("hunter2") && !error.contains("p@ss") && !error.contains("p%40ss"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

async fn wrong(scratch: Scratch, password: &str, database: &str) {
    let create = "CREATE TABLE auth_keys (id INTEGER, identifier TEXT, secret TEXT, publish TEXT)";
    let error = refusal(&scratch.auth).await;
    assert!(error.contains("which `hpfeeds-broker keys add` creates"), "{error}");
    scratch.raw(create).await;
    assert!(refusal(&scratch.auth).await.contains("subscribe"));
    let error = refusal(&scratch.auth.replace("p%40ss", "hunter2")).await;
    assert!(error.to_lowercase().contains(password), "{error}");
    let error = refusal(&format!("{}_other", scratch.auth)).await;
    assert!(error.to_lowercase().contains(database), "{error}");
}

#[tokio::test]
async fn postgresql_faults_are_said_at_the_start() {
    if let Some(scratch) = Scratch::postgres().await {
        wrong(scratch, "password authentication failed for user \"hpfeeds\"", "does not exist").await;
    }
}

#[tokio::test]
async fn mysql_faults_are_said_at_the_start() {
    if let Some(scratch) = Scratch::mysql().await {
        wrong(scratch, "access denied for user 'hpfeeds'", "unknown database").await;
    }
}

#[tokio::test]
async fn sqlite_faults_are_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let path = path.to_str().unwrap();
    let error = refusal("/nonexistent/keys.db").await;
    assert!(error.starts_with("/nonexistent/keys.db: unable to open database file: No such file"), "{error}");
    let error = refusal(&format!("database+sqlite:///{}", folder.path().display())).await;
    assert!(error.ends_with(": unable to open database file: it is no file"), "{error}");
    // Where the Python broker would create an empty one, and fail later.
    let error = refusal(&format!("database+sqlite:///{path}")).await;
    assert!(error.starts_with(&format!("{path}: unable to open database file: No such file")), "{error}");
    std::fs::write(path, "this is no database, however long it is: ".repeat(100)).unwrap();
    assert!(refusal(path).await.contains("file is not a database"));
    let scratch = Scratch::sqlite("");
    scratch.raw("CREATE TABLE authkeys (ident TEXT)").await;
    assert!(refusal(&scratch.auth).await.contains("no such column"));
}

#[tokio::test]
async fn a_server_that_is_not_there_stops_nothing() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for scheme in ["postgresql", "mysql"] {
        let address: DatabaseAddress = format!("database+{scheme}://u:hunter2@127.0.0.1:{port}/d").parse().unwrap();
        let store = within(SqlStore::open(address)).await.unwrap();
        let error = within(store.lookup("bob")).await.unwrap_err().to_string();
        let expected = format!("{scheme}://127.0.0.1:{port}/d: cannot reach the database: Connection refused");
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// Time passes as soon as everybody waits for it.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    for scheme in ["postgresql", "mysql"] {
        let store = SqlStore::open(format!("database+{scheme}://u:hunter2@{addr}/d").parse().unwrap()).await.unwrap();
        let error = store.lookup("bob").await.unwrap_err().to_string();
        assert_eq!(error, format!("{scheme}://{addr}/d: the database did not answer within 5 s"));
    }
}

/// Python users have lists in columns of every type that can hold them.
#[tokio::test]
async fn lists_are_read_from_columns_of_any_type() {
    let rows = r#"('bob', 's', '["private"]', '["private"]')"#;
    let insert = format!("INSERT INTO auth_keys (identifier, secret, publish, subscribe) VALUES {rows}");
    let columns = |ident: &str, publish: &str, subscribe: &str| {
        let lists = format!("publish {publish}, subscribe {subscribe}");
        format!("CREATE TABLE auth_keys (id INTEGER, identifier {ident}, secret {ident}, {lists}); {insert}")
    };
    let postgres = [("VARCHAR(64)", "JSONB", "JSON"), ("TEXT", "VARCHAR(255)", "JSONB"), ("CHAR(20)", "TEXT", "TEXT")];
    for (ident, publish, subscribe) in postgres {
        if let Some(scratch) = Scratch::postgres().await {
            both(scratch, &columns(ident, publish, subscribe)).await;
        }
    }
    let mysql =
        [("VARCHAR(64)", "JSON", "LONGTEXT"), ("TEXT", "VARCHAR(255)", "BLOB"), ("VARBINARY(64)", "TEXT", "JSON")];
    for (ident, publish, subscribe) in mysql {
        if let Some(scratch) = Scratch::mysql().await {
            both(scratch, &columns(ident, publish, subscribe)).await;
        }
    }
}

/// It is read, and `keys` changes it.
async fn both(scratch: Scratch, create: &str) {
    use hpfeeds_broker::keys::{Change, Fields, Keys};
    scratch.raw(create).await;
    let store = SqlStore::open(scratch.address()).await.unwrap();
    assert!(store.lookup("bob").await.unwrap().is_some(), "{create}");
    let keys = Keys::sql(scratch.address());
    let fields = Fields { publish: Some(vec!["new".to_owned()]), ..Fields::default() };
    keys.apply(&[Change::Set { ident: "bob".to_owned(), fields }]).await.unwrap();
    let mut entry = keys.get("bob").await.unwrap().unwrap();
    assert_eq!((&entry.publish[..], &entry.subscribe[..]), (&["new".to_owned()][..], &["private".to_owned()][..]));
    "eve".clone_into(&mut entry.ident);
    keys.apply(&[Change::Add(entry)]).await.unwrap();
    assert!(store.lookup("eve").await.unwrap().is_some(), "{create}");
}
