//! Arguments about key stores: `--auth`, and the stores that it names.

#[cfg(feature = "_sql")]
use std::io;
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Arg, Command, builder::TypedValueParser, error::ErrorKind};
use tracing::warn;

#[cfg(not(all(feature = "_sql", feature = "mongodb")))]
use crate::auth::built_without;
#[cfg(feature = "_sql")]
use crate::auth::sql::{SqlStore, address::DatabaseAddress};
use crate::{
    auth::{AuthError, admin::Keys, env::EnvStore, json::JsonStore},
    builder::BrokerBuilder,
};

/// How many faulty keys a check names.
#[cfg(feature = "_sql")]
const SHOWN: usize = 20;

/// A value of `--auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Store {
    Env,
    Json(PathBuf),
    #[cfg(feature = "_sql")]
    Sql(DatabaseAddress),
    #[cfg(feature = "mongodb")]
    Mongo(crate::auth::mongo::MongoAddress),
}

impl Store {
    /// The default store, as of the Python broker.
    pub(crate) fn usual() -> Result<Self, String> {
        "sqlite".parse()
    }

    /// Opens the store and adds it to the builder. With `check`, nothing is created.
    #[cfg_attr(not(feature = "_sql"), allow(unused_variables, clippy::unused_async, reason = "for databases"))]
    pub(crate) async fn add_to(&self, builder: BrokerBuilder, check: bool) -> Result<BrokerBuilder, AuthError> {
        Ok(match self {
            Self::Env => {
                for cause in EnvStore::remarks() {
                    warn!(store = "env", cause, "a key may not be what it was meant to be");
                }
                builder.auth(EnvStore::new())
            }
            Self::Json(path) => builder.auth(JsonStore::open(path)?),
            #[cfg(feature = "_sql")]
            Self::Sql(address) if check => {
                if let Some(file) = address.would_create() {
                    could_be_created(file)?;
                } else {
                    SqlStore::check(address.clone()).await?;
                    warn_of_rows(address).await;
                }
                builder.auth(crate::auth::chain::ChainStore::new())
            }
            #[cfg(feature = "_sql")]
            Self::Sql(address) => builder.auth(SqlStore::open(address.clone()).await?),
            #[cfg(feature = "mongodb")]
            Self::Mongo(address) => builder.auth(crate::auth::mongo::MongoStore::open(address.clone()).await?),
        })
    }

    /// Warns when every user of this machine can read the file with the secrets. That may be meant,
    /// in a closed folder.
    pub(crate) fn warn_if_exposed(&self) {
        let file = match self {
            Self::Json(path) => Some(&**path),
            #[cfg(feature = "_sql")]
            Self::Sql(address) => address.path(),
            Self::Env => None,
            #[cfg(feature = "mongodb")]
            Self::Mongo(_) => None,
        };
        let exposed = |path: &&Path| fs::metadata(path).is_ok_and(|there| there.permissions().mode() & 0o004 != 0);
        if let Some(file) = file.filter(exposed) {
            warn!(file = %file.display(), "everybody on this machine can read the secrets in this file: chmod o-r");
        }
    }

    /// The same store, for changes.
    pub(crate) fn keys(&self) -> Result<Keys, String> {
        match self {
            Self::Env => Err("keys in the environment are changed where it is set".to_owned()),
            Self::Json(path) => Ok(Keys::json(path)),
            #[cfg(feature = "_sql")]
            Self::Sql(address) => Ok(Keys::sql(address.clone())),
            #[cfg(feature = "mongodb")]
            Self::Mongo(_) => Err("keys in MongoDB are changed with its own tools".to_owned()),
        }
    }
}

/// Warns of keys that cannot be read, and of such that are probably not meant as they are: the
/// broker would start with them. A database that is absent has been named already.
#[cfg(feature = "_sql")]
async fn warn_of_rows(address: &DatabaseAddress) {
    let Ok(listing) = Keys::sql(address.clone()).listing().await else {
        return;
    };
    let faults = listing.faults.iter().map(ToString::to_string).take(SHOWN);
    for cause in faults.chain(listing.remarks) {
        warn!(store = %address, cause, "a key may not be what it was meant to be");
    }
    if let Some(more) = listing.faults.len().checked_sub(SHOWN + 1) {
        warn!(store = %address, more = more + 1, "further keys cannot be read");
    }
}

/// Checks that a file could be created, by a temporary one without a name in its folder.
#[cfg(feature = "_sql")]
fn could_be_created(file: &Path) -> Result<(), AuthError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fault =
        |cause: io::Error| AuthError::new(format_args!("{}: cannot create it: {}", file.display(), cause.kind()));
    tempfile::tempfile_in(folder).map(drop).map_err(fault)
}

impl FromStr for Store {
    type Err = String;

    /// The error shows nothing of the text, which may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let extension = Path::new(text).extension().and_then(OsStr::to_str);
        // The order of the Python broker.
        match (text, extension) {
            (_, Some("json")) => Ok(Self::Json(text.into())),
            ("env", _) => Ok(Self::Env),
            #[cfg(feature = "mongodb")]
            (text, _) if text.starts_with("mongo") => text.parse().map(Self::Mongo),
            #[cfg(not(feature = "mongodb"))]
            (text, _) if text.starts_with("mongo") => Err(built_without("MongoDB", "mongodb")),
            #[cfg(feature = "_sql")]
            (text, _) if text.starts_with("database+") => text.parse().map(Self::Sql),
            #[cfg(not(feature = "_sql"))]
            (text, _) if text.starts_with("database+") => Err(built_without("databases", "sql")),
            #[cfg(feature = "_sql")]
            ("sqlite", _) | (_, Some("db" | "sqlite" | "sqlite3")) => text.parse().map(Self::Sql),
            #[cfg(not(feature = "_sql"))]
            ("sqlite", _) | (_, Some("db" | "sqlite" | "sqlite3")) => Err(built_without("SQLite", "sqlite")),
            _ => {
                Err("unknown kind of key store: use env, sqlite, a file that ends in .json, .db, .sqlite or .sqlite3, \
                      database+postgresql://…, database+mysql://… or database+sqlite:///…"
                    .to_owned())
            }
        }
    }
}

/// Parser of a [`Store`] on the command line, whose errors do not show the value: it may hold a
/// password.
#[derive(Clone)]
pub(crate) struct StoreParser;

impl TypedValueParser for StoreParser {
    type Value = Store;

    fn parse_ref(&self, _: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Store, clap::Error> {
        let name = arg.and_then(Arg::get_long).unwrap_or("auth");
        let fail = |cause: &str| clap::Error::raw(ErrorKind::ValueValidation, format!("--{name}: {cause}"));
        let text = value.to_str().ok_or_else(|| fail("is not UTF-8"))?;
        text.parse().map_err(|cause: String| fail(&cause))
    }

    fn parse(&self, cmd: &Command, arg: Option<&Arg>, value: OsString) -> Result<Store, clap::Error> {
        self.parse_ref(cmd, arg, &value)
    }
}
