//! The database drivers that the program is built with: their options, or the feature that adds a missing one.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use sqlx::ConnectOptions as _;
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnectOptions;

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
use super::dialect::Dialect;
use super::server::Server;

/// How long SQLite waits for another program that writes.
#[cfg(feature = "sqlite")]
const BUSY: std::time::Duration = std::time::Duration::from_secs(4);

/// Whether a server can be spoken to, and its driver understands the address.
pub(super) fn check(server: &Server) -> Result<(), String> {
    match server {
        #[cfg(feature = "sqlite")]
        Server::Sqlite { .. } => Ok(()),
        #[cfg(feature = "postgres")]
        Server::Postgres(url) => postgres(url).map(drop).map_err(|cause| refused(&cause)),
        #[cfg(feature = "mysql")]
        Server::MySql(url) => mysql(url).map(drop).map_err(|cause| refused(&cause)),
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
        server => Err(missing(server.dialect())),
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn refused(cause: &sqlx::Error) -> String {
    format!("the address of the database: {cause}")
}

/// What to build for a database whose driver is missing.
#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
pub(super) fn missing(dialect: Dialect) -> String {
    let (name, feature) = match dialect {
        Dialect::Sqlite => ("SQLite", "sqlite"),
        Dialect::Postgres => ("PostgreSQL", "postgres"),
        Dialect::MySql => ("MySQL", "mysql"),
    };
    crate::auth::built_without(name, feature)
}

#[cfg(feature = "sqlite")]
pub(super) fn sqlite(path: &std::path::Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY).disable_statement_logging()
}

#[cfg(feature = "postgres")]
pub(super) fn postgres(url: &url::Url) -> Result<PgConnectOptions, sqlx::Error> {
    PgConnectOptions::from_url(url).map(PgConnectOptions::disable_statement_logging)
}

#[cfg(feature = "mysql")]
pub(super) fn mysql(url: &url::Url) -> Result<MySqlConnectOptions, sqlx::Error> {
    MySqlConnectOptions::from_url(url).map(MySqlConnectOptions::disable_statement_logging)
}
