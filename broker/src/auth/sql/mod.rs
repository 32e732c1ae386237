//! Keys in SQL databases: SQLite, PostgreSQL, and MySQL or MariaDB.

pub(crate) mod address;
pub(crate) mod connection;
pub(crate) mod create;
pub(crate) mod database;
pub(crate) mod dialect;
mod driver;
pub(crate) mod kept;
mod pool;
pub(crate) mod row;
mod server;
pub(crate) mod table;

use std::path::Path;

use self::{address::DatabaseAddress, create::NewFile, database::Database};
use super::{AuthError, AuthStore, Idents, Lookup};

/// Keys in a database, see [`DatabaseAddress`]. Each lookup asks the database, so a change counts
/// for the next connection, and for live connections at the next
/// [recheck](crate::builder::BrokerBuilder::recheck_keys).
///
/// The store keeps at most 4 connections, and gives up on a lookup after 5 s. A connection that was
/// not used for 60 s is closed by the next lookup; without lookups it stays open. While the database
/// is away, each lookup fails at once with the cause; when the database is back, the next lookup
/// connects. A lookup that is dropped cuts its connection; the next one is not affected.
#[derive(Debug)]
pub struct SqlStore {
    database: Database,
}

impl SqlStore {
    /// Connects, and looks whether the table is there and has its columns. Takes at most 5 s.
    ///
    /// A server that cannot be reached, or is starting, is no error: the cause is logged, and the
    /// first lookup tries again. Everything else is: a file that is absent or no database, a wrong
    /// password, an unknown database or table.
    pub async fn open(address: DatabaseAddress) -> Result<Self, AuthError> {
        if let Some(file) = address.would_create() {
            create(&address, file).await?;
        }
        let database = Database::new(address);
        database.open().await?;
        Ok(Self { database })
    }

    /// Whether [`open`](Self::open) would succeed. Changes nothing: where `open` would create a
    /// table, it is enough that the file can be written.
    #[cfg(feature = "cli")]
    pub(crate) async fn check(address: DatabaseAddress) -> Result<(), AuthError> {
        Database::new(address).check().await
    }
}

/// Creates a file with the tables of the Python broker, unless another program is faster.
async fn create(address: &DatabaseAddress, file: &Path) -> Result<(), AuthError> {
    let database = Database::new(address.clone());
    let fail = |cause| database.error(&sqlx::Error::Io(cause));
    let new = NewFile::beside(file).map_err(fail)?;
    Database::new(address.in_file(new.path())).fill().await?;
    new.put_in_place().map(drop).map_err(fail)
}

impl AuthStore for SqlStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(self.database.key(ident))
    }

    fn idents(&self) -> Idents<'_> {
        Box::pin(self.database.idents())
    }
}
