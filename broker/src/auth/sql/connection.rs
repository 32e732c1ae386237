//! A connection to a database of any of the three kinds.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use sqlx::{
    Connection as _, Executor as _, Row as _, mysql::MySqlConnection, postgres::PgConnection, sqlite::SqliteConnection,
};

use super::{address::Server, dialect::Dialect, row::Row};

pub(crate) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

/// The same for each kind, whose types have nothing in common.
macro_rules! each {
    ($self:expr, $connection:ident => $body:expr) => {
        match $self {
            Self::Sqlite($connection) => $body,
            Self::Postgres($connection) => $body,
            Self::MySql($connection) => $body,
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
        Ok(match server {
            Server::Sqlite { options, .. } => {
                let path = options.get_filename();
                let opened = SqliteConnection::connect_with(options).await;
                Self::Sqlite(opened.map_err(|cause| fault(path).map_or(cause, sqlx::Error::Io))?)
            }
            Server::Postgres(options) => Self::Postgres(PgConnection::connect_with(options).await?),
            Server::MySql(options) => Self::MySql(MySqlConnection::connect_with(options).await?),
        })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// The rows that [`Table::select`](super::table::Table::select) asks for.
    pub(crate) async fn rows(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Row>, sqlx::Error> {
        each!(self, connection => {
            let rows = bound!(sql, values).fetch_all(connection).await?;
            rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?])).collect()
        })
    }

    /// Runs a statement; returns how many rows it has changed.
    #[cfg(feature = "cli")]
    pub(crate) async fn change(&mut self, sql: &str, values: &[&str]) -> Result<u64, sqlx::Error> {
        each!(self, connection => Ok(bound!(sql, values).execute(connection).await?.rows_affected()))
    }

    /// Runs statements that have no values and return nothing.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        each!(self, connection => connection.execute(sqlx::raw_sql(sql)).await.map(drop))
    }

    /// Ends the session, so that the server logs no broken connection.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        each!(self, connection => connection.close().await)
    }
}

/// Why a file cannot be read, which SQLite does not say.
fn fault(path: &Path) -> Option<io::Error> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => File::open(path).err(),
        Ok(_) => Some(io::Error::other("it is no file")),
        Err(cause) => Some(cause),
    }
}
