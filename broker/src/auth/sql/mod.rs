//! Keys in SQL databases.

mod address;
mod connection;
pub(crate) mod table;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::warn;

pub use self::address::DatabaseAddress;
pub(crate) use self::connection::Connection;
use self::{address::Server, table::Table};
use super::{AuthError, AuthStore, Entry, Key, Lookup, entry};

/// How long a lookup may take, with connecting: half of what the broker gives it by default.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many connections one store opens. A lookup takes a millisecond or less: four make thousands a second, and leave
/// most of what a server allows (100 by default in PostgreSQL) to others.
const CONNECTIONS: usize = 4;

/// How long a connection is kept that nobody uses. Shorter than what firewalls and servers wait before they cut one
/// without a word.
const IDLE: Duration = Duration::from_secs(60);

/// The columns of [`Table::columns`]. Each may be NULL.
pub(crate) type Row = [Option<String>; 5];

/// Keys in a database, see [`DatabaseAddress`]. Each lookup asks it, so a change counts for whoever connects next,
/// and for live connections at the next [recheck](crate::BrokerBuilder::recheck_keys).
///
/// It keeps up to four connections, and gives up on a lookup after 5 seconds. When the database is away, lookups fail
/// and say so; when it is back, they work again.
#[derive(Debug)]
pub struct SqlStore {
    database: Database,
}

impl SqlStore {
    /// Connects, and looks whether the table is there and has its columns.
    ///
    /// A server that cannot be reached, or is starting, is no error: it is logged, and the first lookup tries again.
    /// Everything else is: a file that is absent or no database, a wrong password, an unknown database or table.
    pub async fn open(address: DatabaseAddress) -> Result<Self, AuthError> {
        let database = Database::new(address);
        match timeout(DEADLINE, database.check()).await {
            Ok(Ok(connection)) => database.keep(connection),
            Ok(Err(cause)) if database.is_server() && is_away(&cause) => {
                let cause = database.error(&cause);
                warn!(%cause, "no key can be looked up until the database is there");
            }
            Ok(Err(cause)) => return Err(database.error(&cause)),
            Err(_) if database.is_server() => {
                let cause = database.silent(DEADLINE);
                warn!(%cause, "no key can be looked up until the database is there");
            }
            Err(_) => return Err(database.silent(DEADLINE)),
        }
        Ok(Self { database })
    }
}

impl AuthStore for SqlStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(self.database.key(ident))
    }
}

/// A database, and the connections to it that wait for their next use.
#[derive(Debug)]
pub(crate) struct Database {
    address: DatabaseAddress,
    /// The one used last is at the end, and is used next. A connection in use is nowhere else: when whoever uses it is
    /// dropped, it is cut, and nobody meets what the server still had to say.
    idle: Mutex<VecDeque<Idle>>,
    permits: Semaphore,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Database {
    pub(crate) fn new(address: DatabaseAddress) -> Self {
        Self { address, idle: Mutex::default(), permits: Semaphore::new(CONNECTIONS) }
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.address.table
    }

    pub(crate) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Connection::open(&self.address.server).await
    }

    /// Connects; creates the table of an SQLite file as the Python broker does; looks whether it has its columns.
    async fn check(&self) -> Result<Connection, sqlx::Error> {
        let mut connection = self.connect().await?;
        let (table, dialect) = (self.table(), connection.dialect());
        let check = format!("{} WHERE 1 = 0", table.select(dialect));
        let checked = connection.rows(&check, &[]).await;
        if table.owner.is_some() && checked.is_err() {
            connection.batch(&table.create(dialect)).await?;
            connection.rows(&check, &[]).await?;
        } else {
            checked?;
        }
        Ok(connection)
    }

