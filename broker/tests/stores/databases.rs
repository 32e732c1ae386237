//! Databases of one test each.

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use hpfeeds_broker::DatabaseAddress;
use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::skip::skip;

/// An empty database, reached as an operator would reach it.
pub(crate) struct Scratch {
    /// The value of `--auth`.
    pub(crate) auth: String,
    /// The address that the driver takes.
    url: String,
    _folder: Option<TempDir>,
}

impl Scratch {
    /// A file, written after `prefix`.
    pub(crate) fn sqlite(prefix: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let path = path.to_str().unwrap();
        Self { auth: format!("{prefix}{path}"), url: format!("sqlite://{path}"), _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Option<Self> {
        Self::server("HPFEEDS_TEST_POSTGRES", async |url, statement| {
            PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
        })
        .await
    }

    pub(crate) async fn mysql() -> Option<Self> {
        Self::server("HPFEEDS_TEST_MYSQL", async |url, statement| {
            MySqlConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
        })
        .await
    }

    async fn server(variable: &str, run: impl AsyncFn(&str, &str)) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let server = server(variable)?;
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        run(&server, &format!("CREATE DATABASE {name}")).await;
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        Some(Self { auth: format!("database+{url}"), url, _folder: None })
    }

    pub(crate) fn address(&self) -> DatabaseAddress {
        self.auth.parse().unwrap()
    }

    /// Its table, and the columns of ident, publish list and subscribe list there.
    pub(crate) fn columns(&self) -> [&'static str; 4] {
        if self.auth.starts_with("database+") {
            ["auth_keys", "identifier", "publish", "subscribe"]
        } else {
            ["authkeys", "ident", "pubchans", "subchans"]
        }
    }

    /// Runs statements on it, by hand.
    pub(crate) async fn raw(&self, sql: &str) {
        let sql = sqlx::raw_sql(sql);
        if self.url.starts_with("sqlite") {
            let options = self.url.parse::<sqlx::sqlite::SqliteConnectOptions>().unwrap().create_if_missing(true);
            SqliteConnection::connect_with(&options).await.unwrap().execute(sql).await.unwrap();
        } else if self.url.starts_with("postgresql") {
            PgConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
        } else {
            MySqlConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
        }
    }
}

/// The address of a server, or the reason why its tests do nothing.
pub(crate) fn server(variable: &str) -> Option<String> {
    let server = env::var(variable).ok();
    if server.is_none() {
        skip(&format!("{variable} is not set (scripts/services run -- cargo test sets it)"));
    }
    server
}
