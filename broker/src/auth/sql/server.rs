//! A database server or file, as its driver is told of it.

use std::path::PathBuf;

use url::Url;

use super::dialect::Dialect;

/// What a driver needs to connect.
#[derive(Clone)]
pub(super) enum Server {
    Sqlite {
        path: PathBuf,
        /// Whether a file that is absent is created.
        create: bool,
    },
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "nothing connects to it"))]
    Postgres(Url),
    #[cfg_attr(not(feature = "mysql"), allow(dead_code, reason = "nothing connects to it"))]
    MySql(Url),
}

impl Server {
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite { .. } => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }
}
