//! Keys in SQL databases.

mod address;
mod connection;
mod create;
pub(crate) mod table;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::warn;

pub use self::address::DatabaseAddress;
use self::{
    address::Server,
    table::{Table, kept},
};
pub(crate) use self::{connection::Connection, create::NewFile};
use super::{
    AuthError, AuthStore, Entry, Key, Lookup, Remarks,
    entry::{List, OldSecret, list_or_text},
};

/// How long a lookup may take, with connecting: half of what the broker gives it by default.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many connections one store opens. A lookup takes a millisecond or less: four make thousands a second, and leave
/// most of what a server allows (100 by default in PostgreSQL) to others.
const CONNECTIONS: usize = 4;

/// How long a connection is kept that nobody uses. Shorter than what firewalls and servers wait before they cut one
/// without a word.
const IDLE: Duration = Duration::from_secs(60);

/// The columns of [`Table::columns`], each of which may be NULL, and whether there is a table of [`Kept`].
pub(crate) type Row = [Option<String>; 6];

/// A row of the table [`kept`].
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) ident: String,
    secret: String,
    /// In seconds since 1970; `None` for the secret of a disabled key.
    ends: Option<u64>,
    /// The secret of the key that it was written for.
    beside: String,
}

impl Kept {
    /// `None`: a hand has spoilt it.
    pub(crate) fn new(row: Row) -> Option<Self> {
        let [ident, secret, ends, beside, ..] = row;
        let ends = ends?;
        let ends = if ends.is_empty() { None } else { Some(ends.parse().ok()?) };
        Some(Self { ident: ident?, secret: secret?, ends, beside: beside? })
    }
}

/// Whether a row says that there is a table of [`Kept`].
pub(crate) fn has_kept(row: &Row) -> bool {
    matches!(row[5].as_deref(), Some("1" | "true"))
}

/// Keys in a database, see [`DatabaseAddress`]. Each lookup asks it, so a change counts for whoever connects next,
/// and for live connections at the next [recheck](crate::builder::BrokerBuilder::recheck_keys).
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
        if let Some(file) = address.would_create() {
            create(&address, file).await?;
        }
        let database = Database::new(address);
        if let Some(connection) = database.first(database.prepare()).await? {
            database.keep(connection);
        }
        Ok(Self { database })
    }

    /// Whether [`open`](Self::open) would succeed. It changes nothing: where `open` would create a table, it is enough
    /// that the file can be written.
    pub async fn check(address: DatabaseAddress) -> Result<(), AuthError> {
        let database = Database::new(address);
        database.first(database.inspect()).await.map(drop)
    }
}

/// Creates a file with the tables of the Python broker, unless another program is faster.
async fn create(address: &DatabaseAddress, file: &Path) -> Result<(), AuthError> {
    let database = Database::new(address.clone());
    let fail = |cause| database.error(&sqlx::Error::Io(cause));
    let new = NewFile::beside(file).map_err(fail)?;
    let unnamed = Database::new(address.in_file(new.path()));
    if let Some(connection) = unnamed.first(unnamed.prepare()).await? {
        // All is written already.
        let _ = connection.close().await;
    }
    new.put_in_place().map(drop).map_err(fail)
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
    /// It has been said that the old secrets cannot be read.
    said: AtomicBool,
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
        Self { address, idle: Mutex::default(), permits: Semaphore::new(CONNECTIONS), said: AtomicBool::new(false) }
    }

    pub(crate) fn table(&self) -> &'static Table {
        self.address.table
    }

    pub(crate) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Connection::open(&self.address.server).await
    }

    /// The first connection; `None` when there may be one later.
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

    /// Connects; creates the table of an SQLite file as the Python broker does; looks whether it has its columns.
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

    async fn key(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
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
                // The others are likely as dead.
                self.lock().clear();
                Err(self.silent(DEADLINE))
            }
        }
    }

    async fn find(&self, ident: &str) -> Result<Option<(Row, Vec<Kept>)>, sqlx::Error> {
        // It is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(mut connection) = self.reuse().await {
            if let Ok(row) = self.select(&mut connection, ident).await {
                self.keep(connection);
                return Ok(row);
            }
            // The server may have been restarted since. Whatever it was: a new connection tells.
            self.lock().clear();
        }
        let mut connection = self.connect().await?;
        let row = self.select(&mut connection, ident).await?;
        self.keep(connection);
        Ok(row)
    }

    /// The row of an ident and what is kept beside it. Where that cannot be read, for want of a permission, say, no
    /// old secret counts: a table of ours must not keep everybody out.
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
                    if !self.said.swap(true, Relaxed) {
                        let cause = self.error(&cause);
                        warn!(%cause, table = kept::NAME, "no old secret counts: the table cannot be read");
                    }
                }
            }
        }
        Ok(Some((row, kept)))
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
