//! Key administration: adds, changes and removes keys in JSON files and databases, for
//! `hpfeeds-broker keys`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hpfeeds_broker::keys::{Change, Entry, Keys};
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("users.json");
//! let keys = Keys::json(file);
//! let sensor = Entry {
//!     ident: "sensor".to_owned(),
//!     owner: "me".to_owned(),
//!     secret: "s3cret".to_owned(),
//!     publish: vec!["cowrie.sessions".to_owned()],
//!     ..Entry::default()
//! };
//! keys.apply(&[Change::Add(sensor.clone())]).await?;
//! assert_eq!(keys.get("sensor").await?, Some(sensor));
//! # Ok(()) }
//! ```

mod change;
mod file;
mod format;
mod listing;
#[cfg(feature = "_sql")]
mod sql;

use std::path::PathBuf;

use self::change::check;
pub use self::{
    change::{Change, Fields},
    format::{from_json, to_json},
    listing::{Listing, remarks},
};
use crate::auth::AuthError;
pub use crate::auth::entry::{Entry, OldSecret};
#[cfg(feature = "_sql")]
use crate::auth::sql::{address::DatabaseAddress, database::Database};

/// A store whose keys can be changed.
#[derive(Debug)]
pub struct Keys {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Json(PathBuf),
    #[cfg(feature = "_sql")]
    Sql(Box<DatabaseAddress>),
}

impl Keys {
    /// The keys in a JSON file, see [`JsonStore`](crate::auth::json::JsonStore). The first change
    /// creates the file, readable by its owner alone.
    #[must_use]
    pub fn json(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Json(path.into()) }
    }

    /// The keys in a database. The first change creates its table, and an SQLite file.
    #[cfg(feature = "_sql")]
    #[must_use]
    pub fn sql(address: DatabaseAddress) -> Self {
        Self { place: Place::Sql(Box::new(address)) }
    }

    /// Whether a key has an owner; otherwise it is the ident.
    #[must_use]
    pub fn has_owners(&self) -> bool {
        match &self.place {
            Place::Json(_) => true,
            #[cfg(feature = "_sql")]
            Place::Sql(address) => address.table.owner.is_some(),
        }
    }

    /// Every key, in the order of the idents. One that cannot be read is an error: see
    /// [`listing`](Self::listing).
    pub async fn all(&self) -> Result<Vec<Entry>, AuthError> {
        let Listing { entries, faults, .. } = self.listing().await?;
        faults.into_iter().next().map_or(Ok(entries), Err)
    }

    /// Every key that can be read, and an error for each of the others.
    #[cfg_attr(not(feature = "_sql"), allow(clippy::unused_async, reason = "only a database is waited for"))]
    pub async fn listing(&self) -> Result<Listing, AuthError> {
        match &self.place {
            Place::Json(path) => file::all(path),
            #[cfg(feature = "_sql")]
            Place::Sql(address) => sql::all(&Database::new(address.creating(false))).await,
        }
    }

    /// The key of an ident.
    #[cfg_attr(not(feature = "_sql"), allow(clippy::unused_async, reason = "only a database is waited for"))]
    pub async fn get(&self, ident: &str) -> Result<Option<Entry>, AuthError> {
        match &self.place {
            Place::Json(path) => file::get(path, ident),
            #[cfg(feature = "_sql")]
            Place::Sql(address) => sql::get(&Database::new(address.creating(false)), ident).await,
        }
    }

    /// Makes all of the changes, in their order, or none.
    ///
    /// A JSON file is replaced by another one, so that no reader sees half of it. Programs that
    /// change the same store by this wait for each other, for at most 10 s. When the future is
    /// dropped, nothing has changed, or everything.
    pub async fn apply(&self, changes: &[Change]) -> Result<(), AuthError> {
        for change in changes {
            check(change).map_err(AuthError::new)?;
        }
        match &self.place {
            Place::Json(path) => file::apply(path, changes).await,
            #[cfg(feature = "_sql")]
            Place::Sql(address) => {
                let adds = changes.iter().any(|change| matches!(change, Change::Add(_) | Change::Put(_)));
                sql::apply(&address.creating(adds), changes, adds).await
            }
        }
    }
}
