//! A database of keys: lookups over its connection pool, and errors that name it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hpfeeds::wire::Ident;
use serde_json::Value;
use tokio::time::timeout;
use tracing::warn;

use super::{
    address::DatabaseAddress,
    connection::Connection,
    kept,
    pool::ConnectionPool,
    row::{Kept, Row, has_kept},
    server::Server,
    table::Table,
};
use crate::auth::{
    AuthError,
    entry::{Entry, List, OldSecret, list_or_text},
    key::Key,
    remarks::Remarks,
};

/// The longest time that a lookup takes, with connecting: half of what the broker gives it by
/// default.
const DEADLINE: Duration = Duration::from_secs(5);

/// As many idents as a snapshot has room for.
const MOST_IDENTS: usize = 10_000;

/// A database, and the connections to it.
#[derive(Debug)]
pub(crate) struct Database {
    address: DatabaseAddress,
    connections: ConnectionPool,
    /// Whether the log has been told that the old secrets cannot be read.
    kept_reported: AtomicBool,
}

impl Database {
    pub(crate) fn new(address: DatabaseAddress) -> Self {
        Self { address, connections: ConnectionPool::new(), kept_reported: AtomicBool::new(false) }
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.address.table
    }

    pub(crate) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Connection::open(&self.address.server).await
    }

    /// Connects; creates the table of an SQLite file that has none. A server that is away is no
    /// error: the first lookup connects.
    pub(super) async fn open(&self) -> Result<(), AuthError> {
        if let Some(connection) = self.first(self.prepare()).await? {
            self.connections.keep(connection);
        }
        Ok(())
    }

    /// As [`open`](Self::open), and closes the file again.
    pub(super) async fn fill(&self) -> Result<(), AuthError> {
        if let Some(connection) = self.first(self.prepare()).await? {
            // Everything has been written already.
            let _ = connection.close().await;
        }
        Ok(())
    }

    /// As [`open`](Self::open), but creates nothing.
    #[cfg(feature = "cli")]
    pub(super) async fn check(&self) -> Result<(), AuthError> {
        self.first(self.inspect()).await.map(drop)
    }

    /// The first connection; `None` when the server is away and may come back.
    async fn first(
        &self,
        connecting: impl Future<Output = Result<Connection, sqlx::Error>>,
    ) -> Result<Option<Connection>, AuthError> {
        let (away, cause) = match timeout(DEADLINE, connecting).await {
            Ok(Ok(connection)) => return Ok(Some(connection)),
            Ok(Err(cause)) => (is_away(&cause), self.error(&cause)),
            Err(_) => (true, self.silent(DEADLINE)),
        };
        if !away || !self.is_server() {
            return Err(cause);
        }
        warn!(%cause, "no key can be looked up until the database is there");
        Ok(None)
    }

    /// Connects; creates the table of an SQLite file as the Python broker does; looks whether it
    /// has its columns.
    async fn prepare(&self) -> Result<Connection, sqlx::Error> {
        let mut connection = self.connect().await?;
        let table = self.table();
        if table.owner.is_some() && self.columns(&mut connection).await.is_err() {
            let tables = table.create(connection.dialect());
            connection.batch(&format!("BEGIN IMMEDIATE; {tables}; COMMIT")).await?;
        }
        self.columns(&mut connection).await?;
        Ok(connection)
    }

    /// As `prepare`, but creates nothing.
    #[cfg(feature = "cli")]
    async fn inspect(&self) -> Result<Connection, sqlx::Error> {
        let mut connection = self.connect().await?;
        match self.columns(&mut connection).await {
            Err(cause) if self.table().owner.is_some() && lacks_table(&cause) => self.address.writable()?,
            looked => looked?,
        }
        Ok(connection)
    }

    /// Looks whether the table is there and has its columns.
    async fn columns(&self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        let sql = format!("{} WHERE 1 = 0", self.table().select(connection.dialect()));
        connection.rows(&sql, &[]).await.map(drop)
    }

    /// The key of an ident, for [`AuthStore::lookup`](crate::auth::AuthStore::lookup).
    pub(super) async fn key(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
        // PostgreSQL cannot hold such a name, and would call it an error.
        if ident.contains('\0') && matches!(self.address.server, Server::Postgres(_)) {
            return Ok(None);
        }
        match timeout(DEADLINE, self.find(ident)).await {
            Ok(Ok(Some((row, kept)))) => {
                let key = self
                    .entry(row, &kept, &mut Remarks::default())
                    .and_then(|entry| entry.key(self.table().lists()).map_err(|cause| self.fault(ident, &cause)));
                key.map(|key| Some(Arc::new(key)))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(cause)) => Err(self.error(&cause)),
            Err(_) => {
                self.connections.clear();
                Err(self.silent(DEADLINE))
            }
        }
    }

    /// The first idents, for [`AuthStore::idents`](crate::auth::AuthStore::idents). A name that no
    /// ident can have is passed over.
    pub(super) async fn idents(&self) -> Result<Vec<Ident>, AuthError> {
        let listing = async {
            let _permit = self.connections.permit().await?;
            let mut connection = self.connect().await?;
            let sql = format!("{} LIMIT {MOST_IDENTS}", self.table().select(connection.dialect()));
            let rows = connection.rows(&sql, &[]).await?;
            connection.close().await?;
            Ok(rows)
        };
        match timeout(DEADLINE, listing).await {
            Ok(Ok(rows)) => Ok(rows.into_iter().filter_map(|[ident, ..]| ident?.parse().ok()).collect()),
            Ok(Err(cause)) => Err(self.error(&cause)),
            Err(_) => Err(self.silent(DEADLINE)),
        }
    }

    async fn find(&self, ident: &str) -> Result<Option<(Row, Vec<Kept>)>, sqlx::Error> {
        let _permit = self.connections.permit().await?;
        if let Some(mut connection) = self.connections.reuse().await {
            if let Ok(row) = self.select(&mut connection, ident).await {
                self.connections.keep(connection);
                return Ok(row);
            }
            // The server may have been restarted since. A new connection tells what is wrong.
            self.connections.clear();
        }
        let mut connection = self.connect().await?;
        let row = self.select(&mut connection, ident).await?;
        self.connections.keep(connection);
        Ok(row)
    }

    /// The row of an ident and what is kept beside it. Where that cannot be read, for want of a
    /// permission, say, no old secret counts: a table of ours must not keep everybody out.
    async fn select(&self, connection: &mut Connection, ident: &str) -> Result<Option<(Row, Vec<Kept>)>, sqlx::Error> {
        let dialect = connection.dialect();
        let values = vec![ident; Table::ident_binds(dialect)];
        let sql = self.table().select(dialect) + &self.table().of_ident(dialect, 1);
        let Some(row) = connection.rows(&sql, &values).await?.into_iter().next() else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        if has_kept(&row) {
            match connection.rows(&(kept::select(dialect) + &kept::of_ident(dialect)), &values).await {
                Ok(rows) => kept.extend(rows.into_iter().filter_map(Kept::new)),
                Err(cause) if is_away(&cause) => return Err(cause),
                Err(cause) => {
                    if !self.kept_reported.swap(true, Relaxed) {
                        let cause = self.error(&cause);
                        warn!(%cause, table = kept::NAME, "no old secret counts: the table cannot be read");
                    }
                }
            }
        }
        Ok(Some((row, kept)))
    }

    fn is_server(&self) -> bool {
        !matches!(self.address.server, Server::Sqlite { .. })
    }

    /// The entry of a row. The error names the ident and the column.
    pub(crate) fn entry(&self, row: Row, kept: &[Kept], remarks: &mut Remarks) -> Result<Entry, AuthError> {
        let table = self.table();
        let [ident, owner, secret, publish, subscribe, _] = row;
        let Some(ident) = ident else {
            return Err(self.place(&format_args!("a row without {}", table.ident)));
        };
        let mut list = |text: Option<String>, column| {
            let list = list(text).map_err(|cause| self.fault(&ident, &format_args!("{column:?} {cause}")))?;
            list.remark(format_args!("user {ident:?}: {column:?}"), remarks);
            Ok::<_, AuthError>(list.channels)
        };
        let secret = secret.ok_or_else(|| self.fault(&ident, &format_args!("{:?} is NULL", table.secret)))?;
        let publish = list(publish, table.publish)?;
        let subscribe = list(subscribe, table.subscribe)?;
        let owner = owner.unwrap_or_else(|| ident.clone());
        let own = || kept.iter().filter(|kept| kept.ident == ident && kept.beside == secret);
        let old_secrets = own().filter_map(|kept| OldSecret::new(&kept.secret, kept.ends?)).collect();
        let of_disabled = own().find(|kept| kept.ends.is_none()).map(|kept| kept.secret.clone());
        let disabled = of_disabled.is_some();
        let secret = of_disabled.unwrap_or(secret);
        Ok(Entry { ident, owner, secret, publish, subscribe, disabled, old_secrets })
    }

    fn fault(&self, ident: &str, cause: &dyn fmt::Display) -> AuthError {
        self.place(&format_args!("ident {ident:?}: {cause}"))
    }

    pub(crate) fn place(&self, cause: &dyn fmt::Display) -> AuthError {
        AuthError::new(format_args!("{}, table {}: {cause}", self.address, self.table().name))
    }

    /// An error of the database, on one line.
    pub(crate) fn error(&self, cause: &sqlx::Error) -> AuthError {
        let (name, table) = (&self.address, self.table().name);
        let text = match cause {
            sqlx::Error::Io(cause) if self.is_server() => format!("cannot reach the database: {cause}"),
            sqlx::Error::Io(cause) => format!("unable to open database file: {cause}"),
            sqlx::Error::Database(cause) => cause.message().to_owned(),
            cause => cause.to_string(),
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let hint = if lacks_table(cause) {
            format!(" (the keys are in a table {table}, which `hpfeeds-broker keys add` creates)")
        } else {
            String::new()
        };
        AuthError::new(format_args!("{name}: {text}{hint}"))
    }

    pub(crate) fn silent(&self, deadline: Duration) -> AuthError {
        AuthError::new(format_args!("{}: the database did not answer within {} s", self.address, deadline.as_secs()))
    }

    #[cfg(feature = "cli")]
    pub(crate) fn refused(&self, cause: &AuthError) -> AuthError {
        AuthError::new(format_args!("{}: {cause}", self.address))
    }
}

/// A list of channels. The error goes on after the column's name.
pub(crate) fn list(text: Option<String>) -> Result<List, String> {
    let text = text.ok_or("is NULL, not a list of strings in JSON")?;
    let value: Value = serde_json::from_str(&text).map_err(|cause| format!("is not JSON: {cause}"))?;
    list_or_text(&value)
}

/// Whether it may come by itself: the server is not there, starts, stops, or has too many clients.
fn is_away(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::Io(_) => true,
        // Classes of SQLSTATE: connection exception, insufficient resources, operator intervention.
        sqlx::Error::Database(cause) => {
            let code = cause.code().unwrap_or_default();
            ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

fn lacks_table(cause: &sqlx::Error) -> bool {
    let sqlx::Error::Database(cause) = cause else {
        return false;
    };
    // Of PostgreSQL and MySQL, whose 42S02 is said in words by SQLite.
    matches!(cause.code().as_deref(), Some("42P01" | "42S02")) || cause.message().starts_with("no such table")
}
