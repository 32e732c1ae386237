//! Where the keys are.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    str::FromStr,
};

use hpfeeds_broker::{AuthError, BrokerBuilder, EnvStore, JsonStore};

/// A value of `--auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Store {
    Env,
    Json(PathBuf),
}

impl Store {
    /// Opens it, and reads what it needs to read at once.
    pub(crate) fn add_to(&self, builder: BrokerBuilder) -> Result<BrokerBuilder, AuthError> {
        Ok(match self {
            Self::Env => builder.auth(EnvStore::new()),
            Self::Json(path) => builder.auth(JsonStore::open(path)?),
        })
    }
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let works = "env or a file that ends in .json";
        let extension = Path::new(text).extension().and_then(OsStr::to_str);
        // The order of the Python broker.
        let kind = match (text, extension) {
            (_, Some("json")) => return Ok(Self::Json(text.into())),
            ("env", _) => return Ok(Self::Env),
            (text, _) if text.starts_with("mongo") => "MongoDB",
            (text, _) if text.starts_with("database+") => "an SQL database",
            ("sqlite", _) | (_, Some("db" | "sqlite" | "sqlite3")) => "SQLite",
            _ => return Err(format!("unknown kind of key store: use {works}")),
        };
        Err(format!("{kind} is not supported yet: use {works}"))
    }
}
