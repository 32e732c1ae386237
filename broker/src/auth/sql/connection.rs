//! A connection to a database of any of the three kinds.

#[cfg(feature = "sqlite")]
use std::{
    fs::{self, File},
    io,
    path::Path,
};

#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnection;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnection;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Executor as _, Row as _};

use super::{dialect::Dialect, driver, row::Row, server::Server};

pub(crate) struct Connection {
    dialect: Dialect,
    driver: Driver,
}

enum Driver {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnection),
}

/// The same for each kind, whose types have nothing in common.
macro_rules! each {
    ($driver:expr, $connection:ident => $body:expr) => {
        match $driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite($connection) => $body,
            #[cfg(feature = "postgres")]
            Driver::Postgres($connection) => $body,
            #[cfg(feature = "mysql")]
            Driver::MySql($connection) => $body,
        }
    };
}

/// A statement with its values.
macro_rules! bound {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = query.bind(*value);
        }
        query
    }};
}

impl Connection {
    pub(super) async fn open(server: &Server) -> Result<Self, sqlx::Error> {
        let driver = match server {
            #[cfg(feature = "sqlite")]
            Server::Sqlite { path, .. } => {
                let opened = SqliteConnection::connect_with(&driver::sqlite(path)).await;
                Driver::Sqlite(opened.map_err(|cause| fault(path).map_or(cause, sqlx::Error::Io))?)
            }
            #[cfg(feature = "postgres")]
            Server::Postgres(url) => Driver::Postgres(PgConnection::connect_with(&driver::postgres(url)?).await?),
            #[cfg(feature = "mysql")]
            Server::MySql(url) => Driver::MySql(MySqlConnection::connect_with(&driver::mysql(url)?).await?),
            // Such an address is refused before.
            #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
            server => return Err(sqlx::Error::Configuration(driver::missing(server.dialect()).into())),
        };
        Ok(Self { dialect: server.dialect(), driver })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The rows that [`Table::select`](super::table::Table::select) asks for.
    pub(crate) async fn rows(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Row>, sqlx::Error> {
        each!(&mut self.driver, connection => {
            let rows = bound!(sql, values).fetch_all(connection).await?;
            rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?])).collect()
        })
    }

    /// Runs a statement; returns how many rows it has changed.
    #[cfg(feature = "cli")]
    pub(crate) async fn change(&mut self, sql: &str, values: &[&str]) -> Result<u64, sqlx::Error> {
        each!(&mut self.driver, connection => Ok(bound!(sql, values).execute(connection).await?.rows_affected()))
    }

    /// Runs statements that have no values and return nothing.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        each!(&mut self.driver, connection => connection.execute(sqlx::raw_sql(sql)).await.map(drop))
    }

    /// Ends the session, so that the server logs no broken connection.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        each!(self.driver, connection => connection.close().await)
    }
}

/// Why a file cannot be read, which SQLite does not say.
#[cfg(feature = "sqlite")]
fn fault(path: &Path) -> Option<io::Error> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => File::open(path).err(),
        Ok(_) => Some(io::Error::other("it is no file")),
        Err(cause) => Some(cause),
    }
}
