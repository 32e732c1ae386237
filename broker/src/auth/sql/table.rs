//! The two tables of keys, and the SQL about them in three dialects.

/// The SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// A column as text, whatever its type.
    fn as_text(self, column: &str) -> String {
        match self {
            Self::MySql => format!("CAST({column} AS CHAR)"),
            Self::Sqlite | Self::Postgres => format!("CAST({column} AS TEXT)"),
        }
    }
}

/// A table of keys and the names of its columns.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Without it, the ident owns itself.
    pub(crate) owner: Option<&'static str>,
    pub(crate) ident: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) publish: &'static str,
    pub(crate) subscribe: &'static str,
}

impl Table {
    /// Of the Python broker's own SQLite file.
    pub(crate) const AUTHKEYS: Self = Self {
        name: "authkeys",
        owner: Some("owner"),
        ident: "ident",
        secret: "secret",
        publish: "pubchans",
        subscribe: "subchans",
    };

    /// Of every database that the Python broker reaches by an address.
    pub(crate) const AUTH_KEYS: Self = Self {
        name: "auth_keys",
        owner: None,
        ident: "identifier",
        secret: "secret",
        publish: "publish",
        subscribe: "subscribe",
    };

    /// The columns that are read, in the order of a [`Row`](super::row::Row).
    pub(crate) fn columns(&self) -> [&'static str; 5] {
        [self.ident, self.owner.unwrap_or(self.ident), self.secret, self.publish, self.subscribe]
    }

    /// The columns of the lists.
    pub(crate) fn lists(&self) -> [&'static str; 2] {
        [self.publish, self.subscribe]
    }

    /// All rows, their columns as text whatever their types.
    pub(crate) fn select(&self, dialect: Dialect) -> String {
        let columns = self.columns().map(|column| dialect.as_text(column));
        format!("SELECT {}, {} FROM {}", columns.join(", "), kept::is_there(dialect), self.name)
    }

    /// To be put after a statement: the rows of the ident that is bound at `number`, the first
    /// being 1.
    pub(crate) fn of_ident(&self, dialect: Dialect, number: usize) -> String {
        of_ident(self.ident, dialect, number)
    }

    /// How often the ident is bound there.
    pub(crate) fn ident_binds(dialect: Dialect) -> usize {
        if dialect == Dialect::MySql { 2 } else { 1 }
    }

    /// Creates it when it is absent.
    pub(crate) fn create(&self, dialect: Dialect) -> String {
        if self.owner.is_some() {
            // With the other tables of the Python broker, which creates all of them when one is
            // absent, and fails then.
            return "CREATE TABLE IF NOT EXISTS logs (id integer primary key autoincrement, data TEXT);
                CREATE TABLE IF NOT EXISTS stats (id integer primary key autoincrement, ak TEXT, uid TEXT, data TEXT);
                CREATE TABLE IF NOT EXISTS authkeys (id integer primary key autoincrement, owner TEXT, ident TEXT,
                    secret TEXT, pubchans TEXT, subchans TEXT);"
                .to_owned();
        }
        // An ident has up to 255 bytes; MySQL must not take two for the same.
        let (id, ident) = match dialect {
            Dialect::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT"),
            Dialect::Postgres => ("SERIAL PRIMARY KEY", "TEXT"),
            Dialect::MySql => {
                ("INTEGER PRIMARY KEY AUTO_INCREMENT", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            }
        };
        let text = if dialect == Dialect::MySql { "LONGTEXT CHARACTER SET utf8mb4" } else { "TEXT" };
        format!(
            "CREATE TABLE IF NOT EXISTS {} (id {id}, {} {ident} NOT NULL UNIQUE, {} {text} NOT NULL, \
             {} {text} NOT NULL, {} {text} NOT NULL)",
            self.name, self.ident, self.secret, self.publish, self.subscribe
        )
    }
}

/// The rows of the ident that is bound at `number`, in the column `ident` of any table.
fn of_ident(ident: &str, dialect: Dialect, number: usize) -> String {
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

/// The table of this broker's own, beside that of the keys: secrets that have been replaced and
/// count for a while, and those of keys that are disabled. The Python broker never looks at it; a
/// column more in the table of the keys would end its lookups.
///
/// A row counts only while the key has the secret that stands in `beside`: a secret that is changed
/// by hand, because the old one has leaked, say, has no old one beside it. `ends` is in seconds
/// since 1970, or empty for a disabled key, in whose row of the other table there is a random text
/// instead of a secret.
pub(crate) mod kept {
    use super::Dialect;

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
        super::of_ident("identifier", dialect, 1)
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
}
