//! The SQL dialects, and the text that differs between them.

/// The SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// A column as text, whatever its type.
    pub(super) fn as_text(self, column: &str) -> String {
        match self {
            Self::MySql => format!("CAST({column} AS CHAR)"),
            Self::Sqlite | Self::Postgres => format!("CAST({column} AS TEXT)"),
        }
    }
}

/// The rows of the ident that is bound at `number`, in the column `ident` of any table.
pub(super) fn of_ident(ident: &str, dialect: Dialect, number: usize) -> String {
    match dialect {
        Dialect::Sqlite => format!(" WHERE {ident} = ?{number}"),
        Dialect::Postgres => format!(" WHERE {ident} = ${number}"),
        // Its usual collations take `bob`, `BOB` and `bób ` for the same. The first half finds the
        // index.
        Dialect::MySql => {
            format!(" WHERE {ident} = ? AND CAST(CONVERT({ident} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)")
        }
    }
}