    async fn key(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
        // PostgreSQL cannot hold such a name, and would call it an error.
        if ident.contains('\0') && matches!(self.address.server, Server::Postgres(_)) {
            return Ok(None);
        }
        match timeout(DEADLINE, self.find(ident)).await {
            Ok(Ok(Some(row))) => {
                let key = self.entry(row).and_then(|entry| {
                    let names = [self.table().publish, self.table().subscribe];
                    entry.key(names).map_err(|cause| self.fault(ident, &cause))
                });
                key.map(|key| Some(Arc::new(key)))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(cause)) => Err(self.error(&cause)),
            Err(_) => {
                // The others are likely as dead.
                self.lock().clear();
                Err(self.silent(DEADLINE))
            }
        }
    }

    async fn find(&self, ident: &str) -> Result<Option<Row>, sqlx::Error> {
        // It is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(mut connection) = self.reuse().await {
            if let Ok(row) = select(&mut connection, self.table(), ident).await {
                self.keep(connection);
                return Ok(row);
            }
            // The server may have been restarted since. Whatever it was: a new connection tells.
            self.lock().clear();
        }
        let mut connection = self.connect().await?;
        let row = select(&mut connection, self.table(), ident).await?;
        self.keep(connection);
        Ok(row)
    }

    /// A connection that was used a short while ago; those that were not are closed.
    async fn reuse(&self) -> Option<Connection> {
        let mut old = Vec::new();
        let recent = {
            let mut idle = self.lock();
            while let Some(first) = idle.front()
                && first.since.elapsed() > IDLE
            {
                old.extend(idle.pop_front());
            }
            idle.pop_back()
        };
        for Idle { connection, .. } in old {
            // It may be dead already.
            let _ = connection.close().await;
        }
        recent.map(|idle| idle.connection)
    }

    fn keep(&self, connection: Connection) {
        self.lock().push_back(Idle { connection, since: Instant::now() });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_server(&self) -> bool {
        !matches!(self.address.server, Server::Sqlite { .. })
    }

    /// What a row says. The error names the ident and the column.
    pub(crate) fn entry(&self, row: Row) -> Result<Entry, AuthError> {
        let table = self.table();
        let [ident, owner, secret, publish, subscribe] = row;
        let Some(ident) = ident else {
            return Err(self.place(&format_args!("a row without {}", table.ident)));
        };
        let list = |text: Option<String>, column| {
            list(text).map_err(|cause| self.fault(&ident, &format_args!("{column:?} {cause}")))
        };
        let secret = secret.ok_or_else(|| self.fault(&ident, &format_args!("{:?} is NULL", table.secret)))?;
        let publish = list(publish, table.publish)?;
        let subscribe = list(subscribe, table.subscribe)?;
        let owner = owner.unwrap_or_else(|| ident.clone());
        Ok(Entry { ident, owner, secret, publish, subscribe })
    }

    fn fault(&self, ident: &str, cause: &dyn std::fmt::Display) -> AuthError {
        self.place(&format_args!("ident {ident:?}: {cause}"))
    }

    pub(crate) fn place(&self, cause: &dyn std::fmt::Display) -> AuthError {
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

    #[cfg(feature = "keys")]
    pub(crate) fn refused(&self, cause: &AuthError) -> AuthError {
        AuthError::new(format_args!("{}: {cause}", self.address))
    }
}

async fn select(connection: &mut Connection, table: &Table, ident: &str) -> Result<Option<Row>, sqlx::Error> {
    let dialect = connection.dialect();
    let sql = table.select(dialect) + &table.of_ident(dialect, 1);
    let values = vec![ident; Table::ident_binds(dialect)];
    Ok(connection.rows(&sql, &values).await?.into_iter().next())
}

/// A list of channels. The error goes on after the column's name.
fn list(text: Option<String>) -> Result<Vec<String>, String> {
    let text = text.ok_or("is NULL, not a list of strings in JSON")?;
    let value: Value = serde_json::from_str(&text).map_err(|cause| format!("is not JSON: {cause}"))?;
    entry::list(&value)
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
