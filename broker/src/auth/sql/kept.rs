//! The table of this broker's own, beside that of the keys: secrets that have been replaced and
//! count for a while, and those of keys that are disabled. The Python broker never looks at it; a
//! column more in the table of the keys would end its lookups.
//!
//! A row counts only while the key has the secret that stands in `beside`: a secret that is changed
//! by hand, because the old one has leaked, say, has no old one beside it. `ends` is in seconds
//! since 1970, or empty for a disabled key, in whose row of the other table there is a random text
//! instead of a secret.

use super::dialect::{self, Dialect};

pub(crate) const NAME: &str = "hpfeeds_secrets";

/// An expression: `1` or `true` when the table is there. So the usual lookup needs no second
/// statement.
pub(super) fn is_there(dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => {
            format!("(SELECT CAST(COUNT(*) AS TEXT) FROM sqlite_master WHERE type = 'table' AND name = '{NAME}')")
        }
        Dialect::Postgres => format!("CAST(to_regclass('{NAME}') IS NOT NULL AS TEXT)"),
        Dialect::MySql => format!(
            "(SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = '{NAME}')"
        ),
    }
}

/// Asks only whether it is there, in the shape of a row of keys.
#[cfg(feature = "cli")]
pub(crate) fn ask(dialect: Dialect) -> String {
    format!("SELECT NULL, NULL, NULL, NULL, NULL, {}", is_there(dialect))
}

/// Its rows, in the shape of those of keys: ident, secret, ends, beside.
pub(crate) fn select(dialect: Dialect) -> String {
    let columns = ["identifier", "secret", "ends", "beside"].map(|column| dialect.as_text(column));
    format!("SELECT {}, NULL, NULL FROM {NAME}", columns.join(", "))
}

/// To be put after a statement: the rows of the ident that is bound first.
pub(crate) fn of_ident(dialect: Dialect) -> String {
    dialect::of_ident("identifier", dialect, 1)
}

/// Creates it when it is absent.
#[cfg(feature = "cli")]
pub(crate) fn create(dialect: Dialect) -> String {
    let (ident, text) = match dialect {
        Dialect::Sqlite | Dialect::Postgres => ("TEXT", "TEXT"),
        Dialect::MySql => (
            "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        ),
    };
    format!(
        "CREATE TABLE IF NOT EXISTS {NAME} (identifier {ident} NOT NULL, secret {text} NOT NULL, \
         ends VARCHAR(20) NOT NULL, beside {text} NOT NULL)"
    )
}

/// Adds a row.
#[cfg(feature = "cli")]
pub(crate) fn insert(dialect: Dialect) -> String {
    let values = if dialect == Dialect::Postgres { "$1, $2, $3, $4" } else { "?, ?, ?, ?" };
    format!("INSERT INTO {NAME} (identifier, secret, ends, beside) VALUES ({values})")
}
